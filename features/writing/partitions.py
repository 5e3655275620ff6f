"""Partition rows by user on disk: all rows of a user lie in one partition, and a partition fits into memory."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crossmedia.errors import BadInput
from crossmedia.features.hashing import hash_strings

ROWS = 2_000_000
OTHER_FILES = 256  # that a process has open


def partitions_for(rows: int) -> int:
    """How many partitions so many rows need; one if they fit into memory at once."""
    return max(1, -(-rows // ROWS))


class Partitions:
    """Arrow files ``<name>-<number>.arrow`` in ``folder``, written once and then read one by one.

    Args:
        folder: where they go.
        name: of the table.
        count: how many.

    Raises:
        BadInput: the system lets nobody open so many files.
    """

    def __init__(self, folder: Path, name: str, count: int):
        _allow_files(count + OTHER_FILES)
        self._folder, self._name, self.count = folder, name, count
        self._writers: list[Any] = [None] * count
        self._schema: pa.Schema | None = None
        self._open = ExitStack()

    def close(self) -> None:
        """Finish the files, so that they can be read."""
        self._open.close()

    def write(self, table: pa.Table) -> None:
        """Put each row into the partition of its ``user``, in order."""
        self._schema = table.schema
        if self.count == 1:
            self._writer(0).write_table(table)
            return
        part = (hash_strings(table["user"].combine_chunks()) % np.uint64(self.count)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=self.count))
        table = table.take(pa.array(order))
        for number, (start, end) in enumerate(zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True)):
            if end > start:
                self._writer(number).write_table(table.slice(start, end - start))

    def _writer(self, number: int) -> Any:
        if self._writers[number] is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            writer = pa.ipc.new_stream(self._path(number), self._schema, options=options)
            self._writers[number] = self._open.enter_context(writer)
        return self._writers[number]

    def read(self, number: int) -> pa.Table | None:
        """All rows of a partition in the order they were written; None when it has none."""
        if self._writers[number] is None:
            return None
        with pa.OSFile(self._path(number)) as file, pa.ipc.open_stream(file) as reader:
            return reader.read_all().combine_chunks()

    def _path(self, number: int) -> str:
        return str(self._folder / f"{self._name}-{number:04d}.arrow")


def _allow_files(count: int) -> None:
    """Let this process open so many files: all partitions are written at once, and a common limit is a thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise BadInput(f"A log of this size takes {count} open files; the system allows {hard}. Raise: ulimit -Hn.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
