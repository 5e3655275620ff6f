"""What a difference between two models would be with other users, other items and other seeds: its 95 % interval.

Rows are no independent draws: those of one user, and those of one item, are alike. The pigeonhole bootstrap (Owen 2007,
"The pigeonhole bootstrap", Annals of Applied Statistics 1(2), section 3) draws users with replacement, and items with
replacement and independently of them; a row counts as often as its user was drawn times as often as its item was. What
users and items vary is counted once, what single rows vary up to three times (section 4): no interval is too narrow,
and where there are few rows a user and an item it is too wide.
docs/adr/0040 says why the interval is made so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array

Array = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]
Metric = Literal["auc", "gauc"]
NORMAL95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval.

    Attributes:
        mean: the figure of the rows as they are; NaN when they have none.
        low, high: the interval's ends, as far below ``mean`` as above it; NaN when too few draws have the metric.

    Example:
        >>> from crossmedia.trainer.metrics.bootstrap import Interval
        >>> Interval(0.004, 0.001, 0.007).above_zero, Interval(0.004, -0.001, 0.009).above_zero
        (True, False)
    """

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """What stands behind ±."""
        return (self.high - self.low) / 2

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above 0: the first is better, whoever had come."""
        return self.low > 0


@dataclass(frozen=True)
class PairedRows:
    """Rows that two sides predicted, each side with one model a seed.

    Attributes:
        label: shape (B,), 0 or 1.
        first, second: predictions, shape (S, B), with one seed a line; or (B,), of what has no seed.
        users, items: who and what each row is of, shape (B,), codes or keys of any kind.
    """

    label: Array
    first: Array
    second: Array
    users: Array
    items: Array


class Reweighted:
    """AUC, or GAUC with impressions as weights, of the same rows under many weights: they are sorted only once.

    Args:
        label: shape (B,), 0 or 1.
        predictions: shape (B,), any scale.
        groups: shape (B,), the user of each row; the same for all is AUC.
    """

    def __init__(self, label: Array, predictions: Array, groups: Array):
        self.order = np.lexsort((predictions, groups))
        p, g = np.asarray(predictions)[self.order], np.asarray(groups)[self.order]
        self.positive = (np.asarray(label)[self.order] > 0.5).astype(np.float64)
        new_group = np.append(True, g[1:] != g[:-1])
        new_tie = new_group | np.append(True, p[1:] != p[:-1])
        self.ties = np.flatnonzero(new_tie)  # first row of each tie
        self.groups = np.flatnonzero(new_group[self.ties])  # first tie of each group

    def __call__(self, weights: Float64Array) -> float:
        """The metric, where a row counts as often as its weight says; NaN when no group has both classes.

        Args:
            weights: shape (B,), at least 0.
        """
        w = weights[self.order]
        rows, positives = _sums(w, self.ties), _sums(w * self.positive, self.ties)
        negatives = rows - positives
        upto = np.cumsum(negatives)
        # Negatives below a tie and half of those in it, in all groups; those of the groups before are taken off again.
        wins = _sums(positives * (upto - negatives / 2), self.groups)
        before = upto[self.groups] - negatives[self.groups]
        rows, positives, negatives = (_sums(each, self.groups) for each in (rows, positives, negatives))
        wins -= positives * before
        counts = (positives > 0) & (negatives > 0)
        if not counts.any():
            return float("nan")
        each = wins[counts] / (positives[counts] * negatives[counts])
        return float((each * rows[counts]).sum() / rows[counts].sum())


def paired_interval(
    label: Array,
    first: Array | Sequence[Array],
    second: Array | Sequence[Array],
    users: Array,
    items: Array,
    *,
    metric: Metric,
    draws: int = 200,
    seed: int = 0,
) -> Interval:
    """By how much the metric of ``first`` is above that of ``second`` on the same rows, with a 95 % interval.

    Args:
        label: shape (B,), 0 or 1.
        first: predictions, shape (B,), or one such array a seed.
        second: as ``first``; where both have seeds, those of one place are a pair.
        users: shape (B,), who each row is of; GAUC is over these.
        items: shape (B,), what each row is of.
        metric: ``auc``, or ``gauc`` with a user's impressions as weight.
        draws: how often users, items and seeds are drawn.
        seed: of the draws.

    Raises:
        ValueError: the arrays are not of one length, or the sides have different numbers of seeds.

    Example:
        >>> import numpy as np
        >>> from crossmedia.trainer.metrics.bootstrap import paired_interval
        >>> rng = np.random.default_rng(0)
        >>> users, items = rng.integers(0, 50, 2000), rng.integers(0, 40, 2000)
        >>> label = (rng.random(2000) < items / 40).astype(int)
        >>> found = paired_interval(label, items, rng.random(2000), users, items, metric="auc")
        >>> found.above_zero, found.low < found.mean < found.high
        (True, True)
    """
    rows = PairedRows(np.asarray(label), np.asarray(first), np.asarray(second), np.asarray(users), np.asarray(items))
    return interval_over([rows], metric=metric, draws=draws, seed=seed)


def interval_over(sets: Sequence[PairedRows], *, metric: Metric, draws: int = 200, seed: int = 0) -> Interval:
    """As ``paired_interval``, of several sets of rows, such as those of several hold-outs.

    The figure is the mean over the sets of the mean over their seeds. A draw draws sets and, within each, seeds; a user
    or an item that several sets have is drawn for all of them at once.

    Args:
        sets: at least one; ``users`` and ``items`` mean the same in all.
        metric: as for ``paired_interval``.
        draws: as for ``paired_interval``.
        seed: as for ``paired_interval``.

    Raises:
        ValueError: as ``paired_interval``.
    """
    mean, found = differences_over(sets, metric=metric, draws=draws, seed=seed)
    defined = found[np.isfinite(found)]
    # A draw without both classes says nothing. Where that is no exception, the rows are too few for an interval.
    half = NORMAL95 * float(defined.std(ddof=1)) if len(defined) > max(1, 0.9 * draws) else float("nan")
    return Interval(mean, mean - half, mean + half)


def differences_over(
    sets: Sequence[PairedRows], *, metric: Metric, draws: int = 200, seed: int = 0
) -> tuple[float, Float64Array]:
    """The difference that ``interval_over`` is of, and that of each draw, shape (draws,); NaN where it has none.

    With one seed of the draws, the same users, items, sets and seeds are drawn for any predictions of the same rows, so
    that draws of several differences belong together, as for the interval of a ratio.

    Args:
        sets: as for ``interval_over``.
        metric: as for ``paired_interval``.
        draws: as for ``paired_interval``.
        seed: as for ``paired_interval``.

    Raises:
        ValueError: as ``paired_interval``.
    """
    user_codes, n_users = _codes([rows.users for rows in sets])
    item_codes, n_items = _codes([rows.items for rows in sets])
    scored = [_Scored(*each, metric) for each in zip(sets, user_codes, item_codes, strict=True)]
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for number in range(draws):
        of_user, of_item = _times_drawn(n_users, rng), _times_drawn(n_items, rng)
        chosen = _times_drawn(len(scored), rng)
        differences = [
            each.difference(of_user[each.users] * of_item[each.items], _times_drawn(each.seeds, rng)) if times else 0.0
            for each, times in zip(scored, chosen, strict=True)
        ]
        found[number] = np.average(differences, weights=chosen)
    return float(np.mean([each.difference(np.ones(len(each.users)), np.ones(each.seeds)) for each in scored])), found


class _Scored:
    """A set of rows, sorted by each of its predictions."""

    def __init__(self, rows: PairedRows, users: Int64Array, items: Int64Array, metric: Metric):
        groups = users if metric == "gauc" else np.zeros_like(users)
        sides = [np.atleast_2d(side) for side in (rows.first, rows.second)]
        if {len(rows.label), len(users), len(items), *(side.shape[1] for side in sides)} != {len(users)}:
            raise ValueError("labels, predictions, users and items are not of one length")
        self.users, self.items = users, items
        self.seeds = max(len(side) for side in sides)
        if any(len(side) not in (1, self.seeds) for side in sides):
            raise ValueError(f"the sides have {len(sides[0])} and {len(sides[1])} seeds: they are no pairs")
        self._sides = [[Reweighted(rows.label, each, groups) for each in side] for side in sides]

    def difference(self, weights: Float64Array, of_seed: Float64Array) -> float:
        """First less second, where each row and each seed counts as often as is said."""
        first, second = (self._mean(side, weights, of_seed) for side in self._sides)
        return first - second

    def _mean(self, side: list[Reweighted], weights: Float64Array, of_seed: Float64Array) -> float:
        if len(side) == 1:
            return side[0](weights)
        drawn = np.flatnonzero(of_seed)
        return float(np.average([side[number](weights) for number in drawn], weights=of_seed[drawn]))


def _sums(values: Float64Array, starts: Int64Array) -> Float64Array:
    """Sums of stretches of ``values``, by where each starts; the first starts at 0."""
    return values if len(starts) == len(values) else np.add.reduceat(values, starts)


def _codes(keys: list[Array]) -> tuple[list[Int64Array], int]:
    """Each key's number among all that there are, and how many there are."""
    values, codes = np.unique(np.concatenate(keys), return_inverse=True)
    return np.split(codes, np.cumsum([len(each) for each in keys])[:-1]), len(values)


def _times_drawn(n: int, rng: np.random.Generator) -> Float64Array:
    """How often each of ``n`` was drawn when ``n`` are drawn with replacement, shape (n,)."""
    return np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
