"""A photo is made warmer, brighter, greener: does the right concept move, what else moves, and what would sell more?

Legend: n pairs of a photo and its rendering, K concepts, V factors, R test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.whitebox_bank import Bank
from benchmarks.whitebox_rendering import FACTORS, Rendered
from benchmarks.whitebox_truth import Truth
from crossmedia.imgserver.vision.photometry import ANCHORS

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Photos, and the same with one factor moved.

    Attributes:
        photo: shape (n,).
        factor: which of ``FACTORS`` was moved, shape (n,).
        step: by how many of its standard deviations it was meant to be, shape (n,).
        before, after: features, shape (n, F).
    """

    photo: npt.NDArray[np.int64]
    factor: npt.NDArray[np.int64]
    step: Floats
    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32]

    @classmethod
    def of(cls, rendered: Rendered, deviations: Floats) -> Pairs:
        """Those of the renderings that ``single_steps`` asked for; photos that are changed in nothing are no pairs."""
        steps = rendered.change / deviations
        moved, factor = np.abs(steps).max(axis=1) > 0, np.abs(steps).argmax(axis=1)
        original = {int(photo): row for row, photo in enumerate(rendered.photo) if not moved[row]}
        rows = np.flatnonzero(moved)
        own = np.array([original[int(photo)] for photo in rendered.photo[rows]])
        size = steps[rows, factor[rows]]
        return cls(rendered.photo[rows], factor[rows], size, rendered.features[own], rendered.features[rows])

    def measured(self) -> Floats:
        """What the pixels say that each factor moved by, in grey levels, shape (n, 3)."""
        places = [ANCHORS.index(name) - len(ANCHORS) for name in FACTORS]
        found: Floats = 255.0 * (self.after[:, places] - self.before[:, places]).astype(np.float64)
        return found


@dataclass(frozen=True)
class Moved:
    """What a factor's pairs moved.

    Attributes:
        right: share of the pairs in which the concept of the factor moved the right way.
        own: by how much it moved, of a step of one standard deviation, in its own.
        others: how much the concepts of the other factors moved, of each pair, beside the own: the mean of sizes.
        drift: the same of the means: what moves the same way in all pairs.
        most: the other concepts that move most, with how much, in standard deviations of a step of one.
    """

    factor: str
    right: float
    own: float
    others: float
    drift: float
    most: tuple[tuple[str, float], ...]


def moved(bank: Bank, pairs: Pairs, deviations: Floats, names: Sequence[str] = tuple(FACTORS)) -> list[Moved]:
    """What each factor moves.

    Args:
        bank: makes concepts of features.
        pairs: photos and renderings.
        deviations: of each concept over the photos, shape (K,).
        names: the concept of each factor.
    """
    change = (bank.of(pairs.after) - bank.of(pairs.before)) / deviations
    places = [bank.card.place(name) for name in names]
    found = []
    for number, factor in enumerate(FACTORS):
        rows = pairs.factor == number
        own, other = change[rows, places[number]], change[rows][:, [p for p in places if p != places[number]]]
        by_step = (change[rows] / pairs.step[rows, None]).mean(axis=0)
        order = [place for place in np.argsort(-np.abs(by_step)) if place != places[number]][:4]
        found.append(
            Moved(
                factor,
                float((own * pairs.step[rows] > 0).mean()),
                float(by_step[places[number]]),
                float(np.abs(other).mean(axis=0).max() / np.abs(own).mean()),
                float(np.abs(other.mean(axis=0)).max() / np.abs(own).mean()),
                tuple((bank.card.names[place], float(by_step[place])) for place in order),
            )
        )
    return found


@dataclass(frozen=True)
class WhatIf:
    """What rendered photos would add to the logit of their rows, by a model and in truth, a pair each.

    Attributes:
        model, truth: shape (n,).
    """

    model: Floats
    truth: Floats

    @property
    def slope(self) -> float:
        """Of the model's on the true one, through 0: 1 is right."""
        return float(self.model @ self.truth / (self.truth @ self.truth))

    @property
    def correlation(self) -> float:
        """Of the two, over pairs."""
        return float(np.corrcoef(self.model, self.truth)[0, 1])


def what_if(bank: Bank, pairs: Pairs, truth: Truth, slopes: Floats, items: Sequence[str]) -> WhatIf:
    """What the photo of each pair would add if it were its rendering: the mean over the test rows that show it.

    Args:
        bank: makes the concepts that the model knows.
        pairs: photos and renderings.
        truth: of the simulator; what all tastes have in common.
        slopes: what one more of each concept adds to each test row, shape (R, K).
        items: of the test rows.
    """
    shown = np.array([truth.photo_of[item] for item in items])
    known = np.isin(pairs.photo, shown)
    change = (bank.of(pairs.after) - bank.of(pairs.before))[known]
    means = {int(photo): slopes[shown == photo].mean(axis=0) for photo in np.unique(pairs.photo[known])}
    own = np.stack([means[int(photo)] for photo in pairs.photo[known]])
    true = (pairs.measured()[known] / truth.scale) @ truth.taste
    return WhatIf((own * change).sum(axis=1), true)
