"""Which items are on sale when: a log of positives says it by who bought what on which day.

Legend: n rows, P pairs of an item and a day on which it is in the log, each once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.batch import Int64Array

DAY_S = 86_400
MERGE_AT = 4_000_000


class SaleDays:
    """The pairs of item and day, collected while the log is read; memory grows with the pairs, not with the rows.

    Args:
        within_days: as ``OnSale`` takes it.
    """

    def __init__(self, within_days: int):
        self.within_days, self._parts = within_days, list[pa.Table]()

    def add(self, item: pa.Array, time: Int64Array) -> None:
        """Note some rows of the log: keys and seconds, shape (n,) each."""
        days = pa.table({"item": item.cast(pa.string()), "day": time // DAY_S})
        self._parts.append(days.group_by(["item", "day"]).aggregate([]))
        if sum(map(len, self._parts)) > MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        if len(self._parts) > 1:
            self._parts = [pa.concat_tables(self._parts).group_by(["item", "day"]).aggregate([])]

    def on_sale(self, every_item: pa.Array) -> OnSale:
        """What was noted, for items by their code: the place of their key in ``every_item``."""
        self._merge()
        item = np.asarray(pc.index_in(self._parts[0]["item"].combine_chunks(), value_set=every_item)).astype(np.int64)
        return OnSale(item, np.asarray(self._parts[0]["day"]).astype(np.int64), self.within_days)


@dataclass(frozen=True)
class LogItems:
    """All items of the log: keys, ascending, whose places are the items' codes; and when they are on sale, if asked."""

    keys: pa.Array
    on_sale: OnSale | None = None


class OnSale:
    """Items that anybody has in the log within some days of a row, before it or after it.

    Args:
        item: code of each pair, shape (P,).
        day: its day, shape (P,).
        within_days: how far a day may be from that of the row.
    """

    def __init__(self, item: Int64Array, day: Int64Array, within_days: int):
        order = np.lexsort((item, day))
        self._item, self._day, self.within_days = item[order], day[order], within_days
        # How long before each pair the same item was in the log the last time.
        by_item = np.lexsort((self._day, self._item))
        gap = np.diff(self._day[by_item], prepend=0)
        gap[np.diff(self._item[by_item], prepend=-1) != 0] = np.iinfo(np.int64).max
        self._since = np.empty_like(gap)
        self._since[by_item] = gap

    def draw(self, time: Int64Array, numbers: npt.NDArray[np.uint64]) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """An item for each row, and whether it counts: those that count are drawn uniformly of the items on sale.

        A pair is drawn of the days around the row. It counts if it is its item's first of these days, or items that
        many buy would come more often.

        Args:
            time: seconds, shape (n,).
            numbers: random ones, shape (n,).
        """
        day = time // DAY_S
        first, end = self._around(day)
        pair = first + (numbers % (end - first).astype(np.uint64)).astype(np.int64)
        return self._item[pair], self._since[pair] > self._day[pair] - (day - self.within_days)

    def of(self, time: int) -> Int64Array:
        """The items on sale at a time, ascending."""
        first, end = self._around(np.array([time // DAY_S]))
        return np.unique(self._item[first[0] : end[0]])

    def _around(self, day: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The pairs within the days around each day, from and to; a row's own pair is always one of them."""
        first = np.searchsorted(self._day, day - self.within_days, "left")
        return first, np.searchsorted(self._day, day + self.within_days, "right")
