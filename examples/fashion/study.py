"""What do photos and titles add to a model of purchases: on all rows, and on articles and products that are new?

    python examples/fashion/study.py --samples samples --bare bare --photos store --titles titles --seeds 5

Trains every variant with the same seeds on the same rows, and prints a table of the test part. A product is the first
seven digits of an article: articles of one product differ in colour or pattern. New is what no training row shows, as
bought or as a negative. Runs that have a line in the file of results are not trained again, so
that the study can be run in parts, and another variant or seed may be added later.
"""

from __future__ import annotations

import argparse
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
SPACES = {"": (), " + photos": (PHOTO,), " + titles": (TITLE,), " + photos + titles": (PHOTO, TITLE)}
HEAD = " + photos, learning head"
VARIANTS: dict[str, tuple[str, ...]] = {
    **{f"ids + attributes{name}": spaces for name, spaces in SPACES.items()},
    **{f"ids{name}": spaces for name, spaces in SPACES.items()},
    f"ids + attributes{HEAD}": (PHOTO,),
    f"ids{HEAD}": (PHOTO,),
}
PARTS = {"all": "all rows", "unseen_items": "unseen articles", "unseen_products": "unseen products"}
# The same for all variants, so that a difference is that of the vectors (docs/results.md says what else was tried).
RECIPE: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 512,
    "id_dropout": 0.5,
    "validate_on": "unseen-items",
    "averaging": False,
}
# With the activations that are the models' own the net begins to learn after seven epochs, or not at all.
OPTIONS: dict[str, dict[str, Any]] = {
    "embedding_mlp": {"activation": "batch_norm"},
    "din": {"activation": "batch_norm"},
    "simtier": {"activation": "batch_norm", "attention_hidden": (16,)},
}


def config(variant: str, arguments: argparse.Namespace, seed: int) -> FitConfig:
    """What one run is trained with."""
    spaces = VARIANTS[variant]
    folders = {PHOTO: str(arguments.photos), TITLE: str(arguments.titles)}
    head: dict[str, Any] = {"head": "learn", "head_learning_rate": 3e-4} if variant.endswith(HEAD) else {}
    return FitConfig(
        samples=str(arguments.samples if "attributes" in variant else arguments.bare),
        out=str(arguments.out / f"{arguments.model}-{variant.replace(' ', '').replace(',', '+')}-{seed}"),
        model=arguments.model,
        images=bool(spaces),
        vectors={space: folders[space] for space in spaces},
        seed=seed,
        overwrite=True,  # what counts is the file of results
        options=OPTIONS[arguments.model],
        **head,
        **RECIPE,
    )


def of_new_products(samples: Samples, probabilities: npt.NDArray[Any]) -> dict[str, Any]:
    """AUC and GAUC of the test rows whose product no training row has; GAUC over users that training knows."""
    keys = samples.vocabulary.values["item_id"]
    seen = keys.filter(samples.item_counts()[1:] > 0)
    table = samples.frame("test", ["label", "user_id", "raw_item_id"])
    product = pc.utf8_slice_codeunits(table["raw_item_id"], 0, PRODUCT_DIGITS)
    known = pc.is_in(product, value_set=pc.utf8_slice_codeunits(seen, 0, PRODUCT_DIGITS))
    new = ~np.asarray(known)
    labels, users = (np.asarray(table[name])[new] for name in ("label", "user_id"))
    scores, told_apart = probabilities[new], users > 0
    return {
        "rows": len(labels),
        "auc": auc(labels, scores),
        "gauc": gauc(labels[told_apart], scores[told_apart], users[told_apart]).value,
    }


def line_of(variant: str, arguments: argparse.Namespace, seed: int) -> results.Line | None:
    """The line of a run, which is trained where the file has none; None: it has none, and nothing is to be trained."""
    run = config(variant, arguments, seed)
    samples = samples_of(run.samples, run.validate_on)
    version = named_versions(served_versions(run, samples)) if run.images else ""
    key = results.key_fields(run, DATA, samples, version)
    known = results.read([arguments.results]) if arguments.results.exists() else {}
    line = known.get(results.identity(key))
    if line is None and not arguments.table:
        print(f"{arguments.model}, {variant}, seed {seed}: training", flush=True)
        result = fit(run)
        probabilities = pq.read_table(Path(result["out"]) / "predictions.parquet")["probability"].to_numpy()
        result["test"]["unseen_products"] = of_new_products(samples, probabilities)
        line = results.new_line(key, result)
        results.append(arguments.results, line)
    return line


def main() -> None:
    """Train what is missing, then print."""
    parser = argparse.ArgumentParser(description="What photos and titles add to a model of purchases.")
    parser.add_argument("--samples", type=Path, required=True, help="what 'features build' made")
    parser.add_argument("--bare", type=Path, help="of the schema without attributes; without it only the others run")
    parser.add_argument("--photos", type=Path, required=True, help="store that was filled from the photos")
    parser.add_argument("--titles", type=Path, required=True, help="store that was filled from the texts")
    parser.add_argument("--results", type=Path, default=Path("results/fashion.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("runs/fashion"), help="run folders")
    parser.add_argument("--model", default="embedding_mlp", choices=OPTIONS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", default="", help="only these, separated by semicolons")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    there = [name for name in VARIANTS if arguments.bare or "attributes" in name]
    names = [name.strip() for name in arguments.variants.split(";") if name.strip()] or there
    if unknown := [name for name in names if name not in there]:
        raise SystemExit(f"There is no variant {unknown[0]!r}; there are: {'; '.join(there)}.")
    lines: dict[str, list[results.Line]] = {name: [] for name in names}
    for seed in range(arguments.seeds):
        for name in names:
            if line := line_of(name, arguments, seed):
                lines[name].append(line)
    print(f"| {arguments.model}: AUC / GAUC | seeds | {' | '.join(PARTS.values())} |\n|---|---|{'---|' * len(PARTS)}")
    for name, found in ((name, found) for name, found in lines.items() if found):
        cells = [
            " / ".join(number(mean_std([line["test"][part][metric] for line in found])) for metric in ("auc", "gauc"))
            for part in PARTS
        ]
        print(f"| {name} | {len(found)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
