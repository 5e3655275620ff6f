"""What are the pictures worth: frozen vectors, a head that learns, and how alike the pictures are?

    python -m benchmarks.worth --samples samples --store store --data movielens

Trains each variant of ``VARIANTS`` with the same seeds on the same rows, from the features and vectors of a store, and
prints one table: test AUC and GAUC of all rows, of items unseen in training and of items held out entirely, and the
difference to ids only, or to another ``--base``, seed by seed. What has a line in the results file is not trained again
(``--part 1/2`` and ``--part 2/2`` share the work), ``--table`` only prints what the file has of these samples and this
store. The id-only side knows the image's id as an id; each side has the recipe that was best for it. ``frozen vectors,
16 bytes`` takes its vectors from the store ``<store>-pq16``, ``ids and semantic ids`` its rows from
``<samples>-semantic`` (docs/results.md makes them).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.open_images import served_versions
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.report import summary
from crossmedia.trainer.report.tables import number
from crossmedia.trainer.runs import results

IDS = "ids only"
PARTS = {
    "all": "all rows of the test part",
    "unseen_items": "items unseen in training",
    "held_out_items": "items held out entirely",
}
KNOWN = {"true logits without the photos' part": "without_photos", "the best that is possible": "test"}


@dataclass(frozen=True)
class Variant:
    """Settings of a variant beside the recipe.

    Attributes:
        served: features stay on the server of ``--server``.
        store, samples: ending of the folder's name, where a variant has a store or samples of its own.
    """

    model: str = "din"
    learned: bool = False
    images: bool = True
    served: bool = False
    store: str = ""
    samples: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    IDS: Variant(images=False),
    "ids only, none hidden": Variant(images=False, settings={"id_dropout": 0.0}),
    "frozen vectors": Variant(),
    "learning head": Variant(learned=True),
    **{f"frozen vectors, {size} bytes": Variant(store=f"-pq{size}") for size in (32, 16, 8)},
    "ids and semantic ids": Variant(images=False, samples="-semantic"),
    "SimTier": Variant("simtier"),
    "learning head, SimTier": Variant("simtier", learned=True),
    "similarity-aware attention": Variant("muse", options={"tiers": 0}),
    "learning head, MUSE": Variant("muse", learned=True),
    **{
        f"learning head, {steps} steps late": Variant(learned=True, served=True, settings={"max_staleness": steps})
        for steps in (2, 4)
    },
    **{
        f"learning head, DICM {name}": Variant("dicm", learned=True, options={"base": "din", "aggregator": name})
        for name in ("concat", "max", "sum", "attentive", "multi_query")
    },
}
# What each side is trained with, by data: each the best of those tried for it, none of them on the test part
# (docs/results.md).
RECIPE: dict[str, Any] = {"embedding_l2": 1.0, "epochs": 10, "averaging": False}
RECIPES: dict[str, dict[bool, dict[str, Any]]] = {
    "grocery": {
        False: {**RECIPE, "patience": 3, "id_dropout": 0.3},
        True: {**RECIPE, "patience": 3, "id_dropout": 0.5, "batch_size": 128},
    },
}
LEARNED: dict[str, Any] = {"head": "learn", "head_learning_rate": 3e-4}


def config(variant: Variant, arguments: argparse.Namespace, seed: int, out: Path) -> FitConfig:
    """What one run is trained with."""
    recipe = RECIPES[arguments.data][variant.images] if arguments.data in RECIPES else RECIPE
    settings = {**recipe, **(LEARNED if variant.learned else {}), **variant.settings, **json.loads(arguments.settings)}
    settings |= {"server": arguments.server} if variant.served else {"store": f"{arguments.store}{variant.store}"}
    return FitConfig(
        f"{arguments.samples}{variant.samples}",
        str(out),
        model=variant.model,
        images=variant.images,
        options=variant.options,
        seed=seed,
        overwrite=True,  # what counts is the results file
        **settings,
    )


def train(arguments: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    """Every run that has no line yet; the lines of all of them, with the variant's name."""
    part, parts = (int(text) for text in arguments.part.split("/"))
    versions: dict[tuple[bool, str], str] = {}
    found, count = [], 0
    for seed in range(arguments.seeds):
        for name in names:
            variant = VARIANTS[name]
            run = config(variant, arguments, seed, Path(arguments.out) / f"{name.replace(' ', '-')}-{seed}")
            source = variant.learned, variant.store
            if variant.images and source not in versions:
                versions[source] = named_versions(served_versions(run, Samples(run.samples)))
            version = versions[source] if variant.images else ""
            key = results.key_fields(run, arguments.data, Samples(run.samples), version)
            known = results.read([arguments.results]) if arguments.results.exists() else {}
            line = known.get(results.identity(key))
            count += 1
            if line is None and not arguments.table and count % parts == part % parts:
                print(f"{name}, seed {seed}: training", flush=True)
                line = results.new_line(key, fit(run))
                results.append(arguments.results, line)
            if line is not None:
                found.append({**line, "variant": name})
    return found


