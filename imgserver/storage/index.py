"""The index in LMDB: the truth about what the store holds.

    meta      "format", "generation", "last space" -> number; "active" -> version; "table:<space>" -> file of a
              snapshot; "entries:<space>" -> how many entries it has; "deleted:<space>" -> JSON of a space whose files
              are being removed; "point:…", see ``points``
    spaces    name -> JSON: a space is the features of one backbone version, or the vectors of one version
    entries   space number, image id -> entry: row, status, checksum, content hash, size and stamp of the photo, seal
    changes   see ``changes``

Whoever writes holds LMDB's write lock from the moment that rows are given out until the commit, so the daemon and
precompute may write at the same time. Rows are on disk before the commit that names them.

An entry that is not what was sealed is never taken for one: ``load`` refuses, ``survey`` and ``get`` say which it is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.checksums import open_fact
from crossmedia.imgserver.storage.index_reading import (
    IndexReader,
    count_key,
    deleted_key,
    entry_keys,
    record_blocks,
    snapshot_key,
)
from crossmedia.imgserver.storage.records import ENTRY, MAX_ROWS, NO_ROW, Entries, Ids, NewEntries, Space, seal_entries

UNFINISHED_INDEX = "data.mdb.part"  # is there while a store is restored, and its index not yet
MOST_DELETED = 1_000_000  # spaces; where the last number that was given is lost


class Index(IndexReader):
    """The index in ``folder``, to be read and written; open it once a process. The arguments are the reader's."""

    def _put_fact(self, txn: Any, key: bytes, value: object) -> None:
        self._env.put_fact(txn, self._env.meta, key, str(value).encode())

    def _put_space(self, txn: Any, space: Space) -> None:
        self._env.put_fact(txn, self._env.spaces, space.name.encode(), json.dumps(asdict(space)).encode())

    def _count(self, txn: Any, number: int, more: int) -> None:
        self._put_fact(txn, count_key(number), self._number(txn, count_key(number), 0) + more)

    def activate(self, version: str) -> None:
        """Serve ``version`` from now on.

        Raises:
            StoreError: it was deleted meanwhile, or the index cannot be written.
        """
        with self._env.write() as txn:
            if self._space(txn, version) is None:
                raise StoreError(f"{version} was deleted from the store {self.folder.parent} before it was activated.")
            self._put_fact(txn, b"active", version)

    def ensure_space(self, name: str, kind: str, dim: int, dtype: str, recipe: str = "") -> Space:
        """The space of that name, made if it is not there."""
        with self._env.write() as txn:
            if known := self._space(txn, name):
                return known
            # Above that of a deleted space too: a process may still remove its rows, or have them mapped.
            last = self._number(txn, b"last space", 0)
            number = 1 + max([last, *(space.number for space in self._all_spaces(txn))])
            self._put_fact(txn, b"last space", number)
            space = Space(number, name, kind, dim, dtype, recipe=recipe)
            self._put_space(txn, space)
            return space

    def put(self, batches: list[NewEntries]) -> None:
        """Give rows to the entries that are OK, have them written, and commit all batches in one transaction.

        Raises:
            StoreError: the index cannot be written, or a space was deleted meanwhile; nothing of it was committed.
        """
        with self._env.write() as txn:
            replaced = False
            for batch in batches:
                replaced |= self._put_one(txn, batch)
            if replaced:
                self._grow(txn)

    def _grow(self, txn: Any) -> None:
        """Raise the generation: of an image that had a row, another one counts from here on, or none."""
        self._put_fact(txn, b"generation", self._number(txn, b"generation", 1) + 1)

    def _put_one(self, txn: Any, batch: NewEntries) -> bool:
        """Write one batch; return whether the content of an image that had a row changed."""
        name, ids, entries = batch.space.name, batch.ids, batch.entries
        space = self._space(txn, name)
        if space is None or space.number != batch.space.number:
            raise StoreError(f"{name} was deleted from the store {self.folder.parent} while vectors of it were made.")
        with_row = entries["row"] != NO_ROW
        rows = int(with_row.sum())
        first = batch.write_rows(space.next_row) if rows else space.next_row
        if first + rows > MAX_ROWS:
            raise StoreError(f"{name} has {first:,} rows, and {MAX_ROWS:,} are the most. Run 'imgserver compact'.")
        entries["row"][with_row] = first + np.arange(rows)
        seal_entries(space.number, ids, entries)
        keys, blobs = entry_keys(space.number, ids), list(_blobs(entries))
        replaced, new = False, 0
        # Sorted keys append to LMDB's pages instead of splitting them.
        for i in np.argsort(ids, kind="stable").tolist():
            if txn.put(keys[i], blobs[i], db=self._env.entries, overwrite=False):
                new += 1
            else:
                before, _ = self._entry(space.number, int(ids[i]), txn.get(keys[i], db=self._env.entries))
                replaced |= bool(before["row"] != NO_ROW and before["content"] != entries["content"][i])
                txn.put(keys[i], blobs[i], db=self._env.entries)
        self._put_space(txn, replace(space, next_row=first + rows))
        self._count(txn, space.number, new)
        self._changes.add(txn, space.number, ids)
        return replaced

    def delete_space(self, name: str) -> int:
        """Take a space and all its entries out of the index; return how many entries there were.

        It is ``deleted`` from then on, until ``forget_deleted``.

        Raises:
            StoreError: the index cannot be written; nothing was deleted.
        """
        with self._env.write() as txn:
            space = self._space(txn, name)
            if space is None:
                return 0
            prefix, deleted = struct.pack(">I", space.number), 0
            self._put_fact(txn, deleted_key(space.number), json.dumps(asdict(space)))
            cursor = txn.cursor(db=self._env.entries)
            there = cursor.set_range(prefix)
            while there and cursor.key().startswith(prefix):
                there = cursor.delete()
                deleted += 1
            txn.delete(name.encode(), db=self._env.spaces)
            for key in (snapshot_key(space.number), count_key(space.number)):
                txn.delete(key, db=self._env.meta)
            if deleted:
                self._grow(txn)
        return deleted

    def forget_deleted(self, space: Space) -> None:
        """Note that a deleted space has no files any more."""
        with self._env.write() as txn:
            txn.delete(deleted_key(space.number), db=self._env.meta)

    def adopt(self, space: Space, ids: Ids, entries: Entries) -> None:
        """Add a space whose rows lie in their places already, to an index that has no space of a higher number.

        Args:
            space: with its number and next row.
            ids: shape (n,), ascending.
            entries: shape (n,), ``ENTRY``, with their rows.
        """
        seal_entries(space.number, ids, entries)
        with self._env.write() as txn:
            self._put_space(txn, space)
            self._count(txn, space.number, len(ids))
            txn.cursor(db=self._env.entries).putmulti(
                zip(entry_keys(space.number, ids), _blobs(entries), strict=True), append=True
            )

    def adopt_facts(self, active: str, generation: int) -> None:
        """Take over which version is active, and the generation."""
        with self._env.write() as txn:
            self._put_fact(txn, b"active", active)
            self._put_fact(txn, b"generation", generation)

    def remove(self, parts: list[tuple[str, Ids, Entries]]) -> None:
        """Take entries of several spaces out of the index in one transaction; their rows stay in the files, unnamed.

        Args:
            parts: name of a space, ids, shape (n,), and their entries as they were read, shape (n,).

        Raises:
            StoreError: an entry is no longer what was read, or the index cannot be written; nothing was removed.
        """
        with self._env.write() as txn:
            for name, ids, entries in parts:
                space = self._space(txn, name)
                if space is None:  # deleted meanwhile, with all its entries
                    continue
                for image_id, key, blob in zip(ids, entry_keys(space.number, ids), _blobs(entries), strict=True):
                    if txn.pop(key, db=self._env.entries) != blob:
                        raise StoreError(
                            f"Image {image_id} of {name} changed in {self.folder} while it was to be removed; it and "
                            f"those with it are still there. Start again."
                        )
                self._count(txn, space.number, -len(ids))
                self._changes.add(txn, space.number, ids)
            if any((entries["row"] != NO_ROW).any() for _, _, entries in parts):
                self._grow(txn)

    def drop_damaged(self) -> dict[str, tuple[int, int]]:
        """Take out what is damaged, count what is left, and have all tables read it anew.

        Returns:
            name of each space that had damage -> entries that were taken out, and entries that were lost before.

        Raises:
            StoreError: what the index says of a space is damaged: without it, its rows mean nothing.
        """
        taken: dict[str, tuple[int, int]] = {}
        with self._env.write() as txn:
            spaces = {space.number: space for space in self._all_spaces(txn)}
            left = dict.fromkeys(spaces, 0)
            bad: list[bytes] = []
            for keys, records in record_blocks(txn.cursor(db=self._env.entries)):
                numbers = records["key"]["space"].astype(np.int64)
                ids, entries = records["key"]["id"].astype(np.int64), np.ascontiguousarray(records["entry"])
                whole = np.isin(numbers, list(spaces))
                self._mark(numbers, ids, entries, whole)
                bad += [keys[place] for place in np.flatnonzero(~whole).tolist()]
                for number in np.unique(numbers[whole]).tolist():
                    left[number] += int((numbers[whole] == number).sum())
            for key in bad:
                txn.delete(key, db=self._env.entries)
            self._drop_damaged_facts(txn, list(spaces.values()))
            for number, space in spaces.items():
                lost = self._number(txn, count_key(number), left[number]) - left[number]
                damaged = sum(key[:4] == struct.pack(">I", number) for key in bad)
                if lost or damaged:
                    taken[space.name] = damaged, max(0, lost - damaged)
                    self._put_fact(txn, count_key(number), left[number])
            if taken or bad:
                self._changes.forget(txn)
        return taken

    def _drop_damaged_facts(self, txn: Any, spaces: list[Space]) -> None:
        """Delete damaged facts; numbers that only grow become the largest that they can have been."""
        for key, value in list(txn.cursor(db=self._env.meta)):
            if key != b"format" and open_fact(bytes(key), bytes(value)) is None:
                txn.delete(key, db=self._env.meta)
                if key == b"generation":
                    self._put_fact(txn, key, 1 + sum(space.next_row for space in spaces))
                if key == b"last space":
                    self._put_fact(txn, key, MOST_DELETED + max([0, *(space.number for space in spaces)]))

    def name_snapshot(self, space: Space, file: str) -> None:
        """Take a snapshot into use."""
        with self._env.write() as txn:
            self._put_fact(txn, snapshot_key(space.number), file)

    def name_point(self, space: Space, sequence: int) -> str:
        """A name for a space as it was after a change, by which ``point_sequence`` finds that again.

        Raises:
            StoreError: the index cannot be written.
        """
        with self._env.write() as txn:
            return self._points.name(txn, space.number, sequence)

    def restamp(self, name: str, ids: Ids, sources: npt.NDArray[Any]) -> None:
        """Note a new size and stamp of photos whose content is what it was; rows and readers are not touched.

        What another process took out of the index meanwhile is passed over, and so is a damaged entry.

        Args:
            name: the space.
            ids: shape (n,).
            sources: shape (n,), ``SOURCE``.
        """
        with self._env.write() as txn:
            space = self._space(txn, name)
            number = space.number if space else 0  # of no space
            for image_id, key, source in zip(ids.tolist(), entry_keys(number, ids), sources, strict=True):
                entry, whole = self._entry(number, image_id, txn.get(key, db=self._env.entries))
                if whole:
                    entry["size"], entry["stamp"] = source["size"], source["stamp"]
                    seal_entries(number, np.array([image_id]), entry[None])
                    txn.put(key, entry.tobytes(), db=self._env.entries)


def _blobs(entries: Entries) -> Iterator[bytes]:
    """Each entry as the index keeps it."""
    block, size = entries.tobytes(), ENTRY.itemsize
    return (block[i : i + size] for i in range(0, len(block), size))
