"""The index in LMDB: the truth about what the store holds.

    meta      "format", "generation", "last space" -> number; "active" -> version;
              "table:<space>" -> file of a snapshot;
              "deleted:<space>" -> JSON of a space whose files are being removed
    spaces    name -> JSON: a space is the features of one backbone version, or the vectors of one version
    entries   space number, image id -> entry: row, status, checksum, content hash, size and stamp of the photo
    changes   see ``changes``

Whoever writes holds LMDB's write lock from the moment that rows are given out until the commit, so the daemon and
precompute may write at the same time. Rows are on disk before the commit that names them.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt

from imgserver.errors import StoreError
from imgserver.storage.changes import Changes
from imgserver.storage.copied import examine_copy, note_file
from imgserver.storage.records import ENTRY, KEY, NO_ROW, RECORD, Batch, Entries, Ids, Space, places_in

# 1: release 0.1. 2: row files of at most 128 MiB; codes in place of numbers, which came before a release had format 2.
# To be raised by whatever a release that reads the present one would not understand.
FORMAT = 2
UNFINISHED_INDEX = "data.mdb.part"  # is there while a store is restored, and its index not yet
MAP_BYTES = 1 << 40  # sparse: address space, not disk
WALK_BLOCK = 50_000  # entries read from LMDB in one go
DELETED = b"deleted:"
SCAN_FROM, SCAN_SHARE = 10_000, 16  # ids asked for at once, and entries for each of them, from where ``get`` walks


class Index:
    """The LMDB environment below ``folder``. Open it once a process.

    Args:
        folder: holds ``data.mdb``.
        create: make it if it is not there.
        unlocked: read only, without LMDB's lock; for who knows that nobody writes (see ``storage.exclusive``).
        formats: that the caller can read.

    Raises:
        StoreError: the folder holds no store, or one of another format, or cannot be opened.
    """

    def __init__(
        self, folder: Path, *, create: bool = True, unlocked: bool = False, formats: tuple[int, ...] = (FORMAT,)
    ):
        self.folder, self._pid = folder, os.getpid()
        create = create and not unlocked
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            if not unlocked:
                examine_copy(folder)
            self._env = lmdb.open(
                str(folder),
                map_size=MAP_BYTES,
                max_dbs=8,
                max_readers=512,
                create=create,
                readahead=False,
                readonly=unlocked,
                lock=not unlocked,
            )
            if not unlocked:
                self._env.reader_check()
                note_file(folder)
            self._meta, self._spaces, self._entries, changes = (
                self._env.open_db(name, create=create) for name in (b"meta", b"spaces", b"entries", b"changes")
            )
            self._changes = Changes(changes)
        except (lmdb.Error, OSError) as error:
            if any(path.exists() and not os.access(path, os.W_OK) for path in (folder, folder / "lock.mdb")):
                raise StoreError(
                    f"The store {folder.parent} cannot be written: {error}. Who opens a store, if only to read, says "
                    f"in {folder / 'lock.mdb'} what must not be overwritten. Make it writable, or copy it to a "
                    f"place that is."
                ) from error
            raise StoreError(
                f"There is no readable store in {folder}: {error}. 'imgserver precompute' makes one."
            ) from error
        found = self._get(b"format")
        if found is None and unlocked:
            self._env.close()
            raise StoreError(f"The index {folder} names no format; it is damaged.")
        if found is None:
            with self._write() as txn:
                txn.put(b"format", str(FORMAT).encode(), db=self._meta)
        elif (number := int(found)) not in formats:
            self._env.close()
            raise StoreError(
                f"The store {folder.parent} has format {number}, and this release reads format {FORMAT}. "
                + (
                    f"Run 'imgserver upgrade --store {folder.parent}'."
                    if number < FORMAT
                    else "A newer release made it: install that release of CrossMedia, or restore a backup from before."
                )
            )
        self.format = int(found or FORMAT)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    @contextmanager
    def _read(self, db: Any = None) -> Iterator[Any]:
        self._check_process()
        with self._env.begin(db=db) as txn:
            yield txn

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError("The store was opened before this process was forked; open it again here.")

    @contextmanager
    def _write(self) -> Iterator[Any]:
        self._check_process()
        try:
            with self._env.begin(write=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise StoreError(f"The index {self.folder} cannot be written: {error}. Is the disk full?") from error

    def _get(self, key: bytes) -> bytes | None:
        with self._read(self._meta) as txn:
            value: bytes | None = txn.get(key)
            return value

    @property
    def active(self) -> str:
        """The version that is served; empty before the first precompute."""
        return (self._get(b"active") or b"").decode()

    @property
    def generation(self) -> int:
        """Grows when the content of an image that had been stored changes."""
        return int(self._get(b"generation") or b"1")

    def activate(self, version: str) -> None:
        """Serve ``version`` from now on.

        Raises:
            StoreError: it was deleted meanwhile, or the index cannot be written.
        """
        with self._write() as txn:
            if txn.get(version.encode(), db=self._spaces) is None:
                raise StoreError(f"{version} was deleted from the store {self.folder.parent} before it was activated.")
            txn.put(b"active", version.encode(), db=self._meta)

    def spaces(self, kind: str = "") -> list[Space]:
        """All spaces of a kind, in the order of their making; without one those of features, then those of vectors."""
        with self._read(self._spaces) as txn:
            found = [Space(**json.loads(bytes(value))) for _, value in txn.cursor()]
        return sorted((s for s in found if kind in ("", s.kind)), key=lambda s: (s.kind, s.number))

    def space(self, name: str) -> Space | None:
        """The space of that name, or None."""
        with self._read(self._spaces) as txn:
            value = txn.get(name.encode())
        return Space(**json.loads(value)) if value else None

    def ensure_space(self, name: str, kind: str, dim: int, dtype: str, recipe: str = "") -> Space:
        """The space of that name, made if it is not there."""
        with self._write() as txn:
            if value := txn.get(name.encode(), db=self._spaces):
                return Space(**json.loads(value))
            # Above that of a deleted space too: a process may still remove its rows, or have them mapped.
            last = int(txn.get(b"last space", default=b"0", db=self._meta))
            with txn.cursor(db=self._spaces) as cursor:
                number = 1 + max([last, *(json.loads(bytes(found))["number"] for _, found in cursor)])
            txn.put(b"last space", str(number).encode(), db=self._meta)
            space = Space(number, name, kind, dim, dtype, recipe=recipe)
            txn.put(name.encode(), json.dumps(asdict(space)).encode(), db=self._spaces)
            return space

    def put(self, batches: list[Batch]) -> None:
        """Give rows to the entries that are OK, have them written, and commit all batches in one transaction.

        Raises:
            StoreError: the index cannot be written, or a space was deleted meanwhile; nothing of it was committed.
        """
        with self._write() as txn:
            replaced = False
            for batch in batches:
                replaced |= self._put_one(txn, batch)
            if replaced:
                generation = int(txn.get(b"generation", default=b"1", db=self._meta)) + 1
                txn.put(b"generation", str(generation).encode(), db=self._meta)

    def _put_one(self, txn: Any, batch: Batch) -> bool:
        """Write one batch; return whether the content of an image that had a row changed."""
        name, ids, entries = batch.space.name, batch.ids, batch.entries
        found = txn.get(name.encode(), db=self._spaces)
        space = Space(**json.loads(found)) if found else None
        if space is None or space.number != batch.space.number:
            raise StoreError(f"{name} was deleted from the store {self.folder.parent} while vectors of it were made.")
        with_row = entries["row"] != NO_ROW
        rows = int(with_row.sum())
        entries["row"][with_row] = space.next_row + np.arange(rows)
        batch.write_rows(space.next_row)
        keys, blobs = _keys(space.number, ids), entries.tobytes()
        replaced = False
        size = ENTRY.itemsize
        # Sorted keys append to LMDB's pages instead of splitting them.
        for i in np.argsort(ids, kind="stable").tolist():
            blob = blobs[i * size : (i + 1) * size]
            if not txn.put(keys[i], blob, db=self._entries, overwrite=False):
                before = np.frombuffer(txn.get(keys[i], db=self._entries), ENTRY)[0]
                replaced |= bool(before["row"] != NO_ROW and before["content"] != entries["content"][i])
                txn.put(keys[i], blob, db=self._entries)
        space = replace(space, next_row=space.next_row + rows)
        txn.put(name.encode(), json.dumps(asdict(space)).encode(), db=self._spaces)
        self._changes.add(txn, space.number, ids)
        return replaced

    def delete_space(self, name: str) -> int:
        """Take a space and all its entries out of the index; return how many entries there were.

        It is ``deleted`` from then on, until ``forget_deleted``.

        Raises:
            StoreError: the index cannot be written; nothing was deleted.
        """
        with self._write() as txn:
            found = txn.get(name.encode(), db=self._spaces)
            if found is None:
                return 0
            space = Space(**json.loads(found))
            prefix, deleted = struct.pack(">I", space.number), 0
            txn.put(_deleted_key(space.number), found, db=self._meta)
            cursor = txn.cursor(db=self._entries)
            there = cursor.set_range(prefix)
            while there and cursor.key().startswith(prefix):
                there = cursor.delete()
                deleted += 1
            txn.delete(name.encode(), db=self._spaces)
            txn.delete(_snapshot_key(space.number), db=self._meta)
        return deleted

    def deleted(self) -> list[Space]:
        """Spaces that were deleted, and may have files still."""
        with self._read(self._meta) as txn, txn.cursor() as cursor:
            cursor.set_range(DELETED)
            found = [value for key, value in cursor if key.startswith(DELETED)]
        return [Space(**json.loads(value)) for value in found]

    def forget_deleted(self, space: Space) -> None:
        """Note that a deleted space has no files any more."""
        with self._write() as txn:
            txn.delete(_deleted_key(space.number), db=self._meta)

    def adopt(self, space: Space, ids: Ids, entries: Entries) -> None:
        """Take over a space whose rows lie in their places, into an index that has none of a higher number.

        Args:
            space: with its number and next row.
            ids: shape (n,), ascending.
            entries: shape (n,), ``ENTRY``, with their rows.
        """
        size, blobs = ENTRY.itemsize, entries.tobytes()
        values = (blobs[i : i + size] for i in range(0, len(blobs), size))
        with self._write() as txn:
            txn.put(space.name.encode(), json.dumps(asdict(space)).encode(), db=self._spaces)
            txn.cursor(db=self._entries).putmulti(zip(_keys(space.number, ids), values, strict=True), append=True)

    def adopt_facts(self, other: Index) -> None:
        """Take over which version is active, and the generation."""
        with self._write() as txn:
            txn.put(b"active", other.active.encode(), db=self._meta)
            txn.put(b"generation", str(other.generation).encode(), db=self._meta)

    def copy(self, folder: Path) -> None:
        """Write the index as it is now into an empty folder, while others may go on writing here.

        Raises:
            StoreError: the copy cannot be written.
        """
        self._check_process()
        try:
            self._env.copy(str(folder), compact=True)
        except lmdb.Error as error:
            raise StoreError(f"The index cannot be copied to {folder}: {error}. Is the disk full?") from error

    def map_use(self) -> tuple[int, int]:
        """Bytes of LMDB's map that are taken, and its size."""
        info = self._env.info()
        return (info["last_pgno"] + 1) * self._env.stat()["psize"], info["map_size"]

    def remove(self, parts: list[tuple[str, Ids, Entries]]) -> None:
        """Take entries of several spaces out of the index in one transaction; their rows stay in the files, unnamed.

        Args:
            parts: name of a space, ids, shape (n,), and their entries as they were read, shape (n,).

        Raises:
            StoreError: an entry is no longer what was read, or the index cannot be written; nothing was removed.
        """
        with self._write() as txn:
            for name, ids, entries in parts:
                found = txn.get(name.encode(), db=self._spaces)
                if found is None:  # deleted meanwhile, with all its entries
                    continue
                space = Space(**json.loads(found))
                blobs, size = entries.tobytes(), ENTRY.itemsize
                for place, key in enumerate(_keys(space.number, ids)):
                    if txn.pop(key, db=self._entries) != blobs[place * size : (place + 1) * size]:
                        raise StoreError(
                            f"Image {ids[place]} of {name} changed in {self.folder} while it was to be removed; it and "
                            f"those with it are still there. Start again."
                        )
                self._changes.add(txn, space.number, ids)

    def snapshot(self, space: Space) -> str:
        """Name of the file with the snapshot of a space's table, see ``snapshots``; empty where there is none."""
        return (self._get(_snapshot_key(space.number)) or b"").decode()

    def name_snapshot(self, space: Space, file: str) -> None:
        """Take a snapshot into use."""
        with self._write() as txn:
            txn.put(_snapshot_key(space.number), file.encode(), db=self._meta)

    def restamp(self, name: str, ids: Ids, sources: npt.NDArray[Any]) -> None:
        """Note a new size and stamp of photos whose content is what it was; rows and readers are not touched.

        What another process took out of the index meanwhile is passed over.

        Args:
            name: the space.
            ids: shape (n,).
            sources: shape (n,), ``SOURCE``.
        """
        with self._write() as txn:
            found = txn.get(name.encode(), db=self._spaces)
            number = json.loads(found)["number"] if found else 0  # of no space
            for key, source in zip(_keys(number, ids), sources, strict=True):
                value = txn.get(key, db=self._entries)
                if value is None:
                    continue
                entry = np.frombuffer(value, ENTRY).copy()
                entry["size"], entry["stamp"] = source["size"], source["stamp"]
                txn.put(key, entry.tobytes(), db=self._entries)

    def get(self, name: str, ids: Ids) -> tuple[Entries, npt.NDArray[np.bool_]]:
        """Entries of ``ids``, shape (n,), and which of them exist, shape (n,)."""
        entries, found = np.zeros(len(ids), dtype=ENTRY), np.zeros(len(ids), dtype=np.bool_)
        space = self.space(name)
        if space is None:
            return entries, found
        if len(ids) > SCAN_FROM and SCAN_SHARE * len(ids) > len(self):
            return self._get_by_scan(name, ids)
        with self._read(self._entries) as txn:
            for i, key in enumerate(_keys(space.number, ids)):
                if value := txn.get(key):
                    entries[i], found[i] = np.frombuffer(value, ENTRY)[0], True
        return entries, found

    def __len__(self) -> int:
        """Entries of all spaces."""
        with self._read() as txn:
            return int(txn.stat(self._entries)["entries"])

    def _get_by_scan(self, name: str, ids: Ids) -> tuple[Entries, npt.NDArray[np.bool_]]:
        """``get`` for a large part of the space: one walk over it costs less than a search for each id."""
        stored, values, _ = self.load(name)
        place, found = places_in(stored, ids)
        entries = np.zeros(len(ids), dtype=ENTRY)
        entries[found] = values[place[found]]
        return entries, found

    def load(self, name: str) -> tuple[Ids, Entries, int]:
        """All ids and entries of a space, ascending, and the sequence number of the last change in them."""
        space = self.space(name)
        with self._read() as txn:
            sequence = self._changes.newest(txn)
            blocks: list[Entries] = []
            if space is not None:
                cursor = txn.cursor(db=self._entries)
                there = cursor.set_range(struct.pack(">I", space.number))
                pieces = chain.from_iterable(cursor.iternext()) if there else iter(())
                while block := b"".join(islice(pieces, 2 * WALK_BLOCK)):
                    records = np.frombuffer(block, RECORD)
                    blocks.append(records[records["key"]["space"] == space.number])
                    if len(blocks[-1]) < len(records):
                        break
        found = np.concatenate(blocks) if blocks else np.zeros(0, RECORD)
        return found["key"]["id"].astype(np.int64), np.ascontiguousarray(found["entry"]), sequence

    def changes_since(self, sequence: int, name: str) -> tuple[Ids, int] | None:
        """Ids of a space that changed after ``sequence``, and the newest sequence; None when the log no longer says."""
        space = self.space(name)
        with self._read() as txn:
            ids = self._changes.since(txn, sequence, space.number if space else 0)
            return None if ids is None else (ids, self._changes.newest(txn))


def _keys(number: int, ids: Ids) -> list[bytes]:
    """LMDB keys, big-endian, so that a space's entries lie together in the order of the ids."""
    keys = np.empty(len(ids), dtype=KEY)
    keys["space"], keys["id"] = number, ids
    block = keys.tobytes()
    return [block[i : i + 12] for i in range(0, len(block), 12)]


def _deleted_key(number: int) -> bytes:
    return DELETED + str(number).encode()


def _snapshot_key(number: int) -> bytes:
    return f"table:{number}".encode()
