"""Cells that hold several entries: columns of lists, whose entries are read like those of any column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.keys import Column

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entries(Column):
    """The entries of some cells of a column, one after the other; errors name the row that one is in.

    Attributes:
        parents: the row of each, shape (n,).
    """

    parents: Places = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def row(self, bad: Any) -> int:
        """The number of the row that the first ``bad`` entry is in, counted from 1, without the header."""
        return self.first_row + int(self.parents[int(np.argmax(np.asarray(bad)))]) + 1

    def only(self, kept: npt.NDArray[np.bool_]) -> Entries:
        """Some of them; ``kept`` has the shape (n,)."""
        values = self.values.filter(pa.array(kept))
        return Entries(values, self.name, self.where, self.first_row, self.parents[kept])


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of lists."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists)


def entries_of(column: Column) -> Entries:
    """The entries of a column: those of its lists, or one of each cell."""
    column = column.plain()
    values = column.values
    parents = np.arange(len(values))
    if is_list(values.type):
        # By lengths: an empty cell may still stand over entries, which list_parent_indices counts.
        parents = np.repeat(parents, np.asarray(pc.fill_null(pc.list_value_length(values), 0)).astype(np.int64))
        values = pc.list_flatten(values)
    return Entries(values, column.name, column.where, column.first_row, parents)
