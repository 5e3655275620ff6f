"""How sure effects of concepts are: how far users and items of the test rows could be off by chance, and seeds.

All seeds learn from the same clicks, so that seeds alone say too little: an effect that the clicks show by chance is
the same in each. The first part is that of a logistic regression of the test rows on their concepts, with the
model's penalty, where rows of one user, and of one item, go together: the sandwich of Liang and Zeger (Biometrika,
1986) for two kinds of groups (Cameron, Gelbach and Miller, JBES 2011).

Legend: R rows, C concepts, S seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.95
Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """What came of the test rows.

    Attributes:
        labels: shape (R,), 0 or 1.
        probabilities: shape (R,), as predicted, the mean of the seeds.
        amounts: shape (R, C), how much the ad has of each concept; 0 where it has no vector.
        users: shape (R,), number of each row's user.
        items: shape (R,), number of each row's item.
        precision: shape (C,), what the penalty of the model adds to the information of each row.
    """

    labels: npt.NDArray[Any]
    probabilities: Floats
    amounts: npt.NDArray[Any]
    users: Groups
    items: Groups
    precision: Floats

    def along(self, direction: Floats, rows: npt.NDArray[np.bool_]) -> Outcomes:
        """Some of the rows, with a mix of concepts in place of each; its effect stands for what goes with it, too.

        Args:
            direction: shape (C,), how much of each concept there is in one of the mix.
            rows: shape (R,), which.
        """
        own = direction != 0
        with np.errstate(divide="ignore"):
            precision = 1 / (direction[own] ** 2 @ (1 / self.precision[own]))
        return Outcomes(
            self.labels[rows],
            self.probabilities[rows],
            (self.amounts[rows] @ direction / (direction @ direction))[:, None],
            self.users[rows],
            self.items[rows],
            np.array([precision]),
        )

    @property
    def groups(self) -> int:
        """Users or items, whichever are fewer."""
        return min(len(np.unique(self.users)), len(np.unique(self.items)))


def covariance(rows: Outcomes) -> Floats:
    """Of the effects of concepts, as far as users and items of these rows leave them open, shape (C, C)."""
    weights = rows.probabilities * (1 - rows.probabilities)
    amounts = rows.amounts - np.average(rows.amounts, axis=0, weights=weights + 1e-12)
    information = (weights[:, None] * amounts).T @ amounts + len(amounts) * np.diag(rows.precision)
    scores = (rows.labels - rows.probabilities)[:, None] * amounts
    both = rows.users * (int(rows.items.max(initial=0)) + 1) + rows.items
    spread = _of_groups(scores, rows.users) + _of_groups(scores, rows.items) - _of_groups(scores, both)
    inverse = np.linalg.inv(information)
    values, vectors = np.linalg.eigh(inverse @ spread @ inverse)
    found: Floats = (vectors * np.maximum(values, 0)) @ vectors.T  # three estimates together may fall below 0
    return found


def _of_groups(scores: Floats, groups: Groups) -> Floats:
    """The sum over groups of the squares of their sums, shape (C, C)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sums = np.add.reduceat(scores[order], starts, axis=0)
    found: Floats = sums.T @ sums
    return found


def half_width(errors: Floats, groups: int, of_seeds: Floats, comparisons: int = 1) -> Floats:
    """Half of the 95 % interval of some effects.

    Args:
        errors: standard errors by users and items.
        groups: users or items, whichever are fewer.
        of_seeds: shape (S, …), the effects of each seed.
        comparisons: so many intervals are to hold together (Bonferroni).
    """
    tail = 1 - (1 - LEVEL) / 2 / comparisons
    by_rows = stats.t.ppf(tail, max(1, groups - 1)) * errors
    seeds = len(of_seeds)
    if seeds < 2:
        return np.asarray(by_rows, dtype=np.float64)
    by_seeds = stats.t.ppf(tail, seeds - 1) * of_seeds.std(axis=0, ddof=1) / np.sqrt(seeds)
    return np.asarray(np.hypot(by_rows, by_seeds), dtype=np.float64)
