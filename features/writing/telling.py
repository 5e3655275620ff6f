"""Which columns of the impressions tell the item, so that they tell a positive from the negatives drawn for it.

A drawn negative has the columns of its positive's impression. A device or a page slot says nothing of the item; a price
does, and a model that knows the items' prices reads the label off it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.batch import Int64Array
from crossmedia.features.cells import joined
from crossmedia.features.spec import Columns
from crossmedia.features.writing.attributes import ID, LIST, NUMBER

LOOKED_AT = 1_000_000  # rows from the beginning of the log: what a column is does not change later
TELLS = 0.2  # share of a column's differences that the item explains, from which on it is noted
FEW = 30  # pairs of rows of one item, below which nothing can be said


class Telling:
    """How much the item explains of each column, by the first rows of a log.

    Args:
        columns: of the impressions.
    """

    def __init__(self, columns: Columns):
        self._readers = {
            **{name: ID + name for name in columns.ids},
            **{name: LIST + name for name in columns.lists},
            **{name: NUMBER + name for name in columns.numbers},
        }
        self._numbers = set(columns.numbers)
        self._rows = 0
        self._parts: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Look at some rows, as ``stream_log`` yields them."""
        if self._readers and self._rows < LOOKED_AT:
            columns = ["user", "item", *self._readers.values()]
            self._parts.append(table.select(columns).slice(0, LOOKED_AT - self._rows))
            self._rows += len(self._parts[-1])

    def columns(self) -> list[str]:
        """Columns that tell the item, and those of which too few items have several rows to say that they do not."""
        if not self._parts:
            return []
        table = pa.concat_tables(self._parts).combine_chunks()
        user, item = (_codes(table[name].combine_chunks()) for name in ("user", "item"))
        # One row of a user and an item: who buys the same again has the same phone in the hand.
        _, once = np.unique(user * (int(item.max()) + 1) + item, return_index=True)
        table, item = table.take(pa.array(once)), item[once]
        return [name for name in self._readers if self._tells(name, table[self._readers[name]].combine_chunks(), item)]

    def _tells(self, name: str, values: pa.Array, item: Int64Array) -> bool:
        if name in self._numbers:
            numbers = np.asarray(pc.fill_null(values, np.nan), dtype=np.float64)
            there = np.isfinite(numbers)
            if pairs(item[there]) < FEW:
                return True
            return numbers_explained(numbers[there], item[there]) > TELLS
        words = joined(values) if pa.types.is_list(values.type) else values
        return pairs(item) < FEW or codes_explained(_codes(pc.fill_null(words, "")), item) > TELLS


def _codes(keys: pa.Array) -> Int64Array:
    return np.asarray(keys.dictionary_encode().indices).astype(np.int64)


def pairs(codes: Int64Array) -> int:
    """How many pairs of rows have one code."""
    counts = np.bincount(codes) if len(codes) else np.zeros(0, dtype=np.int64)
    return int((counts * (counts - 1) // 2).sum())


def codes_explained(codes: Int64Array, item: Int64Array) -> float:
    """By how much rows of one item agree more than any rows do: 0 as any rows, 1 always.

    Args:
        codes: values, shape (n,).
        item: of each row, shape (n,).
    """
    n = len(codes)
    by_chance = pairs(codes) / (n * (n - 1) / 2)
    both = item * (int(codes.max()) + 1) + codes
    within = pairs(np.unique(both, return_inverse=True)[1]) / pairs(item)
    return float((within - by_chance) / (1 - by_chance)) if by_chance < 1 else 0.0


def numbers_explained(numbers: npt.NDArray[np.float64], item: Int64Array) -> float:
    """The share of the variance of the numbers' ranks that lies between items, without what chance puts there.

    Ranks, because a few dear items would be all of a variance of prices. This is the adjusted eta squared of an
    analysis of variance.

    Args:
        numbers: shape (n,).
        item: of each row, shape (n,).
    """
    values, codes = np.unique(numbers, return_inverse=True)
    counts = np.bincount(codes)
    rank = (np.cumsum(counts) - (counts + 1) / 2)[codes]
    if len(values) < 2:
        return 0.0
    rows = np.bincount(item)
    mean = np.bincount(item, weights=rank) / np.maximum(rows, 1)
    within = ((rank - mean[item]) ** 2).sum() / (len(rank) - (rows > 0).sum())
    return float(1 - within / rank.var(ddof=1))
