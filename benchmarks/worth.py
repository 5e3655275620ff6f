"""What are the pictures worth: frozen vectors, a head that learns, and how alike the pictures are?

    python -m benchmarks.worth --samples samples --store store --data movielens

Trains each variant of ``VARIANTS`` with the same seeds on the same rows, from the features and vectors of a store, and
prints one table: test AUC and GAUC of all rows, of items unseen in training and of items held out entirely, and the
difference to ids only, or to another ``--base``, pair by pair, with its 95 % interval over users and items (ADR 0040).
The means of ``trainer.baselines`` stand in the same table. Several folders after ``--samples``, which differ only in
their ``--hold-out-seed``, are several hold-outs: each of them with each seed is a pair.

What has a line in the results file is not trained again (``--part 1/2`` and ``--part 2/2`` share the work), ``--table``
only prints what the file has of these samples and this store. The id-only side knows the image's id as an id; both
sides hide as many ids (``id_dropout``), which ``--tune 0,0.3,0.5`` chooses on items held out of validation. ``frozen
vectors, 16 bytes`` takes its vectors from the store ``<store>-pq16``, ``aligned vectors`` from ``<store>-aligned``,
``ids and semantic ids`` its rows from ``<samples>-semantic`` (docs/results.md makes them).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish
from benchmarks.worth_rows import WIDTH, Pair, Ran, rows, show
from crossmedia.features.reading.hold_outs import hold_outs
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer import baselines
from crossmedia.trainer.baseline_lines import baseline_lines
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.open_images import served_versions
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.intervals import JudgedRows, predictions
from crossmedia.trainer.report.summary import mean_std
from crossmedia.trainer.report.tables import number
from crossmedia.trainer.runs import results

IDS = "ids only"


@dataclass(frozen=True)
class Variant:
    """Settings of a variant beside the recipe.

    Attributes:
        served: features stay on the server of ``--server``.
        aligned: the head starts from that of ``--aligned``, with the layers that it has.
        store, samples: ending of the folder's name, where a variant has a store or samples of its own.
    """

    model: str = "din"
    learned: bool = False
    images: bool = True
    served: bool = False
    aligned: bool = False
    store: str = ""
    samples: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    IDS: Variant(images=False),
    "ids only, none hidden": Variant(images=False, settings={"id_dropout": 0.0}),
    "ids only, softmax": Variant(images=False, options={"softmax": True}),
    "ids only, softmax and factors": Variant(images=False, options={"softmax": True, "factors": 16}),
    "Embedding&MLP, ids only": Variant("embedding_mlp", images=False),
    "Embedding&MLP, ids only, factors": Variant("embedding_mlp", images=False, options={"factors": 16}),
    "frozen vectors": Variant(),
    "learning head": Variant(learned=True),
    "aligned vectors": Variant(store="-aligned"),
    "learning head, aligned": Variant(learned=True, aligned=True),
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
# What is trained with, by data, without pictures and with them: the batch is the best of those tried for each side, the
# share of hidden ids the best for both together, none of them on the test part (docs/results.md, docs/models.md).
RECIPE: dict[str, Any] = {"embedding_l2": 1.0, "epochs": 10, "averaging": False}
RECIPES: dict[str, dict[bool, dict[str, Any]]] = {
    "grocery": {
        False: {**RECIPE, "patience": 3, "id_dropout": 0.3},
        True: {**RECIPE, "patience": 3, "id_dropout": 0.3, "batch_size": 128},
    },
}
LEARNED: dict[str, Any] = {"head": "learn", "head_learning_rate": 3e-4}


@dataclass(frozen=True)
class Planned:
    """A run that is to have a line."""

    variant: str
    pair: Pair
    config: FitConfig


def config(name: str, pair: Pair, arguments: argparse.Namespace) -> FitConfig:
    """What one run is trained with."""
    variant, (number_, seed) = VARIANTS[name], pair
    recipe = RECIPES[arguments.data][variant.images] if arguments.data in RECIPES else RECIPE
    settings = {**recipe, **(LEARNED if variant.learned else {}), **variant.settings, **json.loads(arguments.settings)}
    settings |= {"warm_start": arguments.aligned} if variant.aligned else {}
    settings |= {"server": arguments.server} if variant.served else {"store": f"{arguments.store}{variant.store}"}
    hold_out = f"-h{number_}" if len(arguments.samples) > 1 else ""
    return FitConfig(
        f"{arguments.samples[number_]}{variant.samples}",
        str(Path(arguments.out) / f"{name.replace(' ', '-')}{hold_out}-{seed}"),
        model=variant.model,
        images=variant.images,
        options=variant.options,
        seed=seed,
        overwrite=True,  # what counts is the results file
        **settings,
    )


def plan(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[Planned]:
    """Every run, all variants of a pair after the other."""
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for hold_out in range(len(arguments.samples)):
            for name in names:
                yield Planned(name, (hold_out, seed), config(name, (hold_out, seed), arguments))


def train(arguments: argparse.Namespace, runs: Sequence[Planned], data: str) -> Iterator[tuple[Planned, results.Line]]:
    """The line of each run, trained where there is none yet; what is another part's, or only looked for, may lack."""
    part, parts = (int(text) for text in arguments.part.split("/"))
    for count, run in enumerate(runs, 1):
        samples = _opened(run.config.samples)
        version = _version(run.config) if run.config.images else ""
        key = results.key_fields(run.config, data, samples, version)
        known = results.read([arguments.results]) if arguments.results.exists() else {}
        line = known.get(results.identity(key))
        if line is None and not arguments.table and count % parts == part % parts:
            print(f"{run.variant}, hold-out {run.pair[0]}, seed {run.pair[1]}: training", flush=True)
            line = results.new_line(key, fit(run.config))
            results.append(arguments.results, line)
        if line is not None:
            yield run, line


