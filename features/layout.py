"""Read the files of a samples folder, one row group at a time.

``items.parquet`` holds what items have, a row an item. ``<split>.parquet`` holds a row an impression; ``item_row`` is
its item's row there. ``<split>.histories.parquet`` holds the behaviours of a user once, in list columns ``hist_*``, a
row a user; a row of ``<split>.parquet`` says which of them are its history: ``history_user``, the row of its user in
the histories, and ``history_start`` and ``history_end``, a slice of that row's lists. Row group i of the histories
holds the users of row group i of the rows, and of their behaviours those that these rows need, so that a row group can
be read alone; ``history_user`` counts within the group.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from crossmedia.features.slices import Slices, column, list_values
from crossmedia.features.splits import SPLITS

META_FILE, ITEMS_FILE = "samples.json", "items.parquet"
FORMAT = "3"  # an older release says that it does not read it


def rows_file(split: str) -> str:
    """Name of the file of a split's rows."""
    return f"{split}.parquet"


def histories_file(split: str) -> str:
    """Name of the file of a split's histories."""
    return f"{split}.histories.parquet"


def sample_files(*, histories: bool) -> list[str]:
    """Names of all files that hold samples, with or without histories."""
    kinds = (rows_file, histories_file) if histories else (rows_file,)
    return [ITEMS_FILE, *(file(split) for split in SPLITS for file in kinds)]


@dataclass(frozen=True)
class StoredRows:
    """What the files hold of a row group of R rows and M behaviours.

    Attributes:
        table: columns of the rows, histories left out.
        slices: which of the stored behaviours are the history of each row.
        behaviours: ``hist_*`` -> values of the stored behaviours, shape (M,) each.
    """

    table: pa.Table
    slices: Slices
    behaviours: dict[str, npt.NDArray[Any]]

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
        )


def open_file(path: Path, build: Mapping[str, str]) -> pq.ParquetFile:
    """Open one of the files, to be closed by the caller.

    Args:
        path: of the file.
        build: what files that belong together have in their metadata, see ``Meta.build``.

    Raises:
        BadInput: it cannot be read, or is of another build.
    """
    try:
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        found = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        why = str(error).strip().removesuffix(".")
        raise BadInput(
            f"The samples file {path} cannot be read: {why}. Copy the samples again, or run 'features build' again."
        ) from error
    for name, of in build.items():
        if (its := found.get(name, of)) != of:
            file.close()
            raise BadInput(
                f"The samples file {path} is of another build: its {name} is {its}, and that of the files beside it "
                f"{of}. Copy all files of one folder, or run 'features build' again."
            )
    return file


def damaged(folder: Path, error: Exception) -> BadInput:
    """The error for files that cannot be read in the middle."""
    return BadInput(f"The samples in {folder} are damaged: {error}. Copy them again, or run 'features build' again.")


class SplitFiles:
    """The files of one split, opened.

    Args:
        folder: of samples.
        split: ``train``, ``validation`` or ``test``.
        histories: whether there are any.
        build: see ``open_file``.

    Attributes:
        rows: how many.
        row_groups: how many.

    Raises:
        BadInput: there is no such split, or a file cannot be read, or is of another build.
    """

    def __init__(self, folder: Path, split: str, build: Mapping[str, str], *, histories: bool):
        if split not in SPLITS:
            raise BadInput(f"There is no split {split!r}; there are: {', '.join(SPLITS)}.")
        self._folder, self._open = folder, ExitStack()
        try:
            self._rows = self._open.enter_context(open_file(folder / rows_file(split), build))
            self._histories: pq.ParquetFile | None = None
            if histories:
                self._histories = self._open.enter_context(open_file(folder / histories_file(split), build))
        except BadInput:
            self._open.close()
            raise
        self.rows, self.row_groups = int(self._rows.metadata.num_rows), int(self._rows.metadata.num_row_groups)
        if self._histories is not None and self._histories.metadata.num_row_groups != self.row_groups:
            self._open.close()
            raise BadInput(
                f"{folder / histories_file(split)} does not belong to {rows_file(split)} beside it: it has "
                f"{self._histories.metadata.num_row_groups} row groups, not {self.row_groups}. "
                f"Run 'features build' again."
            )

    def __enter__(self) -> SplitFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

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
            raise damaged(self._folder, error) from error

    def _stored(self, group: int, of_rows: list[str], of_behaviours: list[str], limit: int | None) -> StoredRows:
        if self._histories is None or not of_behaviours:
            table = self._read_rows(group, of_rows, limit)
            nothing = np.zeros(len(table), dtype=np.int64)
            return StoredRows(table.select(of_rows), Slices(nothing, nothing), {})
        table = self._read_rows(group, [*of_rows, *HISTORY_COLUMNS], limit)
        users = self._histories.read_row_group(group, columns=of_behaviours)
        lists = {name: column(users, name) for name in of_behaviours}
        user, start, end = (np.asarray(column(table, name)).astype(np.int64) for name in HISTORY_COLUMNS)
        slices = Slices(Slices.of(next(iter(lists.values()))).start[user] + start, end - start)
        behaviours = {name: list_values(values) for name, values in lists.items()}
        return StoredRows(table.select(of_rows), slices, behaviours)

    def _read_rows(self, group: int, columns: list[str], limit: int | None) -> pa.Table:
        if limit is None:
            return self._rows.read_row_group(group, columns=columns)
        batches = self._rows.iter_batches(limit, row_groups=[group], columns=columns)
        return pa.Table.from_batches([next(batches)])
