"""Build a head of concepts: from stored features and a table of items to a head and the card of its numbers.

    anchors   numbers of the pixels, as they stand in the feature
    points    what a merchant points out, by examples
    probes    values of columns and words of titles that photos left out show
    rest      what the named ones leave: the directions of the most variance, 8 numbers
    free      what groups of photos have in common beyond that, and other seeds find again

Every number is linear in the feature; free ones are cut at 0. Legend: n photos, F numbers in a feature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossmedia.concepts import CONCEPTS, MAX_NAME, Concept, ConceptCard, Refused, one_line
from crossmedia.errors import BadInput
from crossmedia.imgserver.concepts.choosing import Choice, choose
from crossmedia.imgserver.concepts.dictionary import RETURNS, FreeCodes, free_codes
from crossmedia.imgserver.concepts.items import Items, Trait, common_enough
from crossmedia.imgserver.concepts.linear import (
    FOLDS,
    Affine,
    Doubles,
    Flags,
    Floats,
    Scale,
    auc,
    fit_probes,
    folds_of,
    logits,
)
from crossmedia.imgserver.concepts.naming import LEAST_LOOKS, Words, names_of_codes, naming_photos
from crossmedia.imgserver.concepts.pixels import PixelNumbers, pixel_probes
from crossmedia.imgserver.concepts.sample import Sample
from crossmedia.imgserver.head import Head, linear_head
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.vision.photometry import ANCHORS

MOST, REST, MOST_FREE = 96, 8, 16  # numbers in a vector, and of them
LEAST_AUC = 0.85
LEAST_PHOTOS, LEAST_SHARE, FEWEST = 200, 0.04, 8
LEAST_EXAMPLES = 10  # of a selling point
LEAST_SAMPLE = 64
SHOWN = 9  # photos of a concept
SAID = "what is told says it already, with a correlation of .95 or more"


def least_photos(photos: int) -> int:
    """How many photos must have a value: 200; 4 in 100 of a catalogue of fewer than 5,000, and never fewer than 8."""
    return max(FEWEST, min(LEAST_PHOTOS, round(LEAST_SHARE * photos)))


def least_naming(photos: int) -> int:
    """How many photos must have a word that may name a free concept: 20, and fewer of a small catalogue."""
    return max(3, least_photos(photos) // 10)


@dataclass(frozen=True)
class Measured:
    """What probes found of traits, before any of them is chosen.

    Attributes:
        places: of the traits in ``Items``, V of them.
        flags: which photos have them, shape (n, V).
        auc: on photos left out, shape (V,).
        numbers: calibrated logits, of scaled features.
        penalty: that was used.
    """

    places: tuple[int, ...]
    flags: Flags
    auc: Doubles
    numbers: Affine
    penalty: float


def measure(scaled: Floats, items: Items, places: Sequence[int]) -> Measured:
    """Probes for traits, and how well they tell the photos that have them from others, on photos left out.

    Args:
        scaled: features, shape (n, F).
        items: what the photos have.
        places: of the traits that are asked for.
    """
    flags = items.flags(places)
    if not places:
        return Measured((), flags, np.zeros(0), Affine(np.zeros((scaled.shape[1], 0)), np.zeros(0)), 0.0)
    found = fit_probes(scaled, flags.astype(np.float32), folds_of(items.groups))
    return Measured(tuple(places), flags, auc(found.left_out, flags), logits(found, flags), found.penalty)


def build_concepts(
    sample: Sample, without: Sequence[int] = (), pixels: PixelNumbers | None = None
) -> tuple[Head, ConceptCard]:
    """The head and the card.

    Args:
        sample: what is learnt from.
        without: places of traits that are not told, as when the names of free concepts are examined.
        pixels: numbers of the pixels of some of the photos, where the features do not hold them.

    Raises:
        BadInput: too few photos.
    """
    items = sample.items
    _check_size(items)
    n, scale, hidden = len(items.ids), Scale.of(sample.values), set(without)
    scaled = scale(sample.values)
    anchors, repeated = _anchors(sample, scale, scaled, pixels)
    asked = [p for p in common_enough(items, least_photos(n), LEAST_EXAMPLES) if p not in hidden]
    measured = measure(scaled, items, asked)
    probes, refused, told = _probes(measured, items, scaled, anchors.numbers)
    named = anchors.numbers.beside(probes.numbers)
    left = _left(scaled, named.scaled(Scale.of(named.of(scaled))), scaled.shape[1] - sample.anchors)
    over = left.of(scaled)
    codes = free_codes(over, items.groups)
    free = _free(codes, left, over, scaled, Words.of(items, least_naming(n), hidden | told))
    head, card = _assembled(sample, scale, scaled, (anchors, probes, _rest(left, over), free))
    if lost := codes.found - len(free.concepts):
        refused = (*refused, Refused("free", f"{lost} codes", 0, f"no other seed found them again, or {MOST_FREE} did"))
    rules = (
        *(("photos of a value", float(least_photos(n))), ("examples of a point", float(LEAST_EXAMPLES))),
        *(("AUC on photos left out", LEAST_AUC), ("penalty", measured.penalty), ("correlation to return", RETURNS)),
        ("naming photos that look like the word", LEAST_LOOKS),
    )
    return head, replace(card, refused=(*repeated, *refused, *_too_few(items, asked)), rules=rules)


@dataclass(frozen=True)
class _Part:
    """Some numbers of the vector, of scaled features; what is shown of the concepts is not known yet."""

    concepts: tuple[Concept, ...]
    numbers: Affine


def _check_size(items: Items) -> None:
    n, groups = len(items.ids), len(np.unique(items.groups))
    if n < LEAST_SAMPLE or groups < 2 * FOLDS:
        raise BadInput(
            f"Concepts are learnt from {LEAST_SAMPLE} photos of {2 * FOLDS} groups at least; the store and the table "
            f"of items have {n} photos in common, of {groups} groups."
        )


def _anchors(
    sample: Sample, scale: Scale, scaled: Floats, pixels: PixelNumbers | None
) -> tuple[_Part, tuple[Refused, ...]]:
    """Numbers of the pixels, in their own units: those that say what the ones before them do not."""
    if pixels is not None:
        concepts, numbers, refused = pixel_probes(pixels, scaled, sample.items.groups)
    else:
        place = scaled.shape[1] - sample.anchors + np.arange(sample.anchors)
        weight = np.zeros((scaled.shape[1], sample.anchors))
        weight[place, np.arange(sample.anchors)] = scale.deviation[place]
        concepts = tuple(Concept(name, "anchor", value=name) for name in ANCHORS[: sample.anchors])
        numbers, refused = Affine(weight, scale.mean[place]), ()
    values = numbers.of(scaled)
    chosen = choose(Scale.of(values)(values), values[:, :0], range(len(concepts)), len(concepts))
    refused += tuple(Refused("anchor", concepts[number].name, 0, SAID) for number in chosen.said)
    return _Part(tuple(concepts[n] for n in chosen.taken), numbers.columns(list(chosen.taken))), refused


def _probes(
    measured: Measured, items: Items, scaled: Floats, anchors: Affine
) -> tuple[_Part, tuple[Refused, ...], set[int]]:
    """Those that hold and say something new: points before columns, columns before words, what many have before few.

    Returns:
        them, what is refused, and the places of the traits that are told then, by a number of their own or by others.
    """
    traits = [items.traits[place] for place in measured.places]
    counts = measured.flags.sum(axis=0).tolist()
    holds = np.flatnonzero(measured.auc >= LEAST_AUC).tolist()
    order = sorted(holds, key=lambda v: (_stage(traits[v]), -counts[v], v))
    outputs, before = measured.numbers.of(scaled), anchors.of(scaled)
    room = MOST - REST - MOST_FREE - before.shape[1]
    chosen = choose(Scale.of(outputs)(outputs), Scale.of(before)(before), order, room)
    concepts = tuple(
        Concept(one_line(t.name), t.kind, t.source, t.value, counts[v], auc=float(measured.auc[v]))
        for v, t in ((v, traits[v]) for v in chosen.taken)
    )
    refused = tuple(
        Refused(traits[v].kind, traits[v].name, counts[v], why, float(measured.auc[v]))
        for v, why in sorted(_reasons(measured, chosen).items())
    )
    told = {measured.places[v] for v in (*chosen.taken, *chosen.said)}
    return _Part(concepts, measured.numbers.columns(list(chosen.taken))), refused, told


def _too_few(items: Items, asked: Sequence[int]) -> tuple[Refused, ...]:
    """Selling points, and columns without any value, of which too few photos have anything to be judged by."""
    judged, least = set(asked), least_photos(len(items.ids))
    points = [
        Refused("point", one_line(trait.name), len(rows), f"{LEAST_EXAMPLES} photos of several products are asked for")
        for place, (trait, rows) in enumerate(zip(items.traits, items.rows, strict=True))
        if trait.kind == "point" and place not in judged
    ]
    probed = {items.traits[place].source for place in asked}
    values = Counter(trait.source for trait in items.traits if trait.kind == "probe" and trait.source not in probed)
    why = f"values or words; none is had by at least {least} photos and lacked by at least {least}"
    return (*points, *(Refused("probe", source, 0, f"{many:,} {why}") for source, many in values.items()))


def _stage(trait: Trait) -> int:
    return 0 if trait.kind == "point" else 2 if trait.word else 1


def _reasons(measured: Measured, chosen: Choice) -> dict[int, str]:
    """Why columns are not told."""
    why = dict.fromkeys(chosen.said, SAID)
    why |= dict.fromkeys(chosen.crowded, f"a vector has {MOST} numbers, and others say more that is new")
    for place in np.flatnonzero(measured.auc < LEAST_AUC).tolist():
        why[place] = f"AUC {measured.auc[place]:.2f} on photos left out; {LEAST_AUC} is asked for"
    return why


def _left(scaled: Floats, named: Affine, width: int) -> Affine:
    """What linear functions of the named numbers do not explain of the first ``width`` numbers of scaled features."""
    said = named.of(scaled)
    # Least squares, with a little of ridge for concepts that are alike.
    gram = (said.T @ said).astype(np.float64) / len(said) + 1e-3 * np.eye(said.shape[1])
    explains = np.linalg.solve(gram, (said.T @ scaled[:, :width]).astype(np.float64) / len(said))
    return Affine(np.eye(scaled.shape[1], width) - named.weight @ explains, -named.bias @ explains)


def _rest(left: Affine, over: Floats) -> _Part:
    """The directions of the most variance of what is left over, shape (n, F')."""
    vectors = np.linalg.eigh((over.T @ over).astype(np.float64) / len(over))[1][:, ::-1][:, :REST]
    # eigh leaves the sign open; fix it, so that the same features give the same head.
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    concepts = tuple(Concept(f"rest {number}", "rest") for number in range(1, vectors.shape[1] + 1))
    return _Part(concepts, left.then(vectors))


def _free(codes: FreeCodes, left: Affine, over: Floats, scaled: Floats, words: Words) -> _Part:
    """Free concepts: those that have a name before those that have none, and then the most stable ones."""
    values, least = np.maximum(codes.numbers.of(over), 0), least_photos(len(over))
    names = names_of_codes(values, scaled, words, least)
    chosen = sorted(range(len(names)), key=lambda code: not names[code])[:MOST_FREE]
    concepts = tuple(
        Concept(
            one_line(names[code][0].text) if names[code] else f"unnamed {number}",
            "free",
            photos=len(naming_photos(values[:, code], least)),
            stability=float(codes.stability[code]),
            tokens=names[code],
        )
        for number, code in enumerate(chosen, start=1)
    )
    numbers = codes.numbers.columns(chosen)
    return _Part(concepts, left.then(numbers.weight, numbers.bias))


def _assembled(sample: Sample, scale: Scale, scaled: Floats, parts: tuple[_Part, ...]) -> tuple[Head, ConceptCard]:
    """One linear layer over features as they are stored, free numbers last, and what is known of each number."""
    numbers = parts[0].numbers.beside(*(part.numbers for part in parts[1:]))
    free = len(parts[-1].concepts)
    plain = numbers.weight.shape[1] - free
    values = numbers.of(scaled)
    values[:, plain:] = np.maximum(values[:, plain:], 0)
    found = Scale.of(values)
    found = Scale(np.where(np.arange(len(found.mean)) < plain, found.mean, 0.0), found.deviation)
    weight = (numbers.scaled(found).weight.T / scale.deviation).astype(np.float64)
    bias = numbers.scaled(found).bias - weight @ scale.mean
    head = linear_head(CONCEPTS, weight, bias, rectified=free, backbone=sample.features.name)
    concepts = [concept for part in parts for concept in part.concepts]
    told = tuple(
        _shown(concept, values[:, place], sample.items.ids, float(found.mean[place]), float(found.deviation[place]))
        for place, concept in enumerate(_told_apart(concepts))
    )
    groups = len(np.unique(sample.items.groups))
    return head, ConceptCard(head.name, sample.features.name, len(sample.items.ids), groups, told)


def _told_apart(concepts: list[Concept]) -> list[Concept]:
    """Each with a name of its own: a second one of a name gets a number."""
    used: set[str] = set()
    found = []
    for concept in concepts:
        name, number = concept.name, 2
        while name in used:
            last = f" ({number})"
            name, number = concept.name[: MAX_NAME - len(last)] + last, number + 1
        used.add(name)
        found.append(replace(concept, name=name))
    return found


def _shown(concept: Concept, values: Floats, ids: Ids, mean: float, deviation: float) -> Concept:
    """A concept with its unit, and the photos that have the most and the least of it."""
    order = np.argsort(-values, kind="stable")
    most = order[:SHOWN] if concept.kind != "free" else [place for place in order[:SHOWN] if values[place] > 0]
    least = () if concept.kind == "free" else order[::-1][:SHOWN]
    clear = float(np.median(values[order[: concept.photos]])) / deviation if concept.kind == "free" else None
    shown = replace(concept, most=tuple(ids[most].tolist()), least=tuple(ids[list(least)].tolist()))
    return replace(shown, clear=clear, mean=mean, deviation=deviation)
