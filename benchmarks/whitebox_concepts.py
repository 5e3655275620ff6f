"""What do probes find in photos of products that they never saw, and do the names of free concepts hold there?

    crossmedia imgserver precompute --store hm --catalogue photos --backbone 'efficientnet_lite0#photometry'
    python -m benchmarks.whitebox_concepts --store hm --items fashion/articles.csv --group product --text text \
      --attribute colour=colour_group,perceived_colour_value,perceived_colour_master \
      --attribute pattern=graphical_appearance --attribute type=product_type,product_group

Probes: every value and word that 200 photos have, before any is chosen; AUC on photos of products left out.
 Names: in turn one attribute is hidden, with its columns, with every value and word that tells it (half of its photos
have one value of the attribute, twice as often as others) and with anchors that go with a value (correlation .5). Some
products make the head; its free concepts are named by words of their photos, the hidden words among them. A name tells
the attribute if two thirds of the photos with this word have one value of it, twice as often as others; the rarest such
value is what it promises. Photos of other products are asked: how many of those that clearly have the concept, as much
of it as the middle one of the photos that named it, have this value? The same of one photo in a hundred, those that
have most of it. As many random directions are named and asked in the same way.
 The rules of naming were chosen on one half of the products, that of ``halves``. It makes the heads, for each seed
another four fifths of it; all figures are of photos of the other half.
 Words: how well the words of a text tell the values of an attribute beside how well photos do, both by probes on
products left out. What texts do not say cannot be a name.
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
from crossmedia.imgserver.concepts.building import LEAST_AUC, SAID, build_concepts, least_photos, measure
from crossmedia.imgserver.concepts.dictionary import random_codes
from crossmedia.imgserver.concepts.items import Items, ItemTable, common_enough
from crossmedia.imgserver.concepts.linear import Floats, Scale, auc, explained, fit_probes, folds_of
from crossmedia.imgserver.concepts.naming import Words, names_of_codes, naming_photos
from crossmedia.imgserver.concepts.sample import Sample, read_sample
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision.photometry import ANCHORS
from crossmedia.names import ImageNames

Flags = npt.NDArray[np.bool_]
LEAST_TOLD, LEAST_LIFT = 0.5, 2.0  # a word tells a value: share of its photos that have it, and how often beside others
LEAST_PROMISED = 2 / 3  # the same of a word that promises it
LEAST_TELLING = 20  # photos of a word or a value of which that is asked
LEAST_WITH = 0.5  # correlation of an anchor and a value, from which on the anchor tells it
NAMING_SHARE = 0.8  # of the products of a half make a head
FEWEST_CLEAR = 5
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
        promised: what each word that tells it promises, by places of traits.
        every: places of all traits that are hidden.
        anchors: numbers of the pixels that are hidden, by their places among the anchors.
    """

    promised: dict[int, int]
    every: tuple[int, ...]
    anchors: tuple[int, ...]


def hidden(sample: Sample, columns: Sequence[str]) -> Hidden:
    """What is hidden: columns, the first of them the attribute, and every value, word and anchor that tells it."""
    items = sample.items
    values = [p for p, t in enumerate(items.traits) if t.source in columns and not t.word]
    common = [place for place in values if len(items.rows[place]) >= LEAST_TELLING]
    flags = items.flags(common)
    everywhere = np.maximum(flags.mean(axis=0), 1e-9)
    of_attribute = np.array([items.traits[place].source == columns[0] for place in common], dtype=np.bool_)
    promised, telling = dict[int, int](), list[int]()
    for place, rows in enumerate(items.rows):
        if place in values or not len(rows):
            continue
        share = flags[rows].mean(axis=0)
        lift = np.where(share >= LEAST_LIFT * everywhere, share / everywhere, 0)
        if ((share >= LEAST_TOLD) & (lift > 0) & of_attribute).any():
            telling.append(place)
        if len(rows) >= LEAST_TELLING and ((share >= LEAST_PROMISED) & (lift > 0)).any():
            promised[place] = common[int(np.where(share >= LEAST_PROMISED, lift, 0).argmax())]
    often = [place for place in values if len(items.rows[place]) >= least_photos(len(items.ids))]
    anchors = Scale.of(sample.values[:, -sample.anchors :])(sample.values[:, -sample.anchors :])
    seen = items.flags(often).astype(np.float32)
    seen = Scale.of(seen)(seen)
    goes = np.abs(anchors.T @ seen / len(seen)).max(axis=1, initial=0) if sample.anchors else np.zeros(0)
    return Hidden(promised, tuple(sorted({*values, *telling})), tuple(np.flatnonzero(goes > LEAST_WITH).tolist()))


def without_anchors(sample: Sample, places: Sequence[int]) -> Sample:
    """The same with some anchors that are the same for all photos."""
    values = sample.values.copy()
    values[:, [values.shape[1] - sample.anchors + place for place in places]] = 0
    return replace(sample, values=values)


@dataclass(frozen=True)
class Agreement:
    """What came of the names of some concepts.

    Attributes:
        codes: concepts that were looked at.
        named: of them, those that have a name.
        clear: of each whose name tells the hidden attribute, the share of photos of other products that have what its
            name promises: of those that clearly have the concept.
        hundredth: the same of one photo in a hundred.
        names: these names, and what they promise.
    """

    codes: int
    named: int
    clear: tuple[float, ...]
    hundredth: tuple[float, ...]
    names: tuple[str, ...]


