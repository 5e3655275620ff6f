"""The store: features and vectors, rows and index together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgserver.errors import StoreError
from imgserver.storage.index import ENTRY, NO_ROW, SOURCE, Batch, Entries, Ids, Index, Space, row_checksums
from imgserver.storage.rows import RowFile
from imgserver.storage.stores import Lookups, Part, Stored

SNAPSHOT_FROM = 100_000  # ids; fewer are read from the index in no time


def row_folder(store: Path, space: Space) -> Path:
    """Where the rows of a space lie."""
    return store / "rows" / f"{space.number:04d}"


class Store:
    """Features and vectors below one folder: ``index/`` (LMDB) and ``rows/<space>/``.

    Args:
        folder: the store's folder.
        create: make it if it is not there.

    Raises:
        StoreError: there is no store and ``create`` is off, or it cannot be opened.
    """

    def __init__(self, folder: str | Path, *, create: bool = True):
        self.folder = Path(folder)
        if not create and not (self.folder / "index" / "data.mdb").exists():
            raise StoreError(f"There is no store in {self.folder}. 'imgserver precompute' makes one.")
        self.index = Index(self.folder / "index", create=create)
        self.fill_hint = f"Run 'imgserver precompute --store {self.folder} --catalogue FOLDER' first"
        self.index_hint = f"Run 'imgserver index --store {self.folder}'"
        self.answers = True
        self._rows: dict[str, RowFile] = {}

    def __str__(self) -> str:
        return str(self.folder)

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def rows(self, space: Space) -> RowFile:
        """The row file of a space."""
        if space.name not in self._rows:
            self._rows[space.name] = RowFile(row_folder(self.folder, space), space.dim, space.dtype)
        return self._rows[space.name]

    def put(
        self,
        space: Space,
        ids: Ids,
        values: npt.NDArray[Any] | None,
        status: npt.NDArray[np.uint8],
        sources: npt.NDArray[Any],
        ok: int,
    ) -> None:
        """Store one batch: rows first, synced, then one commit of the index.

        Args:
            space: what the rows belong to.
            ids: shape (n,), each once.
            values: shape (m, dim), rows of the ids whose status is ``ok``, in order; None when there are none.
            status: shape (n,).
            sources: shape (n,), ``SOURCE``.
            ok: the status that means a row is there.
        """
        self.index.put([self.batch(space, ids, values, status, sources, ok)])

    def put_all(self, parts: list[Part], ok: int) -> Ids:
        """Store several parts, as ``put`` does one, in one commit; return the ids that were not kept: none."""
        self.index.put([self.batch(*part, ok) for part in parts])
        return np.zeros(0, dtype=np.int64)

    def batch(
        self,
        space: Space,
        ids: Ids,
        values: npt.NDArray[Any] | None,
        status: npt.NDArray[np.uint8],
        sources: npt.NDArray[Any],
        ok: int,
    ) -> Batch:
        """One part of a commit; the arguments are those of ``put``."""
        entries = np.zeros(len(ids), dtype=ENTRY)
        entries["status"] = status
        entries["row"] = np.where(status == ok, 0, NO_ROW)
        for name in SOURCE.names or ():
            entries[name] = sources[name]
        stored = np.zeros((0, space.dim)) if values is None else values
        stored = np.ascontiguousarray(stored, dtype=space.dtype)
        entries["checksum"][status == ok] = row_checksums(stored)
        return Batch(space.name, ids, entries, lambda first: self.rows(space).write(first, stored))

    def delete(self, space: Space) -> int:
        """Delete a space with its rows; return how many images it had. Who has mapped the rows keeps them."""
        deleted = self.index.delete_space(space.name)
        self._rows.pop(space.name, None)
        shutil.rmtree(row_folder(self.folder, space), ignore_errors=True)
        return deleted

    def table(self, space: Space) -> Lookups:
        """Lookups of a version; loaded already where that takes less time than to explain that it is not."""
        from imgserver.storage.table import Table  # numba compiles for a while

        table = Table(self, space)
        if len(self.index) < SNAPSHOT_FROM:
            table.load()
        return table

    def fetch(self, space: Space, image_id: int) -> Stored | None:
        """What is stored of an image, or None.

        Raises:
            StoreError: its row is damaged.
        """
        entries, found = self.index.get(space.name, np.array([image_id]))
        if not found[0]:
            return None
        has_row = entries["row"][0] != NO_ROW
        return Stored(entries[0], self.read(space, entries)[0] if has_row else np.zeros(space.dim, space.dtype))

    def head_path(self, name: str) -> Path:
        """The file of a head, ``<name>@<hash>``."""
        return self.folder / "heads" / f"{name}.safetensors"

    def read_head(self, name: str) -> bytes | None:
        """A head's bytes, or None."""
        path = self.head_path(name)
        return path.read_bytes() if path.exists() else None

    def free_bytes(self) -> int:
        """Bytes free on the store's disk."""
        return shutil.disk_usage(self.folder).free

    def used_bytes(self) -> int:
        """Bytes that index and rows take on disk; holes in sparse files take none."""
        return sum(file.stat().st_blocks * 512 for file in self.folder.rglob("*") if file.is_file())

    def read(self, space: Space, entries: Entries) -> npt.NDArray[Any]:
        """Rows of entries that have one, shape (n, dim), checksums verified.

        Raises:
            StoreError: a row is not what was written.
        """
        values = self.rows(space).gather(entries["row"].astype(np.int64))
        bad = row_checksums(values) != entries["checksum"]
        if bad.any():
            raise StoreError(
                f"{int(bad.sum())} rows of {space.name} in {self.folder} do not match their checksum. "
                f"The disk or the files are damaged: restore a backup, or precompute anew."
            )
        return values
