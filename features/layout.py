"""Read the files of a samples folder, one row group at a time, in either layout.

``inline``: ``<split>.parquet`` holds the history of each row in list columns ``hist_*``.

``by_user``: ``<split>.histories.parquet`` holds, in the same list columns, the behaviours of a user once, a row a
user. ``<split>.parquet`` says for each row which of them are its history: ``history_user``, the row of its user in the
histories, and ``history_start`` and ``history_end``, a slice of that row's lists. Row group i of the histories holds
the users of row group i of the rows, and of their behaviours those that these rows need, so that a row group can be
read alone; ``history_user`` counts within the group.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.errors import BadInput
from crossmedia.features.columns import HISTORY_COLUMNS
from crossmedia.features.schema import BY_USER, INLINE
from crossmedia.features.slices import Slices, column, list_values
from crossmedia.features.splits import SPLITS

META_FILE = "samples.json"
# An older release reads the first format only, and says so when it meets another.
FORMATS = {INLINE: "1", BY_USER: "2"}
LAYOUTS = {version: layout for layout, version in FORMATS.items()}


def rows_file(split: str) -> str:
    """Name of the file of a split's rows."""
    return f"{split}.parquet"


def histories_file(split: str) -> str:
    """Name of the file of a split's histories, layout ``by_user``."""
    return f"{split}.histories.parquet"


def sample_files(layout: str) -> list[str]:
    """Names of all files that hold samples."""
    return [file(split) for split in SPLITS for file in (rows_file, histories_file)[: 1 + (layout == BY_USER)]]


@dataclass(frozen=True)
class StoredRows:
    """What the files hold of a row group of R rows and M behaviours.

    Attributes:
        table: columns of the rows, histories left out.
        slices: which of the stored behaviours are the history of each row.
        behaviours: ``hist_*`` -> values of the stored behaviours, shape (M,) each.
        types: ``hist_*`` -> Arrow type of its list column.
    """

    table: pa.Table
    slices: Slices
    behaviours: dict[str, npt.NDArray[Any]]
    types: dict[str, pa.DataType]

    @classmethod
    def joined(cls, parts: list[StoredRows]) -> StoredRows:
        """Several row groups as one, in order; a single one is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        stored = [len(next(iter(part.behaviours.values()), ())) for part in parts]
        before = np.cumsum([0, *stored[:-1]])
        return cls(
            pa.concat_tables([part.table for part in parts]),
            Slices(
                np.concatenate([part.slices.start + first for part, first in zip(parts, before, strict=True)]),
                np.concatenate([part.slices.length for part in parts]),
            ),
            {name: np.concatenate([part.behaviours[name] for part in parts]) for name in parts[0].behaviours},
            parts[0].types,
        )

    def inlined(self) -> pa.Table:
        """The rows with their histories in list columns behind them, in either layout."""
        table = self.table
        if self.behaviours:
            entries, offsets = self.slices.entries(slice(None))
            for name, values in self.behaviours.items():
                lists = pa.ListArray.from_arrays(
                    pa.array(offsets.astype(np.int32)), pa.array(values[entries]), type=self.types[name]
                )
                table = table.append_column(name, lists)
        return table


class SplitFiles:
    """The files of one split, opened.

    Args:
        folder: of samples.
        split: ``train``, ``validation`` or ``test``.
        layout: ``inline`` or ``by_user``.
        vocabulary_hash: of the vocabularies that the places in the files are of.

    Attributes:
        rows: how many.
        row_groups: how many.

    Raises:
        BadInput: there is no such split, or a file cannot be read, or is of another build.
    """

    def __init__(self, folder: Path, split: str, layout: str, vocabulary_hash: str):
        if split not in SPLITS:
            raise BadInput(f"There is no split {split!r}; there are: {', '.join(SPLITS)}.")
        self._folder, self._open, self._of = folder, ExitStack(), vocabulary_hash
        self._rows = self._file(folder / rows_file(split))
        self._histories = self._file(folder / histories_file(split)) if layout == BY_USER else None
        self.rows, self.row_groups = int(self._rows.metadata.num_rows), int(self._rows.metadata.num_row_groups)
        if self._histories is not None and self._histories.metadata.num_row_groups != self.row_groups:
            self._open.close()
            raise BadInput(
                f"{folder / histories_file(split)} does not belong to {rows_file(split)} beside it: it has "
                f"{self._histories.metadata.num_row_groups} row groups, not {self.row_groups}. "
                f"Run 'features build' again."
            )

    def _file(self, path: Path) -> pq.ParquetFile:
        try:
            file = self._open.enter_context(pq.ParquetFile(path, memory_map=True, page_checksum_verification=True))
            of = (file.schema_arrow.metadata or {}).get(b"vocabulary_hash", self._of.encode()).decode()
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            self._open.close()
            raise BadInput(f"The samples file {path} cannot be read: {error}.") from error
        if of != self._of:
            self._open.close()
            raise BadInput(
                f"The samples file {path} is of another build: its vocabularies are {of}, and those beside it "
                f"{self._of}. Copy all files of one folder, or run 'features build' again."
            )
        return file

    def __enter__(self) -> SplitFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def columns(self) -> list[str]:
        """All columns, as ``StoredRows.inlined`` shows them."""
        names: list[str] = self._rows.schema_arrow.names
        if self._histories is None:
            return names
        return [*(name for name in names if name not in HISTORY_COLUMNS), *self._histories.schema_arrow.names]

    def read(self, group: int, of_rows: list[str], of_behaviours: list[str], limit: int | None = None) -> StoredRows:
        """Read some columns of a row group.

        Args:
            group: its number.
            of_rows: columns of the rows.
            of_behaviours: columns ``hist_*``.
            limit: only the first so many rows, one or more; None reads all of them.

        Raises:
            BadInput: the files are damaged.
        """
        try:
            return self._stored(group, of_rows, of_behaviours, limit)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise BadInput(
                f"The samples in {self._folder} are damaged: {error}. Copy them again, or run 'features build' again."
            ) from error

    def _stored(self, group: int, of_rows: list[str], of_behaviours: list[str], limit: int | None) -> StoredRows:
        if self._histories is None:
            table = self._read_rows(group, [*of_rows, *of_behaviours], limit)
            lists = {name: column(table, name) for name in of_behaviours}
            slices = Slices.of(next(iter(lists.values()))) if lists else Slices(*_nothing(len(table)))
        elif of_behaviours:
            table = self._read_rows(group, [*of_rows, *HISTORY_COLUMNS], limit)
            users = self._histories.read_row_group(group, columns=of_behaviours)
            lists = {name: column(users, name) for name in of_behaviours}
            user, start, end = (np.asarray(column(table, name)).astype(np.int64) for name in HISTORY_COLUMNS)
            slices = Slices(Slices.of(next(iter(lists.values()))).start[user] + start, end - start)
        else:
            table, lists = self._read_rows(group, of_rows, limit), {}
            slices = Slices(*_nothing(len(table)))
        return StoredRows(
            table.select(of_rows),
            slices,
            {name: list_values(values) for name, values in lists.items()},
            {name: values.type for name, values in lists.items()},
        )

    def _read_rows(self, group: int, columns: list[str], limit: int | None) -> pa.Table:
        if limit is None:
            return self._rows.read_row_group(group, columns=columns)
        batches = self._rows.iter_batches(limit, row_groups=[group], columns=columns)
        return pa.Table.from_batches([next(batches)])


def _nothing(rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
