"""Draw negatives for a log of positives: items that the user never has in the log, uniformly and repeatably."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array
from crossmedia.features.hashing import draw
from crossmedia.features.spec import Negatives

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


def draw_negatives(
    spec: Negatives, rows: Int64Array, user: Int64Array, candidates: Int64Array, positives: Positives
) -> Int64Array:
    """Item codes for each positive, shape (n, per_positive); ``NONE`` if the user has too few other items.

    A draw depends on the seed, the row's number in the log, and how often it was drawn before, so it is the same
    however the log is divided.

    Args:
        spec: how many, and the seed.
        rows: number of each positive in the log, shape (n,).
        user: code of its user, shape (n,).
        candidates: item codes that may be drawn, ascending, shape (c,).
        positives: of these users.
    """
    n = len(rows)
    found = np.full((n, spec.per_positive), NONE, dtype=np.int64)
    if not len(candidates):
        return found
    for k in range(spec.per_positive):
        # Who had no item left for the last one has none for this one.
        pending = np.flatnonzero(found[:, k - 1] != NONE) if k else np.arange(n)
        for attempt in range(TRIES):
            if not len(pending):
                break
            numbers = draw(spec.seed, rows[pending], k, attempt)
            drawn = candidates[(numbers % np.uint64(len(candidates))).astype(np.int64)]
            bad = positives.hold(user[pending], drawn)
            bad |= (found[pending, :k] == drawn[:, None]).any(axis=1)
            found[pending[~bad], k] = drawn[~bad]
            pending = pending[bad]
        for row in pending.tolist():  # a user who has most of the items: look at what is left
            left = np.setdiff1d(candidates, np.concatenate([positives.of(int(user[row])), found[row, :k]]))
            if len(left):
                number = draw(spec.seed, rows[row], k, TRIES)[0]
                found[row, k] = left[int(number % np.uint64(len(left)))]
    return found
