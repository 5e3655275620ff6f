"""Fixed-width rows in append-only segment files, mapped into memory.

A segment has its full size from the start (sparse, so it costs no disk), is mapped once and never again: readers
never see a file grow. Which rows exist is the index's business; rows behind the last one that it names are free.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgserver.errors import StoreError
from imgserver.storage.disk import sync_names

SEGMENT_BYTES = 128 << 20
MAX_SEGMENT_ROWS = 1 << 20

Rows = npt.NDArray[Any]
RowNumbers = npt.NDArray[np.int64]


def rows_in_segment(row_bytes: int) -> int:
    """Rows in a segment file: the power of two that makes files of at most 128 MiB."""
    return min(1 << (max(1, SEGMENT_BYTES // row_bytes).bit_length() - 1), MAX_SEGMENT_ROWS)


class RowFile:
    """Rows ``0, 1, 2, …`` of ``dim`` numbers each.

    Args:
        folder: holds ``00000.rows, 00001.rows, …``.
        dim: numbers in a row.
        dtype: of the numbers, as stored.
        segment_rows: rows in a segment file; None: as many as ``rows_in_segment`` says, so that a copy by a tool that
            knows no sparse files does not grow without measure.
    """

    def __init__(self, folder: Path, dim: int, dtype: str, segment_rows: int | None = None):
        self.folder, self.dim, self.dtype = folder, dim, np.dtype(dtype)
        self._segment_rows = segment_rows or rows_in_segment(dim * self.dtype.itemsize)
        self._segments: list[Rows] = []
        self._lock = threading.Lock()

    def _segment(self, number: int, *, create: bool = False) -> Rows:
        while len(self._segments) <= number:
            with self._lock:
                if len(self._segments) > number:
                    break
                path = self.folder / f"{len(self._segments):05d}.rows"
                new = not path.exists()
                if new and not create:  # made now, it would hold zeros for rows
                    raise StoreError(
                        f"The row file {path} is missing. Restore a backup, or precompute into a new store."
                    )
                shape = (self._segment_rows, self.dim)
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with open(path, "ab") as file:
                        file.truncate(max(os.path.getsize(path), self._segment_rows * self.dim * self.dtype.itemsize))
                    if new:
                        sync_names(self.folder)
                    self._segments.append(np.memmap(path, dtype=self.dtype, mode="r", shape=shape))
                except OSError as error:
                    raise StoreError(f"The row file {path} cannot be opened: {error}. Is the disk full?") from error
        return self._segments[number]

    def write(self, first_row: int, rows: Rows) -> None:
        """Write ``rows``, shape (n, dim), from ``first_row`` on, and wait until they are on disk.

        Raises:
            StoreError: the disk is full or the file cannot be written. Nothing names the rows yet, so nothing is lost.
        """
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        done = 0
        while done < len(rows):
            number, offset = divmod(first_row + done, self._segment_rows)
            part = rows[done : done + self._segment_rows - offset]
            self._segment(number, create=True)
            path = self.folder / f"{number:05d}.rows"
            try:
                with open(path, "r+b", buffering=0) as file:
                    file.seek(offset * self.dim * self.dtype.itemsize)
                    view = memoryview(part.tobytes())
                    while view:
                        view = view[file.write(view) :]
                    os.fdatasync(file.fileno())
            except OSError as error:
                raise StoreError(f"Rows cannot be written to {path}: {error}. Is the disk full?") from error
            done += len(part)

    def gather(self, rows: RowNumbers) -> Rows:
        """Copy the rows ``rows``, shape (n,), into a new array, shape (n, dim).

        Raises:
            StoreError: a file is missing, or cannot be opened.
        """
        out = np.empty((len(rows), self.dim), dtype=self.dtype)
        if not len(rows):
            return out
        last = int(rows.max()) // self._segment_rows
        if last == 0:
            # clip: numpy then takes without a bounds check a row, which is faster; the index vouches for the rows.
            np.take(self._segment(0), rows, axis=0, out=out, mode="clip")
            return out
        segment, offset = np.divmod(rows, self._segment_rows)
        for number in np.unique(segment).tolist():
            here = segment == number
            out[here] = np.take(self._segment(number), offset[here], axis=0, mode="clip")
        return out
