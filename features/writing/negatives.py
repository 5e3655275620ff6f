"""Draw negatives for a log of positives: items that the user never has in the log, uniformly and repeatably."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array
from crossmedia.features.hashing import draw
from crossmedia.features.schema import Negatives

TRIES = 30
NONE = -1


def draw_negatives(
    spec: Negatives,
    rows: Int64Array,
    user: Int64Array,
    candidates: Int64Array,
    positives: Int64Array,
    items: int,
) -> Int64Array:
    """Item codes for each positive, shape (n, per_positive); ``NONE`` if the user has too few other items.

    A draw depends on the seed, the row's number in the log, and how often it was drawn before, so it is the same
    however the log is divided.

    Args:
        spec: how many, and the seed.
        rows: number of each positive in the log, shape (n,).
        user: code of its user, shape (n,).
        candidates: item codes that may be drawn, ascending, shape (c,).
        positives: ``user * items + item`` of all positives of these users, ascending, shape (p,).
        items: how many item codes there are.
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
            bad = _contains(positives, user[pending] * items + drawn)
            bad |= (found[pending, :k] == drawn[:, None]).any(axis=1)
            found[pending[~bad], k] = drawn[~bad]
            pending = pending[bad]
        for row in pending.tolist():  # a user who has most of the items: look at what is left
            start, end = np.searchsorted(positives, [user[row] * items, (user[row] + 1) * items])
            mine = positives[start:end] - user[row] * items
            left = np.setdiff1d(candidates, np.concatenate([mine, found[row, :k]]))
            if len(left):
                number = draw(spec.seed, rows[row], k, TRIES)[0]
                found[row, k] = left[int(number % np.uint64(len(left)))]
    return found


def _contains(ascending: Int64Array, values: Int64Array) -> npt.NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(values), dtype=np.bool_)
    place = np.searchsorted(ascending, values)
    place[place == len(ascending)] = 0
    there: npt.NDArray[np.bool_] = ascending[place] == values
    return there
