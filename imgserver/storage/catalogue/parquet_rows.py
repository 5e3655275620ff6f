"""Single rows out of Parquet files, which can only be read a row group at a time."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.files import Files
from crossmedia.imgserver.storage.catalogue.local import NotBelow
from crossmedia.imgserver.storage.catalogue.scan import BYTES_COLUMNS, bytes_column

KEEP_BYTES = 512 << 20


@dataclass(frozen=True)
class _Open:
    file: Any
    first_row: npt.NDArray[np.int64]  # of each row group, and the number of rows
    column: str  # that holds the photos


class ParquetRows:
    """Photos in a column of Parquet files; the row groups read last stay in memory, up to 512 MiB.

    Whoever reads many rows reads them in the order of the file, so that each group is decoded once.

    Args:
        files_for: what reads a path.
    """

    def __init__(self, files_for: Callable[[str], Files]):
        self._files_for = files_for
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._bytes = 0
        self._open = lru_cache(maxsize=16)(self._open_file)

    def read(self, path: str, row: int) -> bytes | None:
        """The photo in ``row`` of the file; None when the cell is empty, or there is no such file or row.

        Raises:
            OSError: the file is there and cannot be read.
        """
        with self._lock:
            try:
                opened = self._open(path)
                group = int(np.searchsorted(opened.first_row, row, side="right")) - 1
                if group >= len(opened.first_row) - 1:
                    return None
                column = self._group(path, opened, group)
            except (FileNotFoundError, NotBelow):
                return None
            except pa.ArrowException as error:
                raise OSError(str(error)) from error
        place = row - int(opened.first_row[group])
        if place >= len(column):
            raise OSError(f"{path} holds fewer rows than it says")
        data = column[place].as_py()
        if not isinstance(data, bytes | None):
            raise OSError(f"the column {opened.column!r} of {path} holds no bytes")
        return data

    def _open_file(self, path: str) -> _Open:
        source = self._files_for(path).open(path)
        file = pq.ParquetFile(source)
        weakref.finalize(file, source.close)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        try:
            column = bytes_column(file.schema_arrow, path) or BYTES_COLUMNS[0]
        except BadInput as error:  # it was written anew since it was listed
            raise OSError(str(error)) from error
        return _Open(file, np.cumsum([0, *rows]), column)

    def _group(self, path: str, opened: _Open, group: int) -> pa.ChunkedArray:
        key = (path, group)
        if key not in self._groups:
            column = opened.file.read_row_group(group, columns=[opened.column])[opened.column]
            self._groups[key] = column
            self._bytes += column.nbytes
            while self._bytes > KEEP_BYTES and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end(key)
        return self._groups[key]
