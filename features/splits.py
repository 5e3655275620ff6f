"""Decide which rows are for training, validation and test."""

from __future__ import annotations

import numpy as np

from crossmedia.features.batch import Int64Array
from crossmedia.features.spec import Split

TRAIN, VALIDATION, TEST = range(3)
SPLITS = ("train", "validation", "test")


class TimeCounts:
    """How many rows each second has: enough for exact quantiles, however many rows there are."""

    def __init__(self) -> None:
        self.times = np.zeros(0, dtype=np.int64)
        self.counts = np.zeros(0, dtype=np.int64)
        self._waiting: list[Int64Array] = []

    def add(self, times: Int64Array) -> None:
        """Count some rows."""
        self._waiting.append(times)
        # Merging sorts all seconds: worth it once there are as many new rows as seconds.
        if sum(map(len, self._waiting)) > max(len(self.times), 1 << 20):
            self._merge()

    def _merge(self) -> None:
        every = np.concatenate([self.times, *self._waiting])
        weights = np.ones(len(every), dtype=np.int64)
        weights[: len(self.times)] = self.counts
        self._waiting = []
        self.times, inverse = np.unique(every, return_inverse=True)
        self.counts = np.bincount(inverse, weights=weights, minlength=len(self.times)).astype(np.int64)

    def boundaries(self, split: Split) -> tuple[int, int]:
        """First second of validation, and of test; all rows of a second go to the side of its first row."""
        self._merge()
        n, upto = int(self.counts.sum()), np.cumsum(self.counts)

        def at(share: float) -> int:
            rank = min(int(np.ceil(n * share)), n - 1)
            return int(self.times[np.searchsorted(upto, rank, side="right")])

        return at(1 - split.test - split.validation), at(1 - split.test)


def by_time(times: Int64Array, boundaries: tuple[int, int]) -> Int64Array:
    """``TRAIN``, ``VALIDATION`` or ``TEST`` for each row, shape (rows,)."""
    validation_from, test_from = boundaries
    return np.where(times >= test_from, TEST, np.where(times >= validation_from, VALIDATION, TRAIN)).astype(np.int64)


def by_user_tail(split: Split, user: Int64Array, times: Int64Array) -> Int64Array:
    """The same by user: of each user's rows in time order the last are test, those before them validation."""
    rank, n = _ranks(user, times)
    test_from = n - np.floor(n * split.test + 1e-9)
    validation_from = test_from - np.floor(n * split.validation + 1e-9)
    return np.where(rank >= test_from, TEST, np.where(rank >= validation_from, VALIDATION, TRAIN)).astype(np.int64)


def leave_one_out(user: Int64Array, times: Int64Array) -> Int64Array:
    """The same by user: the last row is test, the one before it validation; a user keeps at least one for training."""
    rank, n = _ranks(user, times)
    last, second = (rank == n - 1) & (n > 1), (rank == n - 2) & (n > 2)
    return np.where(last, TEST, np.where(second, VALIDATION, TRAIN)).astype(np.int64)


def _ranks(user: Int64Array, times: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Each row's position among its user's rows in time order, and the number of these; ties keep the given order."""
    order = np.lexsort((np.arange(len(times)), times, user))
    counts = np.bincount(user)
    first = np.cumsum(counts) - counts
    rank = np.empty(len(times), dtype=np.int64)
    rank[order] = np.arange(len(times)) - first[user[order]]
    return rank, counts[user]