def rows(lines: list[dict[str, Any]], base_name: str) -> list[dict[str, Any]]:
    """A row a variant: mean and deviation of each metric, and the difference to the base, of pairs with one seed."""
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines:
        by_name.setdefault(line["variant"], {})[line["seed"]] = line
    base = by_name.get(base_name, {})
    found = []
    for name, runs in by_name.items():
        row: dict[str, Any] = {"variant": name, "seeds": len(runs)}
        row["validation_auc"] = summary.mean_std(
            [max(point["validation_auc"] for point in run["curve"]) for run in runs.values()]
        )
        for part in PARTS:
            if not all(part in run["test"] and run["test"][part].get("rows") for run in runs.values()):
                continue
            row[part] = {
                metric: summary.mean_std([run["test"][part].get(metric) for run in runs.values()])
                for metric in summary.METRIC_NAMES
            }
            pairs = sorted(runs.keys() & base.keys()) if name != base_name else []
            for metric in summary.METRIC_NAMES:
                gains = [runs[s]["test"][part][metric] - base[s]["test"][part][metric] for s in pairs]
                row[part][f"{metric}_gain"] = summary.mean_std(gains) if pairs else None
        row["rows"] = {part: next(iter(runs.values()))["test"].get(part, {}).get("rows") for part in PARTS}
        buckets = next(iter(runs.values()))["test"]["by_item_count"]
        row["by_item_count"] = {
            bucket: summary.mean_std([run["test"]["by_item_count"][bucket].get("auc") for run in runs.values()])
            for bucket in buckets
        }
        found.append(row)
    return found


def show(title: str, found: list[dict[str, Any]], reference: dict[str, Any]) -> None:
    """Print the tables."""
    columns = ("auc", "auc_gain", "gauc", "gauc_gain", "log_loss")
    for part, of_part in PARTS.items():
        if part not in found[0]:
            continue
        table = Table(title=f"{title}, {of_part}: {found[0]['rows'][part]:,} rows", title_justify="left")
        for heading in ("", "seeds", "AUC", "gain", "GAUC", "gain", "log loss"):
            table.add_column(heading, no_wrap=True)
        for row in found:
            table.add_row(row["variant"], str(row["seeds"]), *(number(row[part].get(name)) for name in columns))
        for heading, known in KNOWN.items():
            if part in reference.get(known, {}):
                table.add_row(heading, "", number(reference[known][part]))
        Console(width=140).print(table)
    buckets = list(found[0]["by_item_count"])
    table = Table("", *(f"{name} training rows" for name in buckets), title="AUC by item count", title_justify="left")
    for row in found:
        table.add_row(row["variant"], *(number(row["by_item_count"][name]) for name in buckets))
    Console(width=140).print(table)


def main() -> None:
    """Train what is missing, then print."""
    parser = argparse.ArgumentParser(description="What pictures are worth to a CTR model.")
    parser.add_argument("--samples", type=Path, default=Path("samples"))
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--server", default="localhost:7070", help="of the same store, for what is trained late")
    parser.add_argument("--data", default="movielens", help="name of the data in the results file")
    parser.add_argument("--results", type=Path, default=Path("results/worth.jsonl"))
    parser.add_argument("--out", default="runs/worth", help="run folders")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--base", default=IDS, choices=VARIANTS, help="variant that the others' gain is over")
    parser.add_argument("--variants", default="", help="only these, separated by semicolons")
    parser.add_argument(
        "--settings", default="{}", help="of trainer fit, as JSON, in place of the recipe's: for tuning"
    )
    parser.add_argument("--part", default="1/1", help="i/n: every n-th run, from the i-th on")
    parser.add_argument("--reference", type=Path, help="reference.json of simulated clicks: the best possible AUC")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.variants.split(";") if name.strip()] or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise SystemExit(f"There is no variant {unknown[0]!r}; there are: {'; '.join(VARIANTS)}.")
    found = rows(train(arguments, names), arguments.base)
    if not found:
        raise SystemExit(f"{arguments.results} has no line of {arguments.data} yet.")
    reference = json.loads(arguments.reference.read_text()) if arguments.reference else {}
    show(arguments.data, found, reference)
    gains = {row["variant"]: row["all"]["auc_gain"]["mean"] for row in found if row["all"].get("auc_gain") is not None}
    finish("worth", {name: float(np.round(gain, 5)) for name, gain in gains.items()}, data=arguments.data, rows=found)


if __name__ == "__main__":
    main()
