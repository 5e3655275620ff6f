"""What do probes find in photos of products that they never saw, and do the names of free concepts hold there?

    crossmedia imgserver precompute --store hm --catalogue photos --backbone 'efficientnet_lite0#photometry'
    python -m benchmarks.whitebox_concepts --store hm --items fashion/articles.csv --group product --text text \
      --attribute colour=colour_group,perceived_colour_value,perceived_colour_master \
      --attribute pattern=graphical_appearance --attribute type=product_type,product_group

Probes: every value and word that 200 photos have, before any is chosen; AUC on photos of products left out.
 Names: in turn one attribute is hidden, with its columns and with every value and word that tells it (half of its
photos have one value of the attribute, twice as often as others). Half of the products make the head; its free concepts
are named by words of their photos, the hidden words among them. A name that tells the hidden attribute promises a
value, and the other half is asked: how many of the photos that have most of the concept there have this value?
As many random directions are named and asked in the same way; so are the 20 strongest photos alone.
Numbers of the pixels are asked of the features, too: R² of probes on photos left out. ``--quick`` takes photos of 3,000
products and one seed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.parts import finish
from crossmedia.imgserver.concepts.building import LEAST_AUC, build_concepts, least_photos, measure
from crossmedia.imgserver.concepts.dictionary import random_codes
from crossmedia.imgserver.concepts.items import Items, ItemTable, common_enough
from crossmedia.imgserver.concepts.linear import Floats, Scale, explained, fit_probes, folds_of
from crossmedia.imgserver.concepts.naming import Words, names_of_photos, naming_photos
from crossmedia.imgserver.concepts.sample import Sample, read_sample
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision.photometry import ANCHORS
from crossmedia.names import ImageNames

Flags = npt.NDArray[np.bool_]
LEAST_TOLD, LEAST_LIFT = 0.5, 2.0  # a word tells a value: share of its photos that have it, and how often beside others
STRONGEST = 20
QUICK_GROUPS = 3_000


def part_of(sample: Sample, kept: Flags) -> Sample:
    """The same of some photos; ``kept`` has the shape (n,)."""
    return replace(sample, values=sample.values[kept], items=sample.items.only(kept))


def probes(sample: Sample) -> dict[str, Any]:
    """AUC of every value and word that is common enough, on photos of groups left out."""
    items = sample.items
    places = [p for p in common_enough(items, least_photos(len(items.ids)), 1) if items.traits[p].kind == "probe"]
    found = measure(Scale.of(sample.values)(sample.values), items, places)
    told: dict[str, Any] = {"penalty": found.penalty, "least_photos": least_photos(len(items.ids))}
    words = np.array([items.traits[place].word for place in places])
    for name, chosen in (("all", np.ones_like(words)), ("columns", ~words), ("words", words)):
        if chosen.any():
            values = found.auc[chosen]
            worst = items.traits[np.array(places)[chosen][values.argmin()]].name
            kept = int((values >= LEAST_AUC).sum())
            told[name] = {"probes": len(values), "median": float(np.median(values)), "kept": kept}
            told[name] |= {"least": float(values.min()), "worst": worst}
    return told


def pixels(sample: Sample) -> dict[str, float]:
    """How well features without anchors tell each anchor, R² on photos of groups left out."""
    if not sample.anchors:
        return {}
    features, wanted = sample.values[:, : -sample.anchors], Scale.of(sample.values[:, -sample.anchors :])
    scaled = wanted(sample.values[:, -sample.anchors :])
    found = fit_probes(Scale.of(features)(features), scaled, folds_of(sample.items.groups))
    return dict(zip(ANCHORS, np.round(explained(found.left_out, scaled), 3).tolist(), strict=True))


@dataclass(frozen=True)
class Hidden:
    """An attribute that is hidden.

    Attributes:
        values: places of the traits that are its values.
        told_by: places of traits that tell it, and what each promises: a place of ``values``.
        every: places of all that is hidden.
    """

    values: tuple[int, ...]
    told_by: dict[int, int]
    every: tuple[int, ...]


def hidden(items: Items, columns: Sequence[str]) -> Hidden:
    """What is to be hidden: columns, the first of them the attribute, and every value and word that tells it."""
    n, traits = len(items.ids), items.traits
    values = [place for place, trait in enumerate(traits) if trait.source == columns[0] and not trait.word]
    value_of = np.full(n, -1)
    for place in values:
        value_of[items.rows[place]] = place
    share = np.bincount(value_of[value_of >= 0], minlength=len(traits)) / n
    told_by = {}
    for place, rows in enumerate(items.rows):
        there = value_of[rows][value_of[rows] >= 0]
        if place in values or not len(there):
            continue
        counts = np.bincount(there, minlength=len(traits))
        best = int(counts.argmax())
        if counts[best] >= LEAST_TOLD * len(rows) and counts[best] / len(rows) >= LEAST_LIFT * share[best]:
            told_by[place] = best
    of_columns = [place for place, trait in enumerate(traits) if trait.source in columns and not trait.word]
    return Hidden(tuple(values), told_by, tuple(sorted({*of_columns, *told_by})))


@dataclass(frozen=True)
class Agreement:
    """What came of the names of some concepts.

    Attributes:
        codes: concepts that were looked at.
        named: of them, those that have a name.
        shares: of each whose name tells the hidden attribute, the share of photos of other products that have what its
            name promises: of one photo in a hundred, those that have most of the concept.
        strongest: the same of the 20 photos that have most of it.
        names: these names, and what they promise.
    """

    codes: int
    named: int
    shares: tuple[float, ...]
    strongest: tuple[float, ...]
    names: tuple[str, ...]


def agreement(naming: Floats, asked: Floats, one: Items, other: Items, what: Hidden) -> Agreement:
    """Name concepts by photos of some products, and ask photos of others.

    Args:
        naming: the concepts of photos that name them, shape (n, M).
        asked: those of photos of other products, shape (m, M).
        one: what is known of the first photos.
        other: what is known of the others.
        what: was hidden.
    """
    shown = [place for place, trait in enumerate(one.traits) if not trait.word]
    words, place_of = Words.of(one, 20, shown), {trait.name: place for place, trait in enumerate(one.traits)}
    shares, strongest, names, named = list[float](), list[float](), list[str](), 0
    for code in range(naming.shape[1]):
        tokens = names_of_photos(words, naming_photos(naming[:, code]))
        named += bool(tokens)
        promised = what.told_by.get(place_of[tokens[0].text]) if tokens else None
        if promised is not None:
            photos = naming_photos(asked[:, code])
            agrees = np.isin(photos, other.rows[promised])
            shares.append(float(agrees.mean()))
            strongest.append(float(agrees[:STRONGEST].mean()))
            names.append(f"{tokens[0].text} -> {one.traits[promised].value}: {shares[-1]:.2f}")
    return Agreement(naming.shape[1], named, tuple(shares), tuple(strongest), tuple(names))


def names_hold(sample: Sample, columns: Sequence[str], seed: int) -> dict[str, Agreement]:
    """Agreement of free concepts and of as many random directions, of a head that was not told an attribute."""
    rng = np.random.default_rng(seed)
    groups = np.unique(sample.items.groups)
    first = np.isin(sample.items.groups, rng.choice(groups, len(groups) // 2, replace=False))
    one, other = part_of(sample, first), part_of(sample, ~first)
    what = hidden(one.items, columns)
    head, card = build_concepts(one, what.every)
    free = card.of_kind("free")
    naming, asked = (head.apply_numpy(half.values)[:, free] for half in (one, other))
    found = {"free": agreement(naming, asked, one.items, other.items, what)}
    naming, asked = random_of(head, card.of_kind("anchor", "point", "probe"), one, other, len(free), seed)
    return found | {"random": agreement(naming, asked, one.items, other.items, what)}


def random_of(head: Head, named: list[int], one: Sample, other: Sample, codes: int, seed: int) -> list[Floats]:
    """Random directions in what the named concepts of a head leave, of two halves of the photos."""
    scale, width = Scale.of(one.values), one.values.shape[1] - one.anchors
    said = head.apply_numpy(one.values)[:, named].astype(np.float64)
    explains = np.linalg.lstsq(said, scale(one.values)[:, :width].astype(np.float64), rcond=None)[0]
    left = [
        (scale(half.values)[:, :width] - head.apply_numpy(half.values)[:, named] @ explains).astype(np.float32)
        for half in (one, other)
    ]
    drawn = random_codes(left[0], codes, seed)
    return [np.maximum(drawn.numbers.of(half), 0) for half in left]


def summary(found: list[dict[str, Agreement]], kind: str) -> dict[str, Any]:
    """Of several seeds: how many codes could be named, and the mean share of photos that agree, over all named."""
    runs = [one[kind] for one in found]
    shares = [share for run in runs for share in run.shares]
    strongest = [share for run in runs for share in run.strongest]
    return {
        "codes": sum(run.codes for run in runs),
        "named": sum(run.named for run in runs),
        "tell": len(shares),
        "agrees": statistics.fmean(shares) if shares else 0.0,
        "strongest_agree": statistics.fmean(strongest) if strongest else 0.0,
        "names": [name for run in runs for name in run.names],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--items", required=True)
    parser.add_argument("--key", default="image_id")
    parser.add_argument("--text", default="")
    parser.add_argument("--columns", default="", help="more columns, which are never hidden")
    parser.add_argument("--group", default="")
    parser.add_argument("--attribute", action="append", default=[], help="name=column,column: hidden in turn")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    attributes = {name: columns.split(",") for name, _, columns in (one.partition("=") for one in options.attribute)}
    columns = [*(column for some in attributes.values() for column in some), *filter(None, options.columns.split(","))]
    table = ItemTable(
        options.items, key=options.key, text=options.text, columns_of_values=tuple(columns), group=options.group
    )
    store = Store(options.store, create=False)
    try:
        sample = read_sample(store, table, ImageNames.of_store(options.store))
    finally:
        store.close()
    if options.quick:
        sample = part_of(sample, np.isin(sample.items.groups, np.unique(sample.items.groups)[:QUICK_GROUPS]))
    told: dict[str, Any] = {"photos": len(sample.items.ids), "groups": len(np.unique(sample.items.groups))}
    told["probes"], told["pixels"] = probes(sample), pixels(sample)
    print(f"{told['photos']} photos, {told['groups']} groups; probes {told['probes']}\nR² of pixels {told['pixels']}")
    told["names"] = {}
    for name, hide in attributes.items():
        found = [names_hold(sample, hide, seed) for seed in range(1 if options.quick else options.seeds)]
        told["names"][name] = {kind: summary(found, kind) for kind in ("free", "random")}
        for kind, line in told["names"][name].items():
            print(
                f"{name} hidden, {kind}: {line['named']} of {line['codes']} named, {line['tell']} names tell it; "
                f"{line['agrees']:.2f} agree, {line['strongest_agree']:.2f} of the strongest"
            )
    ratios = {"auc_median": told["probes"]["all"]["median"]}
    ratios |= {f"names_{name}": found["free"]["agrees"] for name, found in told["names"].items()}
    ratios |= {f"names_{name}_random": found["random"]["agrees"] for name, found in told["names"].items()}
    finish("whitebox_concepts", ratios, **told)


if __name__ == "__main__":
    main()
