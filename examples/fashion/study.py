"""What do photos and titles add to a model of purchases: on all rows, and on articles and products that are new?

    python examples/fashion/study.py --samples samples --bare bare --photos store --titles titles --seeds 5

Trains every variant with the same seeds on the same rows, and prints a table of the test part. A product is the first
seven digits of an article: articles of one product differ in colour or pattern. New is what no training row shows, as
bought or as a negative. Vectors of another store may stand in the photos' place, by a name of theirs: ``--instead
"true attributes=attributes"`` makes the variants ``ids + true attributes`` and ``ids + attributes + true attributes``.
Runs that have a line in the file of results are not trained again, so that the study can be run in parts, and another
variant or seed may be added later.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia import FitConfig, fit
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer.images.open_images import served_versions
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.metrics import auc, gauc
from crossmedia.trainer.report.summary import mean_std
from crossmedia.trainer.report.tables import number
from crossmedia.trainer.runs import results

DATA = "hm_fashion"
PRODUCT_DIGITS = 7
PHOTO, TITLE = "photo", "title"
PARTS = {
    "all": "all rows",
    "unseen_items": "unseen articles",
    "seen_items": "warm rows",
    "unseen_products": "unseen products",
}
# The same for all variants, so that a difference is that of the vectors (docs/results.md says what else was tried).
RECIPE: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 512,
    "id_dropout": 0.5,
    "validate_on": "unseen-items",
    "averaging": False,
}
# With the activations that are the models' own the net begins to learn after seven epochs, or not at all.
NARROW = {"activation": "batch_norm", "attention_hidden": (16,)}
OPTIONS: dict[str, dict[str, Any]] = {
    "embedding_mlp": {"activation": "batch_norm"},
    "dicm": {"activation": "batch_norm"},
    "din": NARROW,
    "simtier": NARROW,
    "muse": NARROW,
}
SUMS = ("din", "simtier")  # whose attention is a sum where no softmax is asked for
# Without vectors these are the models behind them, number by number, whose runs count for both.
WITHOUT_VECTORS = {"din": "simtier", "dicm": "embedding_mlp"}
HEAD: dict[str, Any] = {"head": "learn", "head_learning_rate": 3e-4}
LINEAR_HEAD: dict[str, Any] = {"head": "learn", "head_learning_rate": 1e-4, "head_widths": (64,)}


@dataclass(frozen=True)
class Variant:
    """What a model knows, and how it learns beside ``RECIPE``."""

    samples: Path
    vectors: dict[str, str] = field(default_factory=dict)  # store of each space
    settings: dict[str, Any] = field(default_factory=dict)


def variants_of(arguments: argparse.Namespace) -> dict[str, Variant]:
    """Every variant that the stores and samples given allow, by its name."""
    photos, titles = {PHOTO: str(arguments.photos)}, {TITLE: str(arguments.titles)}
    beside: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
        "": ({}, {}),
        " + photos": (photos, {}),
        " + titles": (titles, {}),
        " + photos + titles": (photos | titles, {}),
        " + photos, learning head": (photos, HEAD),
        " + photos, learning linear head": (photos, LINEAR_HEAD),
    }
    for name, store in (text.split("=", 1) for text in arguments.instead):
        beside[f" + {name}"] = ({PHOTO: store}, {})
    if arguments.aligned:
        aligned = LINEAR_HEAD | {"warm_start": str(arguments.aligned)}
        beside[" + aligned photos, learning linear head"] = (photos, aligned)
    samples = {"ids + attributes": arguments.samples} | ({"ids": arguments.bare} if arguments.bare else {})
    return {f"{ids}{name}": Variant(folder, *what) for ids, folder in samples.items() for name, what in beside.items()}


def config(name: str, variant: Variant, arguments: argparse.Namespace, seed: int) -> FitConfig:
    """What one run is trained with."""
    model = arguments.model if variant.vectors else WITHOUT_VECTORS.get(arguments.model, arguments.model)
    settings = {**variant.settings, **RECIPE, "options": OPTIONS[model]}
    if arguments.today:  # most lines were made before weights were averaged by default
        settings |= {"averaging": True, "options": OPTIONS[model] | ({"softmax": True} if model in SUMS else {})}
    plain = name.replace(" ", "").replace(",", "+")
    return FitConfig(
        samples=str(variant.samples),
        out=str(arguments.out / f"{model}{'-today' * arguments.today}-{plain}-{seed}"),
        model=model,
        images=bool(variant.vectors),
        vectors=variant.vectors,
        seed=seed,
        overwrite=True,  # what counts is the file of results
        **settings,
    )


def of_rows(samples: Samples, probabilities: npt.NDArray[Any]) -> dict[str, Any]:
    """Measures of the test rows whose article training has, and of those whose product it has not."""
    keys = samples.vocabulary.values["item_id"]
    seen = keys.filter(samples.item_counts()[1:] > 0)
    table = samples.frame("test", ["label", "user_id", "raw_item_id"])
    product = pc.utf8_slice_codeunits(table["raw_item_id"], 0, PRODUCT_DIGITS)
    known = pc.is_in(product, value_set=pc.utf8_slice_codeunits(seen, 0, PRODUCT_DIGITS))
    warm = np.asarray(pc.is_in(table["raw_item_id"], value_set=seen))
    return {
        "seen_items": measured(table, probabilities, warm),
        "unseen_products": measured(table, probabilities, ~np.asarray(known)),
    }


def measured(table: Any, probabilities: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """AUC and GAUC of some rows; GAUC over users that training knows."""
    labels, users = (np.asarray(table[name])[chosen] for name in ("label", "user_id"))
    scores, told_apart = probabilities[chosen], users > 0
    return {
        "rows": len(labels),
        "auc": auc(labels, scores),
        "gauc": gauc(labels[told_apart], scores[told_apart], users[told_apart]).value,
    }


def line_of(name: str, variant: Variant, arguments: argparse.Namespace, seed: int) -> results.Line | None:
    """The line of a run, which is trained where the file has none; None: it has none, and nothing is to be trained."""
    run = config(name, variant, arguments, seed)
    samples = samples_of(run.samples, run.validate_on)
    version = named_versions(served_versions(run, samples)) if run.images else ""
    key = results.key_fields(run, DATA, samples, version)
    known = results.read([arguments.results]) if arguments.results.exists() else {}
    line = known.get(results.identity(key))
    if line is None and not arguments.table:
        print(f"{run.model}, {name}, seed {seed}: training", flush=True)
        result = fit(run)
        probabilities = pq.read_table(Path(result["out"]) / "predictions.parquet")["probability"].to_numpy()
        result["test"] |= of_rows(samples, probabilities)
        line = results.new_line(key, result)
        results.append(arguments.results, line)
    return line


def cell(lines: list[results.Line], part: str) -> str:
    """AUC / GAUC of a part, with the number of lines where some were measured before it was one."""
    found = [line["test"][part] for line in lines if part in line["test"]]
    if not found:
        return "–"
    text = " / ".join(number(mean_std([one[metric] for one in found])) for metric in ("auc", "gauc"))
    return text if len(found) == len(lines) else f"{text} ({len(found)} seeds)"


def main() -> None:
    """Train what is missing, then print."""
    parser = argparse.ArgumentParser(description="What photos and titles add to a model of purchases.")
    parser.add_argument("--samples", type=Path, required=True, help="what 'features build' made")
    parser.add_argument("--bare", type=Path, help="of the schema without attributes; without it only the others run")
    parser.add_argument("--photos", type=Path, required=True, help="store that was filled from the photos")
    parser.add_argument("--titles", type=Path, required=True, help="store that was filled from the texts")
    parser.add_argument(
        "--instead", action="append", default=[], metavar="NAME=STORE", help="vectors in the photos' place"
    )
    parser.add_argument("--aligned", type=Path, help="run of 'trainer align' whose head goes on learning")
    parser.add_argument("--results", type=Path, default=Path("results/fashion.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("runs/fashion"), help="run folders")
    parser.add_argument("--model", default="embedding_mlp", choices=OPTIONS)
    parser.add_argument("--today", action="store_true", help="average the weights, and normalise attention")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", default="", help="only these, separated by semicolons")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    there = variants_of(arguments)
    names = [name.strip() for name in arguments.variants.split(";") if name.strip()] or list(there)
    if unknown := [name for name in names if name not in there]:
        raise SystemExit(f"There is no variant {unknown[0]!r}; there are: {'; '.join(there)}.")
    lines: dict[str, list[results.Line]] = {name: [] for name in names}
    for seed in range(arguments.seeds):
        for name in names:
            if line := line_of(name, there[name], arguments, seed):
                lines[name].append(line)
    print(f"| {arguments.model}: AUC / GAUC | seeds | {' | '.join(PARTS.values())} |\n|---|---|{'---|' * len(PARTS)}")
    for name, found in ((name, found) for name, found in lines.items() if found):
        print(f"| {name} | {len(found)} | {' | '.join(cell(found, part) for part in PARTS)} |")


if __name__ == "__main__":
    main()