def clear_photos(naming: Floats, asked: Floats) -> npt.NDArray[np.int64]:
    """Photos that have as much of a code as the middle one of those that named it, and the five strongest at least.

    Args:
        naming: the code of photos that named it, shape (n,).
        asked: of photos of other products, shape (m,).
    """
    named_by = naming_photos(naming)
    as_much = int((asked >= naming[named_by[len(named_by) // 2]]).sum())
    return np.argsort(-asked, kind="stable")[: max(FEWEST_CLEAR, as_much)]


def agreement(naming: Floats, asked: Floats, one: Sample, other: Items, what: Hidden, told: set[str]) -> Agreement:
    """Name concepts by photos of some products, and ask photos of others.

    Args:
        naming: the concepts of photos that name them, shape (n, M).
        asked: those of photos of other products, shape (m, M).
        one: the first photos.
        other: what is known of the others.
        what: was hidden.
        told: names of traits that the head tells, which name nothing else.
    """
    traits = one.items.traits
    shown = [place for place, trait in enumerate(traits) if not trait.word or trait.name in told]
    words = Words.of(one.items, LEAST_TELLING, shown)
    place_of = {trait.name: place for place, trait in enumerate(traits)}
    clear, hundredth, names, named = list[float](), list[float](), list[str](), 0
    for code, tokens in enumerate(names_of_codes(naming, Scale.of(one.values)(one.values), words)):
        named += bool(tokens)
        promised = what.promised.get(place_of[tokens[0].text]) if tokens else None
        if promised is not None:
            photos = clear_photos(naming[:, code], asked[:, code])
            clear.append(float(np.isin(photos, other.rows[promised]).mean()))
            hundredth.append(float(np.isin(naming_photos(asked[:, code]), other.rows[promised]).mean()))
            names.append(f"{tokens[0].text} -> {traits[promised].value}: {clear[-1]:.2f} of {len(photos)}")
    return Agreement(naming.shape[1], named, tuple(clear), tuple(hundredth), tuple(names))


def halves(sample: Sample) -> tuple[Sample, Sample]:
    """The half of the products on which the rules of naming were chosen, and the other one, which is asked."""
    groups = np.unique(sample.items.groups)
    first = np.isin(sample.items.groups, np.random.default_rng(2026).choice(groups, len(groups) // 2, replace=False))
    return part_of(sample, first), part_of(sample, ~first)


def names_hold(sample: Sample, columns: Sequence[str], seed: int) -> dict[str, Agreement]:
    """Agreement of free concepts and of as many random directions, of a head that was not told an attribute."""
    one, other = halves(sample)
    groups = np.unique(one.items.groups)
    some = np.random.default_rng(seed).choice(groups, round(NAMING_SHARE * len(groups)), replace=False)
    one = part_of(one, np.isin(one.items.groups, some))
    what = hidden(one, columns)
    one, other = (without_anchors(half, what.anchors) for half in (one, other))
    head, card = build_concepts(one, what.every)
    told = {card.concepts[place].name for place in card.of_kind("probe")}
    told |= {refused.name for refused in card.refused if refused.why == SAID}
    free = card.of_kind("free")
    naming, asked = (head.apply_numpy(half.values)[:, free] for half in (one, other))
    found = {"free": agreement(naming, asked, one, other.items, what, told)}
    naming, asked = random_of(head, card.of_kind("anchor", "point", "probe"), one, other, len(free), seed)
    return found | {"random": agreement(naming, asked, one, other.items, what, told)}


def words_tell(sample: Sample, columns: Sequence[str]) -> dict[str, Any]:
    """How well texts tell the common values of an attribute, and how well photos do: median AUC, products left out."""
    items = sample.items
    values = [p for p in common_enough(items, least_photos(len(items.ids)), 1) if items.traits[p].source == columns[0]]
    words = [
        place for place, trait in enumerate(items.traits) if trait.word and len(items.rows[place]) >= LEAST_TELLING
    ]
    if not values or not words:
        return {}
    flags, texts = items.flags(values), items.flags(words).astype(np.float32)
    folds = folds_of(items.groups)
    promised = hidden(sample, columns).promised
    told: dict[str, float] = {"values": len(values), "words": len(words), "promise": sum(p in promised for p in words)}
    for name, features in (("texts", texts), ("photos", sample.values)):
        found = fit_probes(Scale.of(features)(features), flags.astype(np.float32), folds)
        told[name] = round(float(np.median(auc(found.left_out, flags))), 3)
    return told


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
    clear = [share for run in runs for share in run.clear]
    hundredth = [share for run in runs for share in run.hundredth]
    return {
        "codes": sum(run.codes for run in runs),
        "named": sum(run.named for run in runs),
        "tell": len(clear),
        "agrees": statistics.fmean(clear) if clear else 0.0,
        "hundredth_agrees": statistics.fmean(hundredth) if hundredth else 0.0,
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
    told["names"], told["words"] = {}, {}
    for name, hide in attributes.items():
        told["words"][name] = words_tell(sample, hide)
        print(f"{name}, by words and by photos: {told['words'][name]}", flush=True)
        found = [names_hold(sample, hide, seed) for seed in range(1 if options.quick else options.seeds)]
        told["names"][name] = {kind: summary(found, kind) for kind in ("free", "random")}
        for kind, line in told["names"][name].items():
            print(
                f"{name} hidden, {kind}: {line['named']} of {line['codes']} named, {line['tell']} names tell it; "
                f"{line['agrees']:.2f} agree, {line['hundredth_agrees']:.2f} of one photo in a hundred",
                flush=True,
            )
    ratios = {"auc_median": told["probes"]["all"]["median"]}
    ratios |= {f"names_{name}": found["free"]["agrees"] for name, found in told["names"].items()}
    ratios |= {f"names_{name}_random": found["random"]["agrees"] for name, found in told["names"].items()}
    if told["names"]:
        ratios["names"] = statistics.fmean(found["free"]["agrees"] for found in told["names"].values())
    finish("whitebox_concepts", ratios, **told)


if __name__ == "__main__":
    main()
