"""The index in LMDB: the truth about what the store holds.

    meta      "format", "generation", "last space" -> number; "active" -> version; "table:<space>" -> file of a
              snapshot; "entries:<space>" -> how many entries it has; "deleted:<space>" -> JSON of a space whose files
              are being removed
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
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.changes import Changes
from crossmedia.imgserver.storage.checksums import Mask, open_fact
from crossmedia.imgserver.storage.environment import Environment
from crossmedia.imgserver.storage.records import (
    ENTRY,
    KEY,
    MAX_ROWS,
    NO_ROW,
    RECORD,
    Entries,
    Ids,
    NewEntries,
    Space,
    places_in,
    seal_entries,
    whole_entries,
)
from crossmedia.status import DAMAGED

WALK_BLOCK = 50_000  # entries read from LMDB in one go
UNFINISHED_INDEX = "data.mdb.part"  # is there while a store is restored, and its index not yet
DELETED = b"deleted:"
MOST_DELETED = 1_000_000  # spaces; where the last number that was given is lost
SCAN_FROM, SCAN_SHARE = 10_000, 16  # ids asked for at once, and entries for each of them, from where ``get`` walks


class Survey(NamedTuple):
    """What a space has: ids, ascending, and entries, shape (n,); the last change in them; entries that are lost.

    The status of a damaged entry is ``DAMAGED``, and nothing else of it counts.
    """

    ids: Ids
    entries: Entries
    sequence: int
    lost: int

    @property
    def damaged(self) -> int:
        """Entries that are not what was written."""
        return int((self.entries["status"] == DAMAGED).sum())


class Index:
    """The index in ``folder``. Open it once a process.

    Args:
        folder: holds ``data.mdb``.
        create: make it if it is not there.
        unlocked: read only, without LMDB's lock; for who knows that nobody writes (see ``storage.exclusive``).

    Raises:
        StoreError: the folder holds no store, or a damaged one, or one of another format, or cannot be opened.
    """

    def __init__(self, folder: Path, *, create: bool = True, unlocked: bool = False):
        self.folder = folder
        self._env = Environment(folder, create=create, unlocked=unlocked)
        self._changes = Changes(self._env.changes)
        self.close, self.copy, self.map_use = self._env.close, self._env.copy, self._env.map_use

    def _fact(self, key: bytes) -> bytes | None:
        with self._env.read() as txn:
            return self._env.fact(txn, self._env.meta, key)

    def _put_fact(self, txn: Any, key: bytes, value: object) -> None:
        self._env.put_fact(txn, self._env.meta, key, str(value).encode())

    def _number(self, txn: Any, key: bytes, default: int) -> int:
        found = self._env.fact(txn, self._env.meta, key)
        return default if found is None else int(found)

    def _space(self, txn: Any, name: str) -> Space | None:
        found = self._env.fact(txn, self._env.spaces, name.encode())
        return Space(**json.loads(found)) if found else None

    def _put_space(self, txn: Any, space: Space) -> None:
        self._env.put_fact(txn, self._env.spaces, space.name.encode(), json.dumps(asdict(space)).encode())

    def _count(self, txn: Any, number: int, more: int) -> None:
        self._put_fact(txn, _count_key(number), self._number(txn, _count_key(number), 0) + more)

    @property
    def active(self) -> str:
        """The version that is served; empty before the first precompute."""
        return (self._fact(b"active") or b"").decode()

    @property
    def generation(self) -> int:
        """Grows when the content of an image that had been stored changes."""
        return int(self._fact(b"generation") or b"1")

    def activate(self, version: str) -> None:
        """Serve ``version`` from now on.

        Raises:
            StoreError: it was deleted meanwhile, or the index cannot be written.
        """
        with self._env.write() as txn:
            if self._space(txn, version) is None:
                raise StoreError(f"{version} was deleted from the store {self.folder.parent} before it was activated.")
            self._put_fact(txn, b"active", version)

    def spaces(self, kind: str = "") -> list[Space]:
        """All spaces of a kind, in the order of their making; without one those of features, then those of vectors."""
        with self._env.read() as txn:
            found = self._all_spaces(txn)
        return sorted((s for s in found if kind in ("", s.kind)), key=lambda s: (s.kind, s.number))

    def space(self, name: str) -> Space | None:
        """The space of that name, or None."""
        with self._env.read() as txn:
            return self._space(txn, name)

    def _all_spaces(self, txn: Any) -> list[Space]:
        cursor = txn.cursor(db=self._env.spaces)
        return [Space(**json.loads(self._env.opened(bytes(key), bytes(value)))) for key, value in cursor]

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
        keys, blobs = _keys(space.number, ids), entries.tobytes()
        replaced, new = False, 0
        size = ENTRY.itemsize
        # Sorted keys append to LMDB's pages instead of splitting them.
        for i in np.argsort(ids, kind="stable").tolist():
            blob = blobs[i * size : (i + 1) * size]
            if txn.put(keys[i], blob, db=self._env.entries, overwrite=False):
                new += 1
            else:
                before, _ = self._entry(space.number, int(ids[i]), txn.get(keys[i], db=self._env.entries))
                replaced |= bool(before["row"] != NO_ROW and before["content"] != entries["content"][i])
                txn.put(keys[i], blob, db=self._env.entries)
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
            self._put_fact(txn, _deleted_key(space.number), json.dumps(asdict(space)))
            cursor = txn.cursor(db=self._env.entries)
            there = cursor.set_range(prefix)
            while there and cursor.key().startswith(prefix):
                there = cursor.delete()
                deleted += 1
            txn.delete(name.encode(), db=self._env.spaces)
            for key in (_snapshot_key(space.number), _count_key(space.number)):
                txn.delete(key, db=self._env.meta)
        return deleted

    def deleted(self) -> list[Space]:
        """Spaces that were deleted, and may have files still."""
        with self._env.read(self._env.meta) as txn, txn.cursor() as cursor:
            cursor.set_range(DELETED)
            found = [self._env.opened(bytes(key), value) for key, value in cursor if key.startswith(DELETED)]
        return [Space(**json.loads(value)) for value in found]

    def forget_deleted(self, space: Space) -> None:
        """Note that a deleted space has no files any more."""
        with self._env.write() as txn:
            txn.delete(_deleted_key(space.number), db=self._env.meta)

    def adopt(self, space: Space, ids: Ids, entries: Entries) -> None:
        """Take over a space whose rows lie in their places, into an index that has none of a higher number.

        Args:
            space: with its number and next row.
            ids: shape (n,), ascending.
            entries: shape (n,), ``ENTRY``, with their rows.
        """
        seal_entries(space.number, ids, entries)
        size, blobs = ENTRY.itemsize, entries.tobytes()
        values = (blobs[i : i + size] for i in range(0, len(blobs), size))
        with self._env.write() as txn:
            self._put_space(txn, space)
            self._count(txn, space.number, len(ids))
            txn.cursor(db=self._env.entries).putmulti(zip(_keys(space.number, ids), values, strict=True), append=True)

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
                blobs, size = entries.tobytes(), ENTRY.itemsize
                for place, key in enumerate(_keys(space.number, ids)):
                    if txn.pop(key, db=self._env.entries) != blobs[place * size : (place + 1) * size]:
                        raise StoreError(
                            f"Image {ids[place]} of {name} changed in {self.folder} while it was to be removed; it and "
                            f"those with it are still there. Start again."
                        )
                self._count(txn, space.number, -len(ids))
                self._changes.add(txn, space.number, ids)

    def drop_damaged(self) -> dict[str, tuple[int, int]]:
        """Take out what is damaged, count what is left, and have all tables read it anew.

        Returns:
            of each space where something was: entries that were taken out, and that were lost before.

        Raises:
            StoreError: what the index says of a space is damaged: its rows mean nothing without.
        """
        taken: dict[str, tuple[int, int]] = {}
        with self._env.write() as txn:
            spaces = {space.number: space for space in self._all_spaces(txn)}
            left = dict.fromkeys(spaces, 0)
            bad: list[bytes] = []
            for keys, records in _blocks(txn.cursor(db=self._env.entries)):
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
                lost = self._number(txn, _count_key(number), left[number]) - left[number]
                damaged = sum(key[:4] == struct.pack(">I", number) for key in bad)
                if lost or damaged:
                    taken[space.name] = damaged, max(0, lost - damaged)
                    self._put_fact(txn, _count_key(number), left[number])
            if taken or bad:
                self._changes.forget(txn)
        return taken

    def _drop_damaged_facts(self, txn: Any, spaces: list[Space]) -> None:
        """What is counted anew, or was a cache, is given up; numbers that only grow become what they were at most."""
        for key, value in list(txn.cursor(db=self._env.meta)):
            if key != b"format" and open_fact(bytes(key), bytes(value)) is None:
                txn.delete(key, db=self._env.meta)
                if key == b"generation":
                    self._put_fact(txn, key, 1 + sum(space.next_row for space in spaces))
                if key == b"last space":
                    self._put_fact(txn, key, MOST_DELETED + max([0, *(space.number for space in spaces)]))

    def snapshot(self, space: Space) -> str:
        """Name of the file with the snapshot of a space's table, see ``snapshots``; empty where there is none."""
        return (self._fact(_snapshot_key(space.number)) or b"").decode()

    def name_snapshot(self, space: Space, file: str) -> None:
        """Take a snapshot into use."""
        with self._env.write() as txn:
            self._put_fact(txn, _snapshot_key(space.number), file)

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
            for image_id, key, source in zip(ids.tolist(), _keys(number, ids), sources, strict=True):
                entry, whole = self._entry(number, image_id, txn.get(key, db=self._env.entries))
                if whole:
                    entry["size"], entry["stamp"] = source["size"], source["stamp"]
                    seal_entries(number, np.array([image_id]), entry[None])
                    txn.put(key, entry.tobytes(), db=self._env.entries)

    def get(self, name: str, ids: Ids) -> tuple[Entries, Mask]:
        """Entries of ``ids``, shape (n,), and which of them exist and are whole, shape (n,).

        The status of one that exists and is damaged is ``DAMAGED``.
        """
        entries, found = np.zeros(len(ids), dtype=ENTRY), np.zeros(len(ids), dtype=np.bool_)
        space = self.space(name)
        if space is None:
            return entries, found
        if len(ids) > SCAN_FROM and SCAN_SHARE * len(ids) > len(self):
            return self._get_by_scan(name, ids)
        with self._env.read(self._env.entries) as txn:
            for i, key in enumerate(_keys(space.number, ids)):
                if (value := txn.get(key)) is not None:
                    found[i] = len(value) == ENTRY.itemsize
                    entries[i] = np.frombuffer(value, ENTRY)[0] if found[i] else _DAMAGED
        self._mark(np.full(len(ids), space.number), ids, entries, found)
        return entries, found

    def _entry(self, number: int, image_id: int, value: bytes | None) -> tuple[Any, bool]:
        """The entry of one image, as LMDB has it, and whether it is there and whole."""
        if value is None or len(value) != ENTRY.itemsize:
            return _DAMAGED.copy(), False
        entries = np.frombuffer(value, ENTRY).copy()
        found = np.ones(1, dtype=np.bool_)
        self._mark(np.array([number]), np.array([image_id]), entries, found)
        return entries[0], bool(found[0])

    def _mark(self, numbers: npt.NDArray[Any], ids: Ids, entries: Entries, found: Mask) -> None:
        """Put ``DAMAGED`` in the place of entries that were found, shape (n,), and are not what was sealed."""
        if len(ids):
            bad = found & ~whole_entries(numbers, ids, entries)
            if bad.any():
                entries[bad], found[bad] = _DAMAGED, False

    def __len__(self) -> int:
        """Entries of all spaces."""
        with self._env.read() as txn:
            return int(txn.stat(self._env.entries)["entries"])

    def _get_by_scan(self, name: str, ids: Ids) -> tuple[Entries, Mask]:
        """``get`` for a large part of the space: one walk over it costs less than a search for each id."""
        stored, values, _, _ = self.survey(name)
        place, found = places_in(stored, ids)
        entries = np.zeros(len(ids), dtype=ENTRY)
        entries[found] = values[place[found]]
        found &= entries["status"] != DAMAGED
        return entries, found

    def load(self, name: str) -> tuple[Ids, Entries, int]:
        """All ids and entries of a space, ascending, and the sequence number of the last change in them.

        Raises:
            StoreError: an entry is damaged, or lost.
        """
        found = self.survey(name)
        if found.damaged or found.lost:
            raise self._env.damaged(
                f"{found.damaged:,} entries of {name} are not what was written, {found.lost:,} are lost"
            )
        return found.ids, found.entries, found.sequence

    def survey(self, name: str) -> Survey:
        """As ``load``, for who goes on with what is whole."""
        space = self.space(name)
        if space is None:
            with self._env.read() as txn:
                return Survey(np.zeros(0, np.int64), np.zeros(0, ENTRY), self._changes.newest(txn), 0)
        with self._env.read() as txn:
            sequence = self._changes.newest(txn)
            expected = self._number(txn, _count_key(space.number), 0)
            blocks = [np.zeros(0, RECORD), *self._records(txn, space.number)]
        records = np.concatenate(blocks)
        ids, entries = records["key"]["id"].astype(np.int64), np.ascontiguousarray(records["entry"])
        whole = np.ones(len(ids), dtype=np.bool_)
        self._mark(records["key"]["space"], ids, entries, whole)
        if not whole.all():  # a damaged key may be any number
            order = np.lexsort((~whole, ids))
            order = order[ids[order] >= 0]
            order = order[np.append(True, ids[order][1:] != ids[order][:-1])[: len(order)]]
            ids, entries = ids[order], entries[order]
        return Survey(ids, entries, sequence, max(0, expected - len(ids)))

    def _records(self, txn: Any, number: int) -> Iterator[npt.NDArray[Any]]:
        """All records of a space, a block at a time."""
        cursor = txn.cursor(db=self._env.entries)
        if not cursor.set_range(struct.pack(">I", number)):
            return
        for _, records in _blocks(cursor):
            here = records["key"]["space"] == number
            yield records[here]
            if not here.all():
                break

    def changes_since(self, sequence: int, name: str) -> tuple[Ids, int] | None:
        """Ids of a space that changed after ``sequence``, and the newest sequence; None when the log no longer says."""
        space = self.space(name)
        with self._env.read() as txn:
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


def _count_key(number: int) -> bytes:
    return f"entries:{number}".encode()


def _blocks(cursor: Any) -> Iterator[tuple[list[bytes], npt.NDArray[Any]]]:
    """Keys and records from where a cursor stands; a record of a wrong length is one that no seal fits."""
    pieces = chain.from_iterable(cursor.iternext())
    while parts := list(islice(pieces, 2 * WALK_BLOCK)):
        block = b"".join(parts)
        if len(block) != len(parts) // 2 * RECORD.itemsize:
            block = b"".join(map(_fitted, parts[::2], parts[1::2]))
        yield parts[::2], np.frombuffer(block, RECORD)


def _fitted(key: bytes, value: bytes) -> bytes:
    """A record as long as one is; what was of another length is sealed by nothing."""
    fits = len(key) == KEY.itemsize and len(value) == ENTRY.itemsize
    return bytes(key) + bytes(value) if fits else bytes(key[:12]).ljust(12, b"\0") + bytes(ENTRY.itemsize)


_DAMAGED = np.zeros(1, ENTRY)[0]
_DAMAGED["row"], _DAMAGED["status"] = NO_ROW, DAMAGED
