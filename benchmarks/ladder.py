"""How good is each model of the ladder, with ids only and with images?

    python -m benchmarks.ladder --samples samples --server localhost:7070 --data movielens

Trains every model that ``VARIANTS`` names over the samples, with ids only and with the vectors that the server has, and
prints one table from the results file: AUC, GAUC and log loss of all test rows, of items unseen in training, by item
count; RelaImpr over Embedding&MLP with ids only; samples a second and parameters. What has a line in the file is not
trained again, so that it can be run in parts, by several processes too (``--part 1/2`` and ``--part 2/2``), and
``--table`` only prints. The id-only side knows the image's id as an id.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.baseline_lines import baseline_lines
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.former import as_then
from crossmedia.trainer.images.open_images import served_versions, spaces_of
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.metrics import rela_impr
from crossmedia.trainer.report import figures, summary
from crossmedia.trainer.runs import results

BASE = "embedding_mlp"
EMBEDDING_L2 = 1.0  # of 0, 0.1 and 1 the best for DIN with ids only, by the AUC of MovieLens' validation part


@dataclass(frozen=True)
class Variant:
    """A model with options; ``kinds``: with images off and on; the regularisation of its embeddings."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[bool, ...] = (False, True)
    embedding_l2: float = EMBEDDING_L2


VARIANTS = [
    *(Variant(name, embedding_l2=0.0) for name in ("lr", "mlr", "gbdt_lr")),
    *(Variant(name) for name in (BASE, "din", "dien", "rocket")),
    *(
        Variant("dicm", {"aggregator": name}, (True,))
        for name in ("concat", "max", "sum", "attentive", "multi_query")
    ),
    *(Variant("dicm", {"shown": shown}, (True,)) for shown in ("ad", "behaviours")),
    Variant("dicm", {"base": "din", "aggregator": "multi_query"}, (True,)),
]  # fmt: skip


def train(arguments: argparse.Namespace, path: Path) -> None:
    """Every run that has no line yet."""
    samples = Samples(arguments.samples)
    part, parts = (int(number) for number in arguments.part.split("/"))
    base = FitConfig(arguments.samples, "", server=arguments.server, epochs=arguments.epochs)
    version = named_versions(served_versions(base, samples)) if spaces_of(samples) else ""
    results.append_new(path, baseline_lines(base, arguments.data))
    number = 0
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            if arguments.models and variant.model not in arguments.models.split(","):
                continue
            for images in variant.kinds:
                if images and not version:
                    continue
                number += 1
                if number % parts != part % parts:
                    continue
                name = f"{variant.model}-{'-'.join(map(str, variant.options.values()))}-{images}-{seed}"
                run = FitConfig(
                    arguments.samples,
                    str(Path(arguments.out) / name),
                    model=variant.model,
                    images=images,
                    server=arguments.server,
                    seed=seed,
                    epochs=arguments.epochs,
                    embedding_l2=variant.embedding_l2,
                    overwrite=True,  # what counts is the results file
                    **as_then(variant.model, {"options": variant.options}),  # as the tables were made
                )
                key = results.key_fields(run, arguments.data, samples, version if images else "")
                known = results.read([path]) if path.exists() else {}
                if results.identity(key) not in known:
                    print(f"{name}: training", flush=True)
                    results.append(path, results.new_line(key, fit(run)))


def rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``summary.rows`` with RelaImpr over the base, parameters, buckets, and what Rocket's booster reached."""
    found = summary.rows(lines)
    base = {line["seed"]: line for line in lines if line["model"] == BASE and not line["images"]}
    for row in found:
        runs = [line for line in lines if summary.model_name(line) == row["model"] and line["images"] == row["images"]]
        gains = [
            rela_impr(line["test"]["all"]["gauc"], base[line["seed"]]["test"]["all"]["gauc"])
            for line in runs
            if line["seed"] in base
        ]
        row["rela_impr_gauc"] = summary.mean_std(gains) if gains else None
        row["model"] = row["model"].replace(f" embedding_l2={EMBEDDING_L2}", "")  # that of all nets here
        row["parameters"] = int(runs[0]["train"].get("parameters", 0))  # a mean has none
        row["by_item_count"] = {
            name: summary.mean_std([line["test"]["by_item_count"][name].get("auc") for line in runs])
            for name in runs[0]["test"]["by_item_count"]
        }
        if all("booster" in line for line in runs):
            row["booster_gauc"] = summary.mean_std([line["booster"]["test"]["all"]["gauc"] for line in runs])
    return found


