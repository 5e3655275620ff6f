"""Row groups of samples in numpy: each is read and converted once, then batches are gathered from it.

Legend: R rows and M behaviours of the row groups, B rows and N history entries of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Batch, Jagged
from crossmedia.features.columns import ACTION, HISTORY, ITEM_ROW, label_columns
from crossmedia.features.layout import StoredRows
from crossmedia.features.reading.item_table import ItemTable, WindowItems
from crossmedia.features.slices import Chosen, Slices, column, gathered, list_values, picked

HISTORY_ROW, HISTORY_ACTION, HISTORY_TIME = HISTORY + ITEM_ROW, HISTORY + ACTION, HISTORY + "time"


@dataclass(frozen=True)
class RowColumns:
    """Which columns the rows of a folder of samples have.

    Attributes:
        labels: label names, in order.
        ids, numbers, lists: columns of users and impressions.
        histories: whether rows have histories.
    """

    labels: tuple[str, ...]
    ids: tuple[str, ...]
    numbers: tuple[str, ...]
    lists: tuple[str, ...]
    histories: bool

    @property
    def label_columns(self) -> dict[str, str]:
        """Label name -> its column."""
        return label_columns(self.labels)

    @property
    def of_rows(self) -> list[str]:
        """Columns that batches need of each row."""
        return [*self.label_columns.values(), "timestamp", *self.ids, *self.numbers, *self.lists, ITEM_ROW]

    @property
    def of_behaviours(self) -> list[str]:
        """Columns that batches need of each behaviour; empty without behaviours."""
        return [HISTORY_ROW, HISTORY_ACTION, HISTORY_TIME] if self.histories else []


class RowGroup:
    """Row groups, ready for batches.

    Args:
        columns: what there is.
        stored: ``columns.of_rows`` and ``columns.of_behaviours`` of the row groups.
        items: what their items have.
    """

    def __init__(self, columns: RowColumns, stored: StoredRows, items: ItemTable):
        table = stored.table

        def values(name: str) -> npt.NDArray[Any]:
            return np.asarray(column(table, name))

        self._slices = stored.slices
        none = np.zeros(0, dtype=np.int64)
        self._action = stored.behaviours.get(HISTORY_ACTION, none)
        self._behaviour_time = stored.behaviours.get(HISTORY_TIME, none)
        self._time = values("timestamp")
        self._labels = {name: values(of).astype(np.float32) for name, of in columns.label_columns.items()}
        self._ids = {name: values(name) for name in columns.ids}
        self._numbers = {name: values(name) for name in columns.numbers}
        self._lists = {}
        for name in columns.lists:
            lists = column(table, name)
            self._lists[name] = (Slices.of(lists), list_values(lists))
        self._items = WindowItems(items, values(ITEM_ROW), stored.behaviours.get(HISTORY_ROW, none))

    def __len__(self) -> int:
        return len(self._time)

    def batch(self, rows: Chosen) -> Batch:
        """A batch of one or more rows, in the given order."""
        entries, offsets = self._slices.entries(rows)
        timestamp = picked(self._time, rows)
        age = np.repeat(timestamp, np.diff(offsets))
        age -= gathered(self._behaviour_time, entries)
        lists = {}
        for name, (slices, places) in self._lists.items():
            chosen, ends = slices.entries(rows)
            lists[name] = Jagged(picked(places, chosen), ends)
        items, target, history = self._items.batch(
            gathered(self._items.target, rows), gathered(self._items.history, entries)
        )
        return Batch(
            labels={name: values[rows].copy() for name, values in self._labels.items()},
            timestamp=timestamp,
            ids={name: picked(values, rows) for name, values in self._ids.items()},
            numbers={name: values[rows].copy() for name, values in self._numbers.items()},
            lists=lists,
            items=items,
            target=target,
            history=Jagged(history, offsets),
            action=picked(self._action, entries),
            history_age_s=age,
        )
