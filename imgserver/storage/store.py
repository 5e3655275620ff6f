"""The store: features and vectors, rows, codebooks and index together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.disk import replacing, used_bytes
from crossmedia.errors import BadInput, NoStore, StoreError
from crossmedia.imgserver.storage.checksums import Mask, name_rows, row_checksums
from crossmedia.imgserver.storage.codebook import Codebook
from crossmedia.imgserver.storage.index import UNFINISHED_INDEX, Index
from crossmedia.imgserver.storage.records import ENTRY, NO_ROW, SOURCE_FIELDS, Entries, Ids, NewEntries, Rows, Space
from crossmedia.imgserver.storage.rows import RowFile
from crossmedia.imgserver.storage.snapshots import SNAPSHOT_FROM, remove_snapshots
from crossmedia.imgserver.storage.stores import Lookups, Stored
from crossmedia.status import DAMAGED, is_ok

HEADS = "heads"
CODEBOOKS = "codebooks"
ENCODERS = "encoders"  # of texts, fitted on the catalogue


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def row_folder(store: Path, space: Space) -> Path:
    """Where the rows of a space lie."""
    return store / "rows" / f"{space.number:04d}"


def open_rows(store: Path, space: Space) -> RowFile:
    """The rows of a space: its numbers, or the codes that its codebook decodes."""
    width, dtype = (space.row_bytes, "uint8") if space.codebook else (space.dim, space.dtype)
    return RowFile(row_folder(store, space), width, dtype)


class Store:
    """Features and vectors below one folder: ``index/`` (LMDB), ``rows/<space>/`` and ``codebooks/``.

    Args:
        folder: the store's folder.
        create: make it if it is not there.

    Raises:
        NoStore: there is none, and ``create`` is off.
        StoreError: it cannot be opened.
    """

    def __init__(self, folder: str | Path, *, create: bool = True):
        self.folder = Path(folder)
        index = self.folder / "index"
        if (index / UNFINISHED_INDEX).exists() and not (index / "data.mdb").exists():
            raise StoreError(
                f"{self.folder} is a store that is being restored, or was when that was killed. Run "
                f"'imgserver restore BACKUP --store {self.folder}' to its end."
            )
        if not _size(index / "data.mdb") and any((self.folder / "rows").glob("*/*.rows")):
            raise StoreError(
                f"The index of {self.folder} has gone, without which its rows mean nothing. Restore a backup; or move "
                f"the store away and run 'imgserver precompute' into a new one."
            )
        if not create and not (self.folder / "index" / "data.mdb").exists():
            raise NoStore(self.folder)
        self.index = Index(self.folder / "index", create=create)
        self.filling_advice = f"Run 'imgserver precompute --store {self.folder} --catalogue FOLDER' first"
        self.similarity_advice = f"Run 'imgserver index --store {self.folder}'"
        self.readable = True
        # By number: a version that was deleted and made again, by another process too, has other files.
        self._rows: dict[int, RowFile] = {}
        self._damaged_entries: dict[int, int] = {}
        self._codebooks: dict[str, Codebook] = {}

    def __str__(self) -> str:
        return str(self.folder)

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    @property
    def damaged(self) -> int:
        """Rows, and entries of tables, that were found damaged or lost since the store was opened."""
        return sum(rows.damaged for rows in list(self._rows.values())) + sum(list(self._damaged_entries.values()))

    def note_damaged(self, space: Space, entries: int) -> None:
        """A table of a space found so many entries damaged or lost when it was loaded."""
        self._damaged_entries[space.number] = entries

    def rows(self, space: Space) -> RowFile:
        """The row file of a space: of its numbers, or of the codes that its codebook decodes."""
        if space.number not in self._rows:
            self._rows[space.number] = open_rows(self.folder, space)
        return self._rows[space.number]

    def codebook(self, space: Space) -> Codebook | None:
        """What encodes and decodes the rows of a space; None where they are the numbers themselves.

        Raises:
            StoreError: it is missing or damaged.
        """
        name = space.codebook
        if name and name not in self._codebooks:
            path = self._codebook_path(name)
            try:
                found = Codebook.from_bytes(path.read_bytes())
            except (OSError, BadInput) as error:
                raise StoreError(f"The codebook of {space.name}, {path}, is missing or cannot be read.") from error
            if (found.name, found.dim) != (name, space.dim):
                raise StoreError(f"The codebook {path} is not the one that {space.name} was made with; it is damaged.")
            found.decode(found.encode(np.zeros((1, space.dim))))  # compiles, so that no reply waits for it
            self._codebooks[name] = found
        return self._codebooks[name] if name else None

    def save_codebook(self, codebook: Codebook) -> None:
        """Keep a codebook; call it before the first space with its codes is made."""
        with replacing(self._codebook_path(codebook.name)) as part:
            part.write_bytes(codebook.to_bytes())

    def _codebook_path(self, name: str) -> Path:
        return self.folder / CODEBOOKS / f"{name}.safetensors"

    def put(self, rows: Rows) -> None:
        """Store one batch: rows first, synced, then one commit of the index."""
        self.index.put([self.entries_of(rows)])

    def put_all(self, parts: list[Rows]) -> Ids:
        """Store several batches, as ``put`` does one, in one commit; return the ids that were not kept: none."""
        self.index.put([self.entries_of(rows) for rows in parts])
        return np.zeros(0, dtype=np.int64)

    def entries_of(self, rows: Rows) -> NewEntries:
        """The entries that a commit writes for rows."""
        ok = is_ok(rows.status)
        entries = np.zeros(len(rows), dtype=ENTRY)
        entries["status"], entries["row"] = rows.status, np.where(ok, 0, NO_ROW)
        entries[SOURCE_FIELDS] = rows.sources
        values, codebook = rows.values if ok.all() else rows.values[ok], self.codebook(rows.space)
        stored = codebook.encode(values) if codebook else np.ascontiguousarray(values, dtype=rows.space.dtype)
        entries["checksum"][ok] = row_checksums(stored)
        return NewEntries(rows.space, rows.ids, entries, lambda first: self.rows(rows.space).write(first, stored))

    def delete(self, space: Space) -> int:
        """Delete a space with its rows; return how many images it had. Who has mapped the rows keeps them.

        Raises:
            StoreError: the index cannot be written, or a file cannot be removed.
        """
        deleted = self.index.delete_space(space.name)
        self.finish_deletions()
        return deleted

    def finish_deletions(self) -> list[str]:
        """Remove the files of what was deleted, also by a process that was then killed; return the names.

        Raises:
            StoreError: the index cannot be written, or a file cannot be removed.
        """
        deleted = self.index.deleted()
        for space in deleted:
            self._rows.pop(space.number, None)
            remove_snapshots(self.index.folder, space.number)
            rows = row_folder(self.folder, space)
            shutil.rmtree(rows, ignore_errors=True)
            if space.codebook and all(other.codebook != space.codebook for other in self.index.spaces(space.kind)):
                self._codebook_path(space.codebook).unlink(missing_ok=True)
            if rows.exists():
                raise StoreError(f"{space.name} is deleted, and its rows in {rows} cannot be removed. Delete it again.")
            self.index.forget_deleted(space)
        return [space.name for space in deleted]

    def table(self, space: Space) -> Lookups:
        """Lookups of a version. A small table is loaded at once; a large one asks the index until it is loaded."""
        from crossmedia.imgserver.storage.table import Table  # numba compiles for a while

        table = Table(self, space)
        if len(self.index) < SNAPSHOT_FROM:
            table.load()
        return table

    def fetch(self, space: Space, image_id: int) -> Stored | None:
        """What is stored of an image; None where nothing is, or it is damaged."""
        entries, found = self.index.get(space.name, np.array([image_id]))
        if not found[0]:
            return None
        if entries["row"][0] == NO_ROW:
            return Stored(entries[0], np.zeros(space.dim, space.value_dtype))
        values, bad = self.look(space, entries)
        return None if bad is not None else Stored(entries[0], values[0])

    def knows(self, space: Space, ids: Ids) -> Mask:
        """Which ids, shape (n,), have an entry, even a damaged one."""
        entries, found = self.index.get(space.name, ids)
        known: Mask = found | (entries["status"] == DAMAGED)
        return known

    def as_stored(self, space: Space, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows, shape (n, dim), as they will be read once they are stored."""
        codebook = self.codebook(space)
        return codebook.decode(codebook.encode(values)) if codebook else values.astype(space.dtype)

    def head_path(self, name: str) -> Path:
        """The file of a head, ``<name>@<hash>``."""
        return self.folder / HEADS / f"{name}.safetensors"

    def read_head(self, name: str) -> bytes | None:
        """A head's bytes, or None."""
        path = self.head_path(name)
        return path.read_bytes() if path.exists() else None

    def card_path(self, name: str) -> Path:
        """The file of the card of a head of concepts."""
        return self.folder / HEADS / f"{name}.json"

    def read_card(self, name: str) -> bytes | None:
        """The bytes of a head's card, or None."""
        path = self.card_path(name)
        return path.read_bytes() if path.exists() else None

    def free_bytes(self) -> int:
        """Bytes free on the store's disk."""
        return shutil.disk_usage(self.folder).free

    def used_bytes(self) -> int:
        """Bytes that the store's files take on disk; holes in sparse files take none."""
        return used_bytes(self.folder)

    def read(self, space: Space, entries: Entries) -> npt.NDArray[Any]:
        """Rows of entries that have one, shape (n, dim), checksums verified, codes decoded.

        Raises:
            StoreError: a row is not what was written.
        """
        values, bad = self.look(space, entries)
        if bad is not None:
            raise StoreError(
                f"{int(bad.sum())} rows of {space.name} in {self.folder} do not match their checksum. "
                f"The disk or the files are damaged. Run 'imgserver doctor --full --store {self.folder}', which says "
                f"what to do."
            )
        return values

    def rows_of(self, space: Space, ids: Ids, entries: Entries) -> Rows:
        """Rows of images, shape (n,), with these entries; see ``read``."""
        return Rows.of_entries(space, ids, entries, self.read(space, entries[is_ok(entries["status"])]))

    def look(self, space: Space, entries: Entries) -> tuple[npt.NDArray[Any], Mask | None]:
        """As ``read``, but damage is reported, so that the caller can go on with what is whole.

        Returns:
            rows, shape (n, dim), codes decoded; which of them are damaged, and must not be used, shape (n,), or None.
        """
        values, bad = self.rows(space).gather(name_rows(entries["row"], entries["checksum"]))
        codebook = self.codebook(space)
        return codebook.decode(values) if codebook else values, bad
