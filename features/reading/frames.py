"""Show samples as one table: rows with what their items have, and histories in list columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from crossmedia.errors import BadInput
from crossmedia.features.batch import NULL_IMAGE
from crossmedia.features.columns import ACTION, HISTORY, IMAGE, ITEM_ROW
from crossmedia.features.layout import SplitFiles
from crossmedia.features.meta import Meta
from crossmedia.features.reading.item_table import ItemTable
from crossmedia.features.reading.row_groups import HISTORY_ROW, RowColumns
from crossmedia.features.slices import column


class Frames:
    """Makes tables of row groups.

    Args:
        meta: what the samples hold.
        columns: of the rows.
        items: what items have.
    """

    def __init__(self, meta: Meta, columns: RowColumns, items: ItemTable):
        self._items = items
        self._arrow: dict[str, Any] = {}
        image = [IMAGE] if meta.has_images else []
        ids = [*meta.item_ids, *image]
        held_out = ["held_out"] if meta.has_held_out else []
        others = [*meta.item_numbers, *meta.item_lists, *meta.item_text]
        self._of_rows = [*columns.of_rows[:-1], "raw_user_id"]
        self._of_items = ["raw_item_id", *ids, *others, *held_out]
        self._of_history = {HISTORY + name: name for name in ids} if columns.histories else {}
        self._of_behaviours = [HISTORY + ACTION, HISTORY + "time"] if columns.histories else []

    @property
    def columns(self) -> list[str]:
        """All columns that there are."""
        return [*self._of_rows, *self._of_items, *self._of_history, *self._of_behaviours]

    def table(self, files: SplitFiles, group: int, wanted: list[str] | None, limit: int | None = None) -> pa.Table:
        """Some columns of a row group, or all of them.

        ``image_id`` is the first image of an item; ``NULL_IMAGE`` where there is none.

        Raises:
            BadInput: there is no such column, or the files are damaged.
        """
        names = self.columns if wanted is None else wanted
        of_history = [name for name in names if name in self._of_history]
        behaviours = [name for name in names if name in self._of_behaviours]
        shown = [name for name in names if name in self._of_items]
        known = {*of_history, *behaviours, *shown}
        if unknown := [name for name in names if name not in known and name not in self._of_rows]:
            raise BadInput(f"The samples have no column {unknown[0]!r}; there are: {', '.join(self.columns)}.")
        of_rows = [*(name for name in names if name not in known), *([ITEM_ROW] if shown else [])]
        needed = [*behaviours, *([HISTORY_ROW] if of_history else [])]
        # A table of no column has no rows either.
        stored = files.read(group, of_rows or [ITEM_ROW], needed, limit)
        found: dict[str, Any] = {name: stored.table[name] for name in stored.table.column_names}
        if shown:
            rows = column(stored.table, ITEM_ROW)
            found |= {name: self._of_item(name).take(rows) for name in shown}
        if needed:
            entries, offsets = stored.slices.entries(slice(None))
            ends = pa.array(offsets.astype(np.int32))
            for name in behaviours:
                found[name] = pa.ListArray.from_arrays(ends, pa.array(stored.behaviours[name][entries]))
            for name in of_history:
                of_item = self._of_item(self._of_history[name])
                values = of_item.take(pa.array(stored.behaviours[HISTORY_ROW][entries]))
                found[name] = pa.ListArray.from_arrays(ends, values)
        return pa.table({name: found[name] for name in names})

    def _of_item(self, name: str) -> Any:
        """A column of items, a value for each row of the item table."""
        if name not in self._arrow:
            if name == IMAGE:
                slices, keys = self._items.keys[IMAGE]
                first = np.append(keys, NULL_IMAGE)[np.where(slices.length > 0, slices.start, -1)]
                self._arrow[name] = pa.array(first)
            else:
                self._arrow[name] = column(self._items.read([name]), name)
        return self._arrow[name]