_opened = cache(Samples)
_versions: dict[tuple[str, str, str], str] = {}


def _version(run: FitConfig) -> str:
    """Of the vectors of a store, or of the features behind a head that learns; asked once."""
    source = run.head, run.store, run.server
    if source not in _versions:
        _versions[source] = named_versions(served_versions(run, _opened(run.samples)))
    return _versions[source]


def measured(arguments: argparse.Namespace, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the variants, and of the means."""
    first = config(names[0], (0, arguments.first_seed), arguments)
    label = first.labels[0] if first.labels else ""
    tests = [JudgedRows.of(samples_of(folder, first.validate_on), label) for folder in arguments.samples]
    ran: dict[str, dict[Pair, Ran]] = {name: {} for name in (*baselines.NAMES, *names)}
    for run, line in train(arguments, list(plan(arguments, names)), arguments.data):
        values = predictions(line, Path(run.config.out), tests[run.pair[0]].labels)
        ran[run.variant][run.pair] = Ran(line, values)
    if not any(ran.values()):
        raise SystemExit(f"{arguments.results} has no line of {arguments.data} yet.")
    pairs = sorted({pair for own in ran.values() for pair in own})
    for hold_out, folder in enumerate(arguments.samples):
        lines = {line["model"]: line for line in baseline_lines(replace(first, samples=str(folder)), arguments.data)}
        of_means = baselines.baselines(samples_of(folder, first.validate_on), label)
        for name in baselines.NAMES:  # the same with every seed
            ran[name] |= {pair: Ran(lines[name], of_means[name]) for pair in pairs if pair[0] == hold_out}
    return rows({name: own for name, own in ran.items() if own}, arguments.base, tests)


def tuned(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Which share of hidden ids is best for all variants together, on items held out of validation.

    Returns:
        ``id_dropout``, the one with the highest mean of the variants' AUC on the validation rows of unseen items; and
        ``shares``, by share and variant mean and deviation of AUC and GAUC there.
    """
    shares: dict[str, dict[str, Any]] = {}
    for share in arguments.tune.split(","):
        runs = [
            replace(run, config=replace(run.config, id_dropout=float(share), validate_on="unseen-items"))
            for run in plan(arguments, names)
        ]
        lines: dict[str, list[dict[str, Any]]] = {}
        for run, line in train(arguments, runs, f"{arguments.data}, tuning"):
            lines.setdefault(run.variant, []).append(line["validation"]["all"])
        if len(lines) == len(names):
            shares[share] = {
                name: {metric: mean_std([one.get(metric) for one in found]) for metric in ("auc", "gauc")}
                for name, found in lines.items()
            }
    if not shares:
        raise SystemExit(f"{arguments.results} has no line of tuning on {arguments.data} yet.")
    best = max(shares, key=lambda share: np.mean([found["auc"]["mean"] for found in shares[share].values()]))
    table = Table("ids hidden", *names, title="AUC / GAUC on items held out of validation", title_justify="left")
    for share, found in shares.items():
        cells = (f"{number(found[name]['auc'])} / {number(found[name]['gauc'])}" for name in names)
        table.add_row(f"{share}{', chosen' if share == best else ''}", *cells)
    Console(width=WIDTH).print(table)
    return {"id_dropout": float(best), "shares": shares}


def parsed() -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the names of the variants."""
    parser = argparse.ArgumentParser(description="What pictures are worth to a CTR model.")
    parser.add_argument("--samples", nargs="+", default=["samples"], help="several: hold-outs of one log")
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--server", default="localhost:7070", help="of the same store, for what is trained late")
    parser.add_argument("--aligned", default="runs/aligned", help="run of 'trainer align' whose head goes on learning")
    parser.add_argument("--data", default="movielens", help="name of the data in the results file")
    parser.add_argument("--results", type=Path, default=Path("results/worth.jsonl"))
    parser.add_argument("--out", default="runs/worth", help="run folders")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--base", default=IDS, help="variant or mean that the others' gain is over")
    parser.add_argument("--variants", default="", help="only these, separated by semicolons")
    parser.add_argument(
        "--settings", default="{}", help="of trainer fit, as JSON, in place of the recipe's: for tuning"
    )
    parser.add_argument("--tune", default="", help="shares of hidden ids, by commas: choose one, and measure nothing")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th run, from the i-th on")
    parser.add_argument("--reference", type=Path, help="reference.json of simulated clicks: the best possible AUC")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.variants.split(";") if name.strip()] or list(VARIANTS)
    known = {"--variants": (names, list(VARIANTS)), "--base": ([arguments.base], [*VARIANTS, *baselines.NAMES])}
    for option, (given, there) in known.items():
        if unknown := [name for name in given if name not in there]:
            raise SystemExit(f"{option}: there is no {unknown[0]!r}; there are: {'; '.join(there)}.")
    return arguments, names


def main() -> None:
    """Train what is missing, then print."""
    arguments, names = parsed()
    hold_outs(arguments.samples)
    if arguments.tune:
        finish("worth", {}, data=arguments.data, **tuned(arguments, names))
        return
    found = measured(arguments, names)
    reference = json.loads(arguments.reference.read_text()) if arguments.reference else {}
    show(arguments.data, found, reference)
    gains = {row["variant"]: row["all"]["auc_gain"]["mean"] for row in found if row["all"].get("auc_gain") is not None}
    finish("worth", gains, data=arguments.data, rows=found)


if __name__ == "__main__":
    main()
