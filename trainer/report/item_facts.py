"""What a photo does for one item: what in it helps and hurts, for whom, beside its category, and what others would do.

The item is put into test rows in place of what was shown, so that its users are those of the test part, whether or not
they saw it.

Legend: S runs, R rows, C concepts, P items of the category.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from crossmedia.trainer.reasons.wording import in_words
from crossmedia.trainer.report.catalogue import Catalogue, Category
from crossmedia.trainer.report.concept_words import what_it_is
from crossmedia.trainer.report.decides import interval_over
from crossmedia.trainer.report.effects import Certainty, Change, Difference, by_behaviours, change, segments
from crossmedia.trainer.report.explained_rows import ExplainedRows, Place
from crossmedia.trainer.report.opened import Opened

CLEARLY = 0.5  # standard deviations from the mean at which a photo has much or little of something
LEAST, MOST = 0.5, 2.0  # standard deviations more that a photo has which shows what one more would be
LOOKED_AT = 8  # concepts of which it is asked for whom they differ
SIMILAR, OFFERED, DIFFERENCES = 4, 6, 6  # photos of a what-if, what-ifs, and differences that are shown
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Like:
    """A real item whose photo has more of a concept, or less, and is much the same otherwise.

    Attributes:
        item: its id, as the log has it.
        photos: space and image id of each of its photos.
        more: standard deviations that it has more.
        distance: in all other concepts, the root of the sum of squares.
    """

    item: str
    photos: tuple[tuple[str, int], ...]
    more: float
    distance: float


@dataclass(frozen=True)
class ItemConcept:
    """A concept of the item's photo.

    Attributes:
        name: of it.
        kind: one of ``crossmedia.concepts.KINDS``.
        what: it is, in words.
        said: what the photo has of it, much or little, in words.
        evidence: how well it is founded, in words; empty of what is measured in the pixels.
        space: of its vectors.
        named: whether its name means something to people.
        amount: how much the photo has, in standard deviations from the average photo of the catalogue.
        chance: that the photo has the value, of a probe or a selling point; None: of other kinds.
        rank: 1 of the item of the category that has the most.
        peers: items of the category that have a photo.
        adds: what it adds to the logit, mean over the rows, beside a photo that has the average of it.
        step: 1 or -1: the way that the model says sells more.
        what_if: what one standard deviation that way would do.
        was_seen: whether a photo of the catalogue has that much, or that little; else nobody knows what it would do.
    """

    name: str
    kind: str
    what: str
    said: str
    evidence: str
    space: str
    named: bool
    amount: float
    chance: float | None
    rank: int
    peers: int
    adds: Change
    step: int
    what_if: Change
    was_seen: bool

    @property
    def below(self) -> float:
        """Share of the other items of the category that have less of it, or as much."""
        return (self.peers - self.rank) / max(1, self.peers - 1)


@dataclass(frozen=True)
class WhatIf:
    """One standard deviation more, or less, of a concept, and real photos that have it."""

    concept: ItemConcept
    like: tuple[Like, ...]


@dataclass(frozen=True)
class ItemFacts:
    """The facts of the page of an item.

    Attributes:
        item: its id.
        model: that they are of.
        label: what is predicted.
        columns: what the item is, by column.
        looks: what of it has concepts, in words: ``photo``, or ``photo and title``.
        photos: space and image id of each of its photos.
        known: whether training has seen the item.
        category: column and value that it shares with what it is compared with; empty: all items.
        peers: how many these are, with a photo.
        rows: test rows that the item was put into.
        interval: what intervals are over.
        look: what its looks do beside those that have the average of each concept; None: the item has none.
        look_of_category: the same of the mean of the category, in logits.
        concepts: of the photo, those that add most first, whichever way; empty without a photo.
        what_ifs: of named concepts, those that would do most first.
        for_whom: concept, and for whom it adds something else than for all.
        others: what else adds to the logit, the mean over the rows, by what it is.
    """

    item: str
    model: str
    label: str
    columns: dict[str, str]
    looks: str
    photos: tuple[tuple[str, int], ...]
    known: bool
    category: tuple[str, str]
    peers: int
    rows: int
    interval: str
    look: Change | None
    look_of_category: float
    concepts: tuple[ItemConcept, ...]
    what_ifs: tuple[WhatIf, ...]
    for_whom: tuple[tuple[str, Difference], ...]
    others: dict[str, float]

    @property
    def unnamed(self) -> float:
        """What all concepts of the photo add that have no name, in logits."""
        return sum(one.adds.logit for one in self.concepts if not one.named)

    @property
    def differs(self) -> bool:
        """Whether any of ``for_whom`` can be told from chance."""
        return any(other.is_clear for _, other in self.for_whom)


def item_facts(found: Opened, item: str, column: str = "") -> ItemFacts:
    """The facts of an item.

    Args:
        found: runs with their samples and vectors.
        item: its id, as the log has it.
        column: that says its category; empty: the first whose name sounds like one.

    Raises:
        BadInput: the samples have no such item, or no such column.
    """
    catalogue = Catalogue(found)
    row = catalogue.row(item)
    category = catalogue.category(row, column)
    rows = found.rows(row)
    certainty = Certainty(found.rows())
    return _ItemPage(found, catalogue, category, row, rows, certainty).facts()


@dataclass(frozen=True)
class _ItemPage:
    """What the facts of an item are computed from: test rows with the item in them, and how sure effects are."""

    found: Opened
    catalogue: Catalogue
    category: Category
    row: int
    rows: ExplainedRows
    certainty: Certainty

    def facts(self) -> ItemFacts:
        there, runs = self.rows.there[0], self.found.runs
        amounts = np.where(there, self.rows.outcomes.amounts[0], 0.0)
        peers, with_photo = self.catalogue.amounts(self.category.rows)
        look, of_category, concepts = None, 0.0, list[ItemConcept]()
        if there.any():
            added = self.rows.values[:, :, there].sum(axis=2)
            half = float(self.certainty.of_sum(amounts[None], added.mean(axis=1, dtype=np.float64)[:, None])[0])
            look = change(self.rows.logits - added, added, half)
            slopes = self.rows.slopes.mean(axis=(0, 1), dtype=np.float64)
            mean = np.array(
                [peers[with_photo[:, c], c].mean() if with_photo[:, c].any() else 0.0 for c in range(len(there))]
            )
            of_category = float((slopes * mean)[there].sum())
            concepts = [self._concept(c, peers[with_photo[:, c], c]) for c in np.flatnonzero(there).tolist()]
        by_size = sorted(concepts, key=lambda one: -abs(one.adds.logit))
        others = zip(self.rows.group_names, self.rows.groups.mean(axis=(0, 1), dtype=np.float64).tolist(), strict=True)
        return ItemFacts(
            self.catalogue.names[self.row],
            runs.called,
            runs.models[0].spec.labels[0],
            self.catalogue.columns(self.row),
            self.found.looks,
            tuple(self.catalogue.photos(self.row)),
            self.catalogue.knows(self.row),
            (self.category.column, self.category.value),
            int(with_photo.any(axis=1).sum()),
            self.rows.logits.shape[1],
            interval_over(runs),
            look,
            of_category,
            tuple(by_size),
            self._what_ifs(by_size, amounts),
            self._for_whom(by_size, amounts),
            dict(sorted(others, key=lambda one: -abs(one[1]))),
        )

    def _number(self, name: str) -> int:
        return [place.name for place in self.rows.places].index(name)

    def _concept(self, number: int, peers: npt.NDArray[np.float32]) -> ItemConcept:
        """A concept of the photo, beside the items of the category that have one."""
        place, amount = self.rows.places[number], float(self.rows.outcomes.amounts[0, number])
        values, slopes = self.rows.values[:, :, number], self.rows.slopes[:, :, number]
        _, everything, there = self._others
        half = float(self.certainty.halves[number])
        step = 1 if slopes.mean() >= 0 else -1
        has = step * everything[there[:, number], number]
        return ItemConcept(
            place.name,
            place.concept.kind,
            what_it_is(place.concept),
            in_words(place.concept, amount > 0) if abs(amount) >= CLEARLY else place.concept.name,
            place.concept.evidence,
            place.space,
            place.concept.named,
            amount,
            _chance(place, amount),
            1 + int((peers > amount + 1e-6).sum()),
            len(peers),
            change(self.rows.logits - values, values, half * abs(amount)),
            step,
            change(self.rows.logits, step * slopes, half),
            bool((has >= step * amount + 1).any()),
        )

    def _what_ifs(self, concepts: list[ItemConcept], amounts: Floats) -> tuple[WhatIf, ...]:
        """What other photos would do: of the named concepts, the largest first, with real items that have it."""
        # Less of a number of the pixels is always something; less of a value only where the photo has it.
        able = [
            one
            for one in concepts
            if one.named and one.was_seen and (one.kind == "anchor" or one.step > 0 or one.amount >= LEAST)
        ]
        chosen = sorted(able, key=lambda one: -one.what_if.times)[:OFFERED]
        return tuple(WhatIf(one, tuple(self._like(one, amounts))) for one in chosen)

    @cached_property
    def _others(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Rows of items of the catalogue, how much each has of each concept, and whether it has a photo for it."""
        rows = self.catalogue.everything(self.row)
        return rows, *self.catalogue.amounts(rows)

    def _like(self, one: ItemConcept, amounts: Floats) -> list[Like]:
        """The items that have about one standard deviation more and differ least otherwise."""
        rows, has, there = self._others
        number = self._number(one.name)
        same = np.array([place.space == one.space for place in self.rows.places])
        moved = one.step * (has[:, number] - amounts[number])
        fits = np.flatnonzero((moved >= LEAST) & (moved <= MOST) & there[:, number] & (rows != self.row))
        same[number] = False
        far = np.sqrt(((has[fits][:, same] - amounts[same]) ** 2).sum(axis=1))
        order = fits[np.argsort(far, kind="stable")[:SIMILAR]]
        distances = np.sort(far, kind="stable")[:SIMILAR].tolist()
        return [
            Like(
                self.catalogue.names[rows[n]],
                tuple(self.catalogue.photos(int(rows[n]))),
                float(has[n, number] - amounts[number]),
                distance,
            )
            for n, distance in zip(order.tolist(), distances, strict=True)
        ]

    def _for_whom(self, concepts: list[ItemConcept], amounts: Floats) -> tuple[tuple[str, Difference], ...]:
        """Where concepts of the photo add something else than for all, the largest differences first."""
        looked = [self._number(one.name) for one in concepts[:LOOKED_AT]]
        of_columns = segments(self.rows, self.found.samples)
        asked = {number: [*of_columns, *by_behaviours(self.rows, number)] for number in looked}
        comparisons = max(1, sum(map(len, asked.values())))
        found = [
            (self.rows.places[number].name, difference)
            for number in looked
            for difference in self.certainty.differences(
                self.rows.values[:, :, number],
                amounts[number] * np.eye(len(amounts))[number],
                asked[number],
                comparisons,
            )
            if amounts[number]
        ]
        return tuple(sorted(found, key=lambda one: -abs(one[1].logit))[:DIFFERENCES])


def _chance(place: Place, amount: float) -> float | None:
    """That a photo has the value of a probe or a selling point."""
    if place.concept.kind not in ("probe", "point"):
        return None
    return float(1 / (1 + np.exp(-(place.concept.mean + place.concept.deviation * amount))))