def show(title: str, found: list[dict[str, Any]]) -> None:
    """Print the table."""
    from crossmedia.trainer.report.tables import number

    table = Table(title=title, title_justify="left")
    for name in ("model", "seeds", "AUC", "GAUC", "log loss", "RelaImpr % (GAUC)", "AUC unseen items"):
        table.add_column(name, no_wrap=True)
    for name in ("samples/s", "parameters"):
        table.add_column(name, justify="right")
    for row in found:
        table.add_row(
            summary.called(row),
            str(row["seeds"]),
            *(number(row["all"][name]) for name in ("auc", "gauc", "log_loss")),
            number(row["rela_impr_gauc"], 1),
            number(row["unseen_items"]["auc"]),
            f"{row['train']['samples_per_s']:,.0f}" if row["train"] else "-",
            f"{row['parameters']:,}",
        )
    Console(width=190).print(table)
    buckets = list(found[0]["by_item_count"])
    table = Table(
        "model", *(f"{name} training rows" for name in buckets), title="AUC by item count", title_justify="left"
    )
    for row in found:
        table.add_row(
            summary.called(row),
            *(number(row["by_item_count"][name]) for name in buckets),
        )
    Console(width=190).print(table)


def kept_gain(found: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the booster's gain in GAUC over the light net alone that Rocket's light net keeps, by kind."""
    by_name = {(row["model"].split()[0], row["images"]): row for row in found}
    shares = {}
    for images in (False, True):
        rocket, light = by_name.get(("rocket", images)), by_name.get((BASE, images))
        if rocket is None or light is None or "booster_gauc" not in rocket:
            continue
        alone, together = light["all"]["gauc"]["mean"], rocket["all"]["gauc"]["mean"]
        booster = rocket["booster_gauc"]["mean"]
        if booster > alone:
            shares["images" if images else "ids"] = (together - alone) / (booster - alone)
    return shares


def main() -> None:
    """Train what is missing, then print."""
    parser = argparse.ArgumentParser(description="The ladder of models, with ids only and with images.")
    parser.add_argument("--samples", default="samples")
    parser.add_argument("--server", default="localhost:7070")
    parser.add_argument("--data", default="movielens", help="name of the data in the results file")
    parser.add_argument("--results", type=Path, default=Path("results/ladder.jsonl"))
    parser.add_argument("--out", default="runs/ladder", help="run folders")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--models", default="", help="only these, separated by commas")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th run, from the i-th on")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--plot", type=Path, help="draw the models side by side to this file")
    arguments = parser.parse_args()
    if not arguments.table:
        train(arguments, arguments.results)
    every = [line for line in results.read([arguments.results]).values() if line["data"] == arguments.data]
    groups = summary.groups(every)
    if len(groups) != 1:
        raise SystemExit(
            f"{arguments.results} has {len(groups)} kinds of lines of {arguments.data!r}; a table takes one: the same "
            f"samples, vectors and settings."
        )
    lines = groups[0]
    order = {variant.model: place for place, variant in enumerate(VARIANTS)}
    lines.sort(key=lambda line: (order.get(line["model"], 99), line["images"], line["seed"]))
    found = rows(lines)
    show(arguments.data, found)
    if arguments.plot:
        figures.save(figures.models_side_by_side(found), arguments.plot)
    shares = kept_gain(found)
    finish("ladder", {f"rocket_kept_{kind}": share for kind, share in shares.items()}, data=arguments.data, rows=found)


if __name__ == "__main__":
    main()
