"""A hash from int64 ids to int64 values that looks up arrays, compiled by numba: no Python per id, no lock to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from crossmedia.imgserver.hashing import EMPTY, first_slot

Int64 = npt.NDArray[np.int64]

ABSENT = np.iinfo(np.int64).min
_GROWTH = 1.5


class IdTable:
    """Open addressing with linear probing, at most two thirds full. One writer, any number of readers at any time.

    16 bytes a slot, so 24 to 36 bytes an id; room for some 2.8 billion ids (slots are numbered in 32 bits).

    A reader sees each entry as it was before or after a ``put``: the value is written before the key, entries never
    move within an array, and a grown table replaces the arrays in one assignment.
    """

    def __init__(self, capacity: int = 1024):
        self._slots = _empty(capacity)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def get(self, ids: Int64) -> Int64:
        """Values of ``ids``, shape (n,), not negative; ``ABSENT`` where an id is not in the table."""
        out = np.empty(len(ids), dtype=np.int64)
        _lookup(self._slots, np.ascontiguousarray(ids, dtype=np.int64), out)
        return out

    def put(self, ids: Int64, values: Int64) -> None:
        """Set the values of ``ids``; both of shape (n,), ids not negative."""
        if 3 * (self._used + len(ids)) > 2 * len(self._slots):
            grown = _empty(_GROWTH * (self._used + len(ids)))
            _insert(grown, *self.items())
            self._slots = grown
        self._used += _insert(self._slots, np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(values, np.int64))

    def items(self) -> tuple[Int64, Int64]:
        """All ids and their values, in no order."""
        slots = self._slots
        there = slots[:, 0] != EMPTY
        return np.ascontiguousarray(slots[there, 0]), np.ascontiguousarray(slots[there, 1])


def _empty(capacity: float) -> Int64:
    """Slots of key and value, side by side in one cache line, two thirds full when ``capacity`` ids are in them."""
    slots = np.zeros((int(1.5 * capacity) + 16, 2), dtype=np.int64)
    slots[:, 0] = EMPTY
    return slots


@njit(nogil=True, cache=True)
def _lookup(slots: Any, ids: Any, out: Any) -> None:
    size = len(slots)
    for i in range(len(ids)):
        slot = first_slot(ids[i], size)
        while slots[slot, 0] != ids[i] and slots[slot, 0] != EMPTY:
            slot = slot + 1 if slot + 1 < size else 0
        out[i] = slots[slot, 1] if slots[slot, 0] == ids[i] else ABSENT


@njit(nogil=True, cache=True)
def _insert(slots: Any, ids: Any, new: Any) -> int:
    size = len(slots)
    added = 0
    for i in range(len(ids)):
        slot = first_slot(ids[i], size)
        while slots[slot, 0] != ids[i] and slots[slot, 0] != EMPTY:
            slot = slot + 1 if slot + 1 < size else 0
        slots[slot, 1] = new[i]
        if slots[slot, 0] == EMPTY:
            slots[slot, 0] = ids[i]
            added += 1
    return added
