"""Draw negatives for a log of positives: items that the user never has in the log, uniformly and repeatably."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array
from crossmedia.features.hashing import draw
from crossmedia.features.spec import Negatives
from crossmedia.features.writing.on_sale import OnSale

TRIES = 30
NONE = -1


class Positives:
    """Which items each user has in the log, by their codes.

    Args:
        user: codes, shape (p,).
        item: codes, shape (p,).
        items: how many item codes there are.
    """

    def __init__(self, user: Int64Array, item: Int64Array, items: int):
        self.items = items
        self._pairs = np.unique(user * items + item)

    def hold(self, user: Int64Array, item: Int64Array) -> npt.NDArray[np.bool_]:
        """Whether each user has the item beside it, shape (n,)."""
        if not len(self._pairs):
            return np.zeros(len(user), dtype=np.bool_)
        pairs = user * self.items + item
        place = np.searchsorted(self._pairs, pairs)
        place[place == len(self._pairs)] = 0
        there: npt.NDArray[np.bool_] = self._pairs[place] == pairs
        return there

    def of(self, user: int) -> Int64Array:
        """The items of a user, ascending."""
        start, end = np.searchsorted(self._pairs, [user * self.items, (user + 1) * self.items])
        return self._pairs[start:end] - user * self.items


@dataclass(frozen=True)
class PositiveRows:
    """Rows of the log, n of them: number in the log, code of the user, seconds; shape (n,) each."""

    number: Int64Array
    user: Int64Array
    time: Int64Array

    def take(self, chosen: Int64Array) -> PositiveRows:
        """Some of the rows."""
        return PositiveRows(self.number[chosen], self.user[chosen], self.time[chosen])


class Candidates:
    """Items that may be drawn.

    Args:
        codes: of the items, ascending, shape (c,).
        on_sale: when they were on sale; None: all of them always are.
    """

    def __init__(self, codes: Int64Array, on_sale: OnSale | None):
        self._codes, self._on_sale = codes, on_sale
        # Most draws of an item that is on sale every day do not count.
        self.tries = TRIES if on_sale is None else TRIES * (2 * on_sale.within_days + 1)

    def draw(self, time: Int64Array, numbers: npt.NDArray[np.uint64]) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """An item for each time, by random numbers, and whether it may be taken; shape (n,) each."""
        if not len(self._codes):
            return np.full(len(time), NONE), np.zeros(len(time), dtype=np.bool_)
        if self._on_sale is None:
            return self._codes[(numbers % np.uint64(len(self._codes))).astype(np.int64)], np.ones(len(time), np.bool_)
        item, counts = self._on_sale.draw(time, numbers)
        return item, counts & np.isin(item, self._codes)

    def of(self, time: int) -> Int64Array:
        """All that may be drawn at a time, ascending."""
        return self._codes if self._on_sale is None else np.intersect1d(self._codes, self._on_sale.of(time))


def draw_negatives(spec: Negatives, rows: PositiveRows, candidates: Candidates, positives: Positives) -> Int64Array:
    """Item codes for each positive, shape (n, per_positive); ``NONE`` if the user has too few other items.

    A draw depends on the seed, the row's number in the log, and how often it was drawn before, so it is the same
    however the log is divided.

    Args:
        spec: how many, and the seed.
        rows: the positives.
        candidates: items that may be drawn.
        positives: of these users.
    """
    n = len(rows.number)
    found = np.full((n, spec.per_positive), NONE, dtype=np.int64)
    for k in range(spec.per_positive):
        # Who had no item left for the last one has none for this one.
        pending = np.flatnonzero(found[:, k - 1] != NONE) if k else np.arange(n)
        for attempt in range(candidates.tries):
            if not len(pending):
                break
            numbers = draw(spec.seed, rows.number[pending], k, attempt)
            drawn, good = candidates.draw(rows.time[pending], numbers)
            good &= ~positives.hold(rows.user[pending], drawn) & ~(found[pending, :k] == drawn[:, None]).any(axis=1)
            found[pending[good], k] = drawn[good]
            pending = pending[~good]
        for row in pending.tolist():  # a user who has most of the items: look at what is left
            had = np.concatenate([positives.of(int(rows.user[row])), found[row, :k]])
            left = np.setdiff1d(candidates.of(int(rows.time[row])), had)
            if len(left):
                number = draw(spec.seed, rows.number[row], k, candidates.tries)[0]
                found[row, k] = left[int(number % np.uint64(len(left)))]
    return found
