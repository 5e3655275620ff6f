"""What do photos and titles add to a model of purchases: on all rows, and on articles and products that are new?

    python examples/fashion/study.py --samples samples --bare bare --photos store --titles titles --seeds 5

Trains every variant with the same seeds on the same rows, and prints a table of the test part. A product is the first
seven digits of an article: articles of one product differ in colour or pattern. New is what no training row shows, as
bought or as a negative. Vectors of another store may stand in the photos' place, by a name of theirs: ``--instead
"true attributes=attributes"`` makes the variants ``ids + true attributes`` and ``ids + attributes + true attributes``.
Rows below have the gains over ``--over``, seed by seed, with 95 % intervals over users, articles and seeds (ADR 0040),
as far as the predictions of the runs are in ``--out``.
Runs that have a line in the file of results are not trained again, so that the study can be run in parts, and another
variant or seed may be added later.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia import FitConfig, fit
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer.baselines import ITEM_USER, baselines
from crossmedia.trainer.images.open_images import served_versions
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.intervals import METRICS, JudgedRows, ends, predictions
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


def judged(samples: Samples) -> JudgedRows:
    """The test rows, with two parts more: of articles that training has, and of products that it has not."""
    rows, keys = JudgedRows.of(samples, ""), samples.vocabulary.values["item_id"]
    seen = keys.filter(samples.item_counts()[1:] > 0)
    article = samples.frame("test", ["raw_item_id"])["raw_item_id"].combine_chunks()
    product = pc.utf8_slice_codeunits(article, 0, PRODUCT_DIGITS)
    known = pc.is_in(product, value_set=pc.utf8_slice_codeunits(seen, 0, PRODUCT_DIGITS))
    own = {"seen_items": np.asarray(pc.is_in(article, value_set=seen)), "unseen_products": ~np.asarray(known)}
    return replace(rows, parts=rows.parts | own)


def measured(rows: JudgedRows, part: str, probabilities: npt.NDArray[Any]) -> dict[str, Any]:
    """AUC and GAUC of a part of the rows; GAUC over users that training knows."""
    chosen = rows.parts[part]
    told_apart = chosen & rows.known
    return {
        "rows": int(chosen.sum()),
        "auc": auc(rows.labels[chosen], probabilities[chosen]),
        "gauc": gauc(rows.labels[told_apart], probabilities[told_apart], rows.users[told_apart]).value,
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
        rows = judged(samples)
        result["test"] |= {part: measured(rows, part, probabilities) for part in ("seen_items", "unseen_products")}
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


@dataclass(frozen=True)
class Ran:
    """A run: its line, and what it predicts of the test rows; None: its folder is not in ``--out``."""

    line: results.Line
    predicted: npt.NDArray[Any] | None


def of_mean(rows: JudgedRows, samples: Samples) -> Ran:
    """The mean of an article's labels and of its user's, as if it were a run."""
    values = baselines(samples, "")[ITEM_USER]
    return Ran({"test": {part: measured(rows, part, values) for part in PARTS}}, values)


def gain(part: str, own: dict[int, Ran], base: dict[int, Ran], rows: JudgedRows) -> str:
    """AUC / GAUC of a part less those of the base, of the seeds that both have, with intervals."""
    pairs = [(own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())]
    pairs = [pair for pair in pairs if all(part in run.line["test"] for run in pair)]
    return " / ".join(_gain(part, metric, pairs, rows) for metric in METRICS) if pairs else "–"


def _gain(part: str, metric: Literal["auc", "gauc"], pairs: list[tuple[Ran, Ran]], rows: JudgedRows) -> str:
    each = [one.line["test"][part][metric] - other.line["test"][part][metric] for one, other in pairs]
    there = [(a.predicted, b.predicted) for a, b in pairs if a.predicted is not None and b.predicted is not None]
    text = number(mean_std(each))
    if not there:
        return text
    found = ends([rows.paired(part, metric, *zip(*there, strict=True))], metric)
    of = "" if len(there) == len(pairs) else f", {len(there)} seeds"
    return f"{text} [{found['low']:.4f}, {found['high']:.4f}{of}]" if found else text


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
    parser.add_argument("--over", default="ids + attributes", help="variant that gains are over, or 'item + user mean'")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    there = variants_of(arguments)
    names = [name.strip() for name in arguments.variants.split(";") if name.strip()] or list(there)
    if unknown := [name for name in names if name not in there]:
        raise SystemExit(f"There is no variant {unknown[0]!r}; there are: {'; '.join(there)}.")
    ran: dict[str, dict[int, Ran]] = {name: {} for name in names}
    judges: dict[Path, JudgedRows] = {}
    for seed in range(arguments.seeds):
        for name in names:
            if line := line_of(name, there[name], arguments, seed):
                run = config(name, there[name], arguments, seed)
                if (folder := there[name].samples) not in judges:
                    judges[folder] = judged(samples_of(run.samples, run.validate_on))
                ran[name][seed] = Ran(line, predictions(line, Path(run.out), judges[folder].labels))
    found = {name: own for name, own in ran.items() if own}
    print(f"| {arguments.model}: AUC / GAUC | seeds | {' | '.join(PARTS.values())} |\n|---|---|{'---|' * len(PARTS)}")
    for name, own in found.items():
        cells = [cell([run.line for run in own.values()], part) for part in PARTS]
        print(f"| {name} | {len(own)} | {' | '.join(cells)} |")
    for name, own in found.items():
        rows = judges[there[name].samples]
        over = found.get(arguments.over, {})
        if arguments.over == ITEM_USER:
            first = config(name, there[name], arguments, 0)
            over = dict.fromkeys(own, of_mean(rows, samples_of(first.samples, first.validate_on)))
        if over and name != arguments.over:
            gains = [gain(part, own, over, rows) for part in PARTS]
            print(f"| {name} over {arguments.over} | {len(own)} | {' | '.join(gains)} |")


if __name__ == "__main__":
    main()
