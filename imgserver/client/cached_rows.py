"""Rows by id in a bounded memory, compiled by numba: no Python per id. Those that are asked for most are kept.

A row lies in one of the 16 places (ways) of its id's set, which the hash of the server's table names, so nothing is
ever moved, and there is no list to keep in order. Beside each row is how often it was asked for; of ids that have no
place that is counted, roughly, in a sketch of two hashes: the smaller of two counts (Cormode and Muthukrishnan 2005).
A new id takes the place of the least asked for of its set if it was asked for more often than that, which is TinyLFU's
rule (Einziger, Friedman and Manes 2017). All counts are halved from time to time, so that what was popular once goes.

Legend: n ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from crossmedia.imgserver.hashing import EMPTY, first_slot
from crossmedia.status import Status

Ids = npt.NDArray[np.int64]
Statuses = npt.NDArray[np.uint8]

WAYS = 16  # with 8 there are 1 % more misses; 16 keys are two cache lines
COUNTS_PER_ROW = 8  # of the sketch
HALVED_AFTER = 40  # ids asked for per place
MOST_USES = 255
BESIDE_A_ROW = 8 + 4 + 4 + 1 + 1 + COUNTS_PER_ROW  # bytes: key, time, turn, status, uses
# Once most places are taken, so many rows of a reply are looked at: the rest come again if they are asked for again.
# They are fewer where little of a request was there: ids of which none is popular would pay for useless counts.
FULL, MOST_OFFERED, LEAST_OFFERED = 0.9, 2048, 256
FOUND, NULL, UNKNOWN = int(Status.OK), int(Status.NOT_FOUND), 0


@dataclass(frozen=True)
class Found:
    """What was there of n ids, as a caller gave them: some several times, and -1 for none.

    Attributes:
        values: shape (n, D), zeros for -1; those of ``absent`` are anything. No rows where none was found.
        status: shape (n,), likewise.
        cached: how many different ids were found.
        absent: shape (m,), which of the n were not, ascending.
        unique: shape (u,), their ids, each once, in the order in which they first came.
        place: shape (m,), the place of each of ``absent`` among them.
    """

    values: npt.NDArray[Any]
    status: Statuses
    cached: int
    absent: Ids
    unique: Ids
    place: Ids


class CachedRows:
    """Rows and their status by id. One caller at a time: who shares it locks it.

    Args:
        size: most bytes of all its arrays.
        dim: numbers in a row.
        dtype: of the numbers.

    Attributes:
        places: how many rows fit; 0: none.
    """

    def __init__(self, size: int, dim: int, dtype: str):
        sets = size // (WAYS * (dim * np.dtype(dtype).itemsize + BESIDE_A_ROW))
        self.places = sets * WAYS
        self._keys = np.full((sets, WAYS), EMPTY, dtype=np.int64)
        self._at = np.zeros(self.places, dtype=np.uint32)
        self._status = np.full(self.places, UNKNOWN, dtype=np.uint8)
        self._uses = np.zeros((sets, WAYS), dtype=np.uint8)
        self._turns = np.zeros(self.places, dtype=np.uint32)  # when it was last asked for, in requests
        self._rows = np.zeros((self.places, dim), dtype=dtype)
        self._sketch = np.zeros(COUNTS_PER_ROW * self.places, dtype=np.uint8)
        self._asked = self._taken = self._offered = self._turn = 0
        self._had = 1.0  # of the last request, the share that was there

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self._keys, self._at, self._status, self._uses, self._turns, self._rows, self._sketch)
        return sum(array.nbytes for array in arrays)

    def __len__(self) -> int:
        """Rows that are there, permanent misses included."""
        return int(np.count_nonzero(self._status))

    def find(self, ids: Ids, since: int) -> Found:
        """What is there of ``ids``, found and told apart in one pass.

        Args:
            ids: shape (n,), in any order, as often as one likes; -1 is no image.
            since: a status other than OK counts if it was put at that time or later.
        """
        n = len(ids)
        self._turn = (self._turn + 1) % (1 << 32)
        out, told, slots = np.empty((3, n), np.int64), np.empty(n, np.uint8), np.empty(2 * n + 1, np.int32)
        values = np.empty((n, self._rows.shape[1]), dtype=self._rows.dtype)
        table = self._keys, self._at, self._status, self._uses, self._turns
        rows = self._rows.view(np.uint8), values.view(np.uint8)
        cached, missing, different = _find(table, self._turn, since, ids, out, told, slots, rows)
        absent, unique, which = out
        if self.places:
            self._asked += cached + different
            self._had = cached / max(1, cached + different)
            if self._asked > HALVED_AFTER * self.places:
                self._asked = 0
                self._uses >>= 1
                self._sketch >>= 1
        return Found(
            values if cached else values[:0], told, cached, absent[:missing], unique[:different], which[:missing]
        )

    def put(self, ids: Ids, rows: npt.NDArray[Any], status: Statuses, at: int) -> None:
        """Take rows in, each where there is none of its set that is asked for more.

        Args:
            ids: shape (n,), each once, none negative; they were just looked for.
            rows: shape (n, dim).
            status: shape (n,), none 0.
            at: the time.
        """
        if not self.places:
            return
        most = max(LEAST_OFFERED, int(MOST_OFFERED * min(1.0, 2 * self._had)))
        if self._taken > FULL * self.places and len(ids) > most:
            first = self._offered % (len(ids) - most + 1)
            self._offered += most
            chosen = slice(first, first + most)
            ids, rows, status = ids[chosen], rows[chosen], status[chosen]
        self._taken += _put(
            *(self._keys, self._at, self._status, self._uses, self._rows.view(np.uint8), self._sketch),
            *(ids, rows.view(np.uint8), status, at),  # a reply's rows may lie at an odd place of its message
        )

    def drop(self) -> None:
        """Have no row any more; what was popular is remembered, and has its place when it comes again."""
        self._status[:] = UNKNOWN

    def emptied(self, size: int) -> CachedRows:
        """One for rows like these, without any, of another size."""
        return CachedRows(size, self._rows.shape[1], self._rows.dtype.name)


def copy_rows(source: npt.NDArray[Any], which: Ids, target: npt.NDArray[Any], places: Ids) -> None:
    """Copy some rows of one array, each to a place in another; twice as fast as NumPy, which makes a third array."""
    _copy(source.view(np.uint8), which, target.view(np.uint8), places)


@njit(nogil=True, cache=True)
def _copy(source: Any, which: Any, target: Any, places: Any) -> None:
    for i in range(len(which)):
        one, other = which[i], places[i]
        for j in range(source.shape[1]):
            target[other, j] = source[one, j]


@njit(nogil=True, cache=True)
def _find(
    table: Any, turn: Any, since: Any, ids: Any, out: Any, told: Any, slots: Any, rows: Any
) -> tuple[int, int, int]:
    """Fill ``out``, shape (3, n), ``told``, shape (n,), and the second of ``rows``; ``slots`` is room for a hash.

    It is one call, because the caller has a lock, and after each call waits for Python's.
    """
    keys, at, status, uses, turns = table
    absent, unique, which = out
    held, values = rows
    cached = missing = different = 0
    slots[:] = -1
    for i in range(len(ids)):
        told[i] = NULL
        if ids[i] < 0:
            values[i] = 0
            continue
        one, new = -1, False
        if len(keys) > 0:
            of_set, way = first_slot(ids[i], len(keys)), -1
            for other in range(WAYS):  # to the end, which takes less time than a jump that nobody can foresee
                way = other if keys[of_set, other] == ids[i] else way
            if way >= 0:
                one = of_set * WAYS + way
                new = turns[one] != turn
                turns[one] = turn
                uses[of_set, way] = min(np.int64(uses[of_set, way]) + new, MOST_USES)
        if one >= 0 and (status[one] == FOUND or (status[one] != UNKNOWN and at[one] >= since)):
            told[i] = status[one]
            cached += new
            for j in range(values.shape[1]):
                values[i, j] = held[one, j]
            continue
        slot = first_slot(ids[i], len(slots))
        while slots[slot] >= 0 and unique[slots[slot]] != ids[i]:
            slot = slot + 1 if slot + 1 < len(slots) else 0
        if slots[slot] < 0:
            slots[slot], unique[different] = different, ids[i]
            different += 1
        absent[missing], which[missing] = i, slots[slot]
        missing += 1
    return cached, missing, different


@njit(nogil=True, cache=True)
def _put(
    keys: Any, at: Any, status: Any, uses: Any, rows: Any, sketch: Any, ids: Any, new: Any, told: Any, now: Any
) -> int:
    taken = 0
    for i in range(len(ids)):
        place = first_slot(ids[i], len(keys))
        best: Any = np.int64(1 << 30)  # the way of the id, else of the least asked for, with a rank before it
        for other in range(WAYS):
            of_other: Any = 0 if keys[place, other] == ids[i] else np.int64(uses[place, other]) + 1
            best = min(best, of_other * WAYS + other)
        way, rank = best % WAYS, best // WAYS
        if rank > 0:  # it has no place yet
            count = min(_count(sketch, ids[i]) + 1, MOST_USES)
            _count_at_least(sketch, ids[i], count)
            if keys[place, way] == EMPTY:
                taken += 1
            elif count < rank:  # no more often than that one
                continue
            else:
                _count_at_least(sketch, keys[place, way], rank - 1)
            keys[place, way], uses[place, way] = ids[i], count
        one = place * WAYS + way
        status[one], at[one] = told[i], now
        for j in range(rows.shape[1]):
            rows[one, j] = new[i, j]
    return taken


@njit(nogil=True, cache=True, inline="always")
def _counters(sketch: Any, key: Any) -> tuple[Any, Any]:
    """Where an id is counted: two hashes that have nothing in common with that of the sets."""
    mixed = np.uint64(key) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    size, high, low = np.uint64(len(sketch)), mixed >> np.uint64(32), mixed & np.uint64(0xFFFFFFFF)
    return np.int64((high * size) >> np.uint64(32)), np.int64((low * size) >> np.uint64(32))


@njit(nogil=True, cache=True, inline="always")
def _count(sketch: Any, key: Any) -> Any:
    """How often an id was asked for that has no place, or a little more."""
    one, other = _counters(sketch, key)
    return min(np.int64(sketch[one]), np.int64(sketch[other]))


@njit(nogil=True, cache=True, inline="always")
def _count_at_least(sketch: Any, key: Any, count: Any) -> None:
    one, other = _counters(sketch, key)
    sketch[one], sketch[other] = max(np.int64(sketch[one]), count), max(np.int64(sketch[other]), count)


def compiled() -> None:
    """Have all of it compiled, so that no fetch waits for that: for arrays of one's own, and for those of replies."""
    for writeable in (True, False):
        rows, ids = CachedRows(1 << 12, 1, "float16"), np.zeros(1, dtype=np.int64)
        values, status = np.zeros((1, 1), dtype=np.float16), np.ones(1, dtype=np.uint8)
        values.flags.writeable = status.flags.writeable = writeable
        rows.find(ids, 0)
        rows.put(ids, values, status, 0)
        copy_rows(values, ids, np.zeros((1, 1), dtype=np.float16), ids)
