"""Fixed-width rows in append-only segment files, mapped into memory.

A segment has its full size from the start (sparse, so it costs no disk): readers never see a file grow. Which rows
exist is the index's business; rows behind the last one that it names are free. A file that lacks rows that were given
out, or is gone, is damaged: these rows are damaged ones, and nothing is ever written into it again.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.disk import sync_names
from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.checksums import SUM_BITS, Bits, Mask, Named, find_damaged

SEGMENT_BYTES = 128 << 20
MAX_SEGMENT_ROWS = 1 << 20
VERIFY_EVERY_S = 60.0  # what was compared longer ago is compared again: disks and memory go on to fail

Values = npt.NDArray[Any]
RowNumbers = npt.NDArray[np.int64]


def rows_in_segment(row_bytes: int) -> int:
    """Rows in a segment file: the power of two that makes files of at most 128 MiB.

    A copy by a tool that knows no sparse files then does not grow without measure.
    """
    return min(1 << (max(1, SEGMENT_BYTES // row_bytes).bit_length() - 1), MAX_SEGMENT_ROWS)


class RowFile:
    """Rows ``0, 1, 2, …`` of ``dim`` numbers each.

    Args:
        folder: holds ``00000.rows, 00001.rows, …``.
        dim: numbers in a row.
        dtype: of the numbers, as stored.

    Attributes:
        damaged: different rows that were found not to be what was written.
    """

    def __init__(self, folder: Path, dim: int, dtype: str):
        self.folder, self.dim, self.dtype = folder, dim, np.dtype(dtype)
        self.damaged = 0
        self._prefix = f"{folder}{os.sep}"
        self._row_bytes = dim * self.dtype.itemsize
        self._segment_rows = rows_in_segment(self._row_bytes)
        self._segments: dict[int, Values] = {}
        self._lock = threading.Lock()
        # Of each file a bit a row: it was compared with its checksum lately; it was found damaged once.
        self._verified: dict[int, Bits] = {}
        self._known_bad: dict[int, Bits] = {}
        self._verified_since = time.monotonic()

    def _path(self, number: int) -> str:
        return f"{self._prefix}{number:05d}.rows"

    def _segment(self, number: int) -> Values:
        """The rows that a file has now, shape (n, dim); it may have been cut since it was mapped."""
        path = self._path(number)
        try:
            size = os.stat(path).st_size
            rows = min(size // self._row_bytes, self._segment_rows)
            known = self._segments.get(number)
            if known is None or len(known) > rows:
                if not rows:
                    return np.zeros((0, self.dim), dtype=self.dtype)
                known = np.asarray(np.memmap(path, dtype=self.dtype, mode="r", shape=(rows, self.dim)))
                if rows == self._segment_rows:
                    self._segments[number] = known
            return known
        except FileNotFoundError:
            return np.zeros((0, self.dim), dtype=self.dtype)
        except OSError as error:
            raise StoreError(
                f"The row file {path} cannot be read: {error}. Mend its permissions or its disk, or restore a backup."
            ) from error

    def write(self, first_row: int, rows: Values) -> int:
        """Write ``rows``, shape (n, dim), behind what is there, and wait until they are on disk.

        Args:
            first_row: the first that no entry names.
            rows: to be written.

        Returns:
            the row that the first one became: ``first_row``; or, where its file is damaged, the first of the next file.

        Raises:
            StoreError: the disk is full or the file cannot be written. Nothing names the rows yet, so nothing is lost.
        """
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        number, offset = divmod(first_row, self._segment_rows)
        if offset:
            if self._size(number) < offset * self._row_bytes:  # it lacks rows that were given out
                first_row = (number + 1) * self._segment_rows
            else:
                self._create(number)
        done = 0
        while done < len(rows):
            number, offset = divmod(first_row + done, self._segment_rows)
            part = rows[done : done + self._segment_rows - offset]
            if not offset:
                self._create(number)
            path = self._path(number)
            try:
                with open(path, "r+b", buffering=0) as file:
                    file.seek(offset * self._row_bytes)
                    view = memoryview(part.tobytes())
                    while view:
                        view = view[file.write(view) :]
                    os.fdatasync(file.fileno())
            except OSError as error:
                raise StoreError(f"Rows cannot be written to {path}: {error}. Is the disk full?") from error
            done += len(part)
        return first_row

    def _size(self, number: int) -> int:
        try:
            return os.stat(self._path(number)).st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreError(f"The row file {self._path(number)} cannot be read: {error}.") from error

    def _create(self, number: int) -> None:
        """Make a file of the full size. A killed writer may have left less; no entry names the rest."""
        path = self._path(number)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                file.truncate(max(file.tell(), self._segment_rows * self._row_bytes))
            sync_names(self.folder)
        except OSError as error:
            raise StoreError(f"The row file {path} cannot be made: {error}. Is the disk full?") from error

    def gather(self, named: Named) -> tuple[Values, Mask | None]:
        """Copy rows into a new array; each is compared with its checksum, unless that was done within the last minute.

        Args:
            named: the rows, as ``name_rows`` makes them, shape (n,).

        Returns:
            the rows, shape (n, dim), and which are damaged, shape (n,); None when none is. Those are zeros.

        Raises:
            StoreError: a file cannot be read.
        """
        if not len(named):
            return np.empty((0, self.dim), dtype=self.dtype), None
        if time.monotonic() - self._verified_since > VERIFY_EVERY_S:
            self._verified, self._verified_since = {}, time.monotonic()
        rows = named >> SUM_BITS
        if rows.max() < self._segment_rows:
            return self._gather_from(0, rows, named)
        out, bad = np.empty((len(named), self.dim), dtype=self.dtype), np.zeros(len(named), dtype=np.bool_)
        of = rows // self._segment_rows
        for number in np.unique(of).tolist():
            here = np.flatnonzero(of == number)
            out[here], wrong = self._gather_from(number, rows[here], named[here])
            if wrong is not None:
                bad[here] = wrong
        return out, bad if bad.any() else None

    def _gather_from(self, number: int, rows: RowNumbers, named: Named) -> tuple[Values, Mask | None]:
        """``gather`` from one file."""
        segment, first = self._segment(number), number * self._segment_rows
        out, bad = np.empty((len(rows), self.dim), dtype=self.dtype), np.zeros(len(rows), dtype=np.bool_)
        if len(segment):
            # clip: numpy then takes without a bounds check a row, which is faster; what lies beyond is damaged.
            np.take(segment, rows - first if first else rows, axis=0, out=out, mode="clip")
        # Of a file that was cut no row is believed for having been compared before.
        whole = len(segment) == self._segment_rows
        verified = self._bits(self._verified if whole else {}, number)
        if not find_damaged(out, named, (first, len(segment)), verified, bad):
            return out, None
        out[bad] = 0
        with self._lock:
            known = self._bits(self._known_bad, number)
            for row in np.unique(rows[bad] - first).tolist():
                self.damaged += not known[row >> 3] >> (row & 7) & 1
                known[row >> 3] |= 1 << (row & 7)
        return out, bad

    def _bits(self, of: dict[int, Bits], number: int) -> Bits:
        """A bit for each row of a file."""
        found = of.get(number)
        if found is None:
            found = of.setdefault(number, np.zeros(self._segment_rows // 8 + 1, dtype=np.uint8))
        return found

    def held(self, next_row: int) -> int:
        """How many of the rows below ``next_row`` lie in a file."""
        last, most = (next_row - 1) // self._segment_rows, self._segment_rows
        sizes = (self._size(number) // self._row_bytes for number in range(last + 1))
        return sum(min(size, most, next_row - number * most) for number, size in enumerate(sizes))

    def missing(self, rows: RowNumbers) -> Mask:
        """Which rows, shape (n,), lie in no file; a look at the files' sizes alone."""
        of, offset = np.divmod(rows, self._segment_rows)
        found = np.zeros(len(rows), dtype=np.bool_)
        for number in np.unique(of).tolist():
            found |= (of == number) & (offset >= self._size(number) // self._row_bytes)
        return found
