"""A hash from int64 ids to int64 values that looks up arrays, compiled by numba: no Python per id, no lock to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Int64 = npt.NDArray[np.int64]

EMPTY = -1  # no image id is negative
ABSENT = np.iinfo(np.int64).min


class IdTable:
    """Open addressing with linear probing, at most half full. One writer, any number of readers at any time.

    A reader sees each entry as it was before or after a ``put``: the value is written before the key, entries never
    move within an array, and a grown table replaces the arrays in one assignment.
    """

    def __init__(self, capacity: int = 1024):
        self._arrays = _empty(capacity)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def get(self, ids: Int64) -> Int64:
        """Values of ``ids``, shape (n,); ``ABSENT`` where an id is not in the table."""
        keys, values = self._arrays
        out = np.empty(len(ids), dtype=np.int64)
        _lookup(keys, values, np.ascontiguousarray(ids, dtype=np.int64), out)
        return out

    def put(self, ids: Int64, values: Int64) -> None:
        """Set the values of ``ids``; both of shape (n,), ids not negative."""
        if 2 * (self._used + len(ids)) > len(self._arrays[0]):
            grown = _empty(4 * (self._used + len(ids)))
            keys, old = self._arrays
            there = keys != EMPTY
            _insert(grown[0], grown[1], keys[there], old[there])
            self._arrays = grown
        self._used += _insert(
            *self._arrays, np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(values, np.int64)
        )


def _empty(capacity: int) -> tuple[Int64, Int64]:
    size = 1 << max(4, int(capacity - 1).bit_length())
    return np.full(size, EMPTY, dtype=np.int64), np.zeros(size, dtype=np.int64)


@njit(nogil=True, cache=True, inline="always")
def _slot(key: Any, mask: Any) -> Any:
    """First slot of a key: Fibonacci hashing, so that runs of ids spread."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))


@njit(nogil=True, cache=True)
def _lookup(keys: Any, values: Any, ids: Any, out: Any) -> None:
    mask = len(keys) - 1
    for i in range(len(ids)):
        slot = _slot(ids[i], mask)
        while keys[slot] != ids[i] and keys[slot] != EMPTY:
            slot = (slot + 1) & mask
        out[i] = values[slot] if keys[slot] == ids[i] else ABSENT


@njit(nogil=True, cache=True)
def _insert(keys: Any, values: Any, ids: Any, new: Any) -> int:
    mask = len(keys) - 1
    added = 0
    for i in range(len(ids)):
        slot = _slot(ids[i], mask)
        while keys[slot] != ids[i] and keys[slot] != EMPTY:
            slot = (slot + 1) & mask
        values[slot] = new[i]
        if keys[slot] == EMPTY:
            keys[slot] = ids[i]
            added += 1
    return added
