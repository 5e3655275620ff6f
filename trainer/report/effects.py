"""Effects of concepts on the logit and on what is predicted, with intervals, and for whom they differ.

Legend: S runs, R rows, C concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.report.certainty import covariance, half_width
from crossmedia.trainer.report.explained_rows import ExplainedRows

LEAST_ROWS, LEAST_SHARE, MOST_VALUES = 100, 0.02, 20  # of test rows of a value; of values of a column
CLEAR = 0.5  # standard deviations from the mean, from which on behaviours have a concept, or lack it
HAVING, LACKING = "users whose behaviours have it", "users whose behaviours lack it"
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]
Segments = list[tuple[str, Rows]]


@dataclass(frozen=True)
class Change:
    """A change of the logit with its 95 % interval, and what it does to what is predicted.

    Attributes:
        logit, low, high: the change, and the ends of its interval.
        times, times_low, times_high: by what the predictions are multiplied, their sum over the rows.
    """

    logit: float
    low: float
    high: float
    times: float
    times_low: float
    times_high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval has no zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """For whom an effect is another one.

    Attributes:
        who: in words.
        logit, low, high: the effect there less that on all rows; the interval holds for all differences together.
        rows: how many.
    """

    who: str
    logit: float
    low: float
    high: float
    rows: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval has no zero."""
        return self.low > 0 or self.high < 0


def times(logits: npt.NDArray[np.float32], added: npt.NDArray[np.float32], shift: float = 0.0) -> float:
    """By what a change multiplies the sum of what is predicted.

    Args:
        logits: shape (S, R).
        added: to the logits, the same shape.
        shift: that is added, too.
    """
    return float(_probability(logits + added + shift).sum() / _probability(logits).sum())


def _probability(logits: npt.NDArray[np.float32]) -> Floats:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def change(logits: npt.NDArray[np.float32], added: npt.NDArray[np.float32], half: float) -> Change:
    """The mean of what is added to some rows, with its interval.

    Args:
        logits: shape (S, R).
        added: the same shape.
        half: of the interval of the mean.
    """
    mean = float(added.mean(dtype=np.float64))
    ends = (times(logits, added, shift) for shift in (0.0, -half, half))
    return Change(mean, mean - half, mean + half, *ends)


class Certainty:
    """How sure the effects of some rows are; ``spread`` is the covariance of the effects, shape (C, C).

    Args:
        rows: of the test part, as they were shown.
    """

    def __init__(self, rows: ExplainedRows):
        self._rows, self.groups = rows, rows.outcomes.groups
        self.spread = covariance(rows.outcomes)

    @cached_property
    def halves(self) -> Floats:
        """Half of the interval of each concept's effect, shape (C,)."""
        return half_width(np.sqrt(np.diag(self.spread)), self.groups, _means(self._rows.slopes, self._rows.there))

    def of_sum(self, amounts: Floats, of_seeds: Floats) -> Floats:
        """Half of the interval of sums over concepts.

        Args:
            amounts: shape (n, C), what the sums have of each concept.
            of_seeds: shape (S, n), the sums by each run.
        """
        return half_width(np.sqrt(np.einsum("nc,cd,nd->n", amounts, self.spread, amounts)), self.groups, of_seeds)

    def differences(
        self, added: npt.NDArray[np.float32], direction: Floats, segments: Segments, comparisons: int
    ) -> list[Difference]:
        """For whom a change of the ad adds something else than for all, the largest difference first.

        Args:
            added: shape (S, R), to the logits of the rows.
            direction: shape (C,), what the change is, in concepts.
            segments: what rows are called, and which they are; those without a photo do not count.
            comparisons: differences that are looked at in all.
        """
        there = self._rows.there[:, direction != 0].all(axis=1)
        mean = added[:, there].mean(axis=1, dtype=np.float64)
        found = []
        for who, rows in segments:
            here = rows & there
            if here.sum() < LEAST_ROWS:
                continue
            outcomes = self._rows.outcomes.along(direction, here)
            of_seeds = added[:, here].mean(axis=1, dtype=np.float64) - mean
            error = np.sqrt(covariance(outcomes)[0, 0])
            half = float(half_width(error, outcomes.groups, of_seeds, comparisons))
            middle = float(of_seeds.mean())
            found.append(Difference(who, middle, middle - half, middle + half, int(here.sum())))
        return sorted(found, key=lambda one: -abs(one.logit))


def segments(rows: ExplainedRows, samples: Samples) -> Segments:
    """Rows by the values of users' and impressions' columns: those that are common enough to say something of."""
    found: Segments = []
    for name, places in rows.columns.items():
        counts = np.bincount(places)
        counts[0] = 0  # what is unknown is no group of users
        values, least = samples.vocabulary.values[name], max(LEAST_ROWS, LEAST_SHARE * len(places))
        most = np.argsort(-counts, kind="stable")[:MOST_VALUES].tolist()
        found += [(f"{name} {values[place - 1].as_py()}", places == place) for place in most if counts[place] >= least]
    return found


def by_behaviours(rows: ExplainedRows, concept: int) -> Segments:
    """Rows whose behaviours have a concept, and those whose behaviours lack it."""
    seen = rows.seen[:, concept]
    return [(HAVING, seen > CLEAR), (LACKING, seen < -CLEAR)]


def _means(values: npt.NDArray[np.float32], there: Rows) -> Floats:
    """Means over rows with a photo, shape (S, C)."""
    found: Floats = (values * there).sum(axis=1, dtype=np.float64) / np.maximum(there.sum(axis=0), 1)
    return found
