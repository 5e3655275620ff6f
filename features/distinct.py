"""Find what a batch refers to, each once, by flags over what a window of rows refers to, without sorting."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from crossmedia.features.batch import Int64Array


class KeyVocabulary:
    """A vocabulary of numbers: the place of each.

    Args:
        ids: place 1 first; in any order, for a vocabulary that was extended is not ascending.
    """

    def __init__(self, ids: Int64Array):
        order = np.argsort(ids, kind="stable")
        self._ids, self._places = ids[order], order + 1

    def places(self, ids: Int64Array) -> Int64Array:
        """The place of each id, shape (n,); 0 if the vocabulary has no such id."""
        at = np.searchsorted(self._ids, ids)
        known = at < len(self._ids)
        known[known] = self._ids[at[known]] == ids[known]
        places = np.zeros(len(ids), dtype=np.int64)
        places[known] = self._places[at[known]]
        return places

    def hide(self, ids: Int64Array) -> Int64Array:
        """Have some ids be unknown from now on; the places that they had, ascending."""
        had = np.unique(self.places(ids))
        self._places = np.where(np.isin(self._places, had), 0, self._places)
        return had[had > 0]


def distinct(numbers: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Numbers from 0 on, each once and ascending, and the index of each among them.

    Args:
        numbers: shape (n,).

    Returns:
        found: shape (U,).
        index: shape (n,).
    """
    top = int(numbers.max(initial=-1))
    if top < 4 * len(numbers) + (1 << 20):  # rows and ids that a manifest gave are dense: a table is the fastest
        there = np.zeros(top + 1, dtype=np.bool_)
        there[numbers] = True
        found = np.flatnonzero(there)
        table = np.empty(top + 1, dtype=np.int64)
        table[found] = np.arange(len(found))
        return found, table.take(numbers)
    encoded = pa.array(numbers).dictionary_encode()
    found, codes = np.asarray(encoded.dictionary), np.asarray(encoded.indices)
    order = np.argsort(found)
    index = np.empty(len(found), dtype=np.int64)
    index[order] = np.arange(len(found))
    return found[order], index.take(codes)


class Flags:
    """Chooses some of n numbered things, each once and ascending, again and again.

    Args:
        n: how many there are.
    """

    def __init__(self, n: int):
        self._there = np.zeros(n, dtype=np.bool_)
        self._position = np.empty(n, dtype=np.int64)

    def choose(self, *several: Int64Array) -> tuple[Int64Array, list[Int64Array]]:
        """What is in any of some arrays of numbers, and where each of these is among it."""
        for numbers in several:
            self._there[numbers] = True
        found = np.flatnonzero(self._there)
        self._there[found] = False
        self._position[found] = np.arange(len(found))
        return found, [self._position.take(numbers) for numbers in several]
