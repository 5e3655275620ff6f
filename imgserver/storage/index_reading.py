"""What the index in LMDB says: its facts, its spaces, and the entries of images; see ``storage.index``."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.changes import Changes
from crossmedia.imgserver.storage.checksums import Mask
from crossmedia.imgserver.storage.environment import Environment
from crossmedia.imgserver.storage.points import Points
from crossmedia.imgserver.storage.records import (
    ENTRY,
    KEY,
    NO_ROW,
    RECORD,
    Entries,
    Ids,
    Space,
    places_in,
    whole_entries,
)
from crossmedia.status import DAMAGED

WALK_BLOCK = 50_000  # entries read from LMDB in one go
DELETED = b"deleted:"
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


class IndexReader:
    """The index in ``folder``, as it can be read.

    Args:
        folder: holds ``data.mdb``.
        create: make it if it is not there.
        unlocked: read only, without LMDB's lock; for callers who know that nobody writes (see ``storage.exclusive``).

    Raises:
        StoreError: the folder holds no store, or a damaged one, or one of another format, or cannot be opened.
    """

    def __init__(self, folder: Path, *, create: bool = True, unlocked: bool = False):
        self.folder = folder
        self._env = Environment(folder, create=create, unlocked=unlocked)
        self._changes, self._points = Changes(self._env.changes), Points(self._env)
        self.close, self.copy, self.map_use = self._env.close, self._env.copy, self._env.map_use

    def _fact(self, key: bytes) -> bytes | None:
        with self._env.read() as txn:
            return self._env.fact(txn, self._env.meta, key)

    def _number(self, txn: Any, key: bytes, default: int) -> int:
        found = self._env.fact(txn, self._env.meta, key)
        return default if found is None else int(found)

    def _space(self, txn: Any, name: str) -> Space | None:
        found = self._env.fact(txn, self._env.spaces, name.encode())
        return Space(**json.loads(found)) if found else None

    @property
    def active(self) -> str:
        """The version that is served; empty before the first precompute."""
        return (self._fact(b"active") or b"").decode()

    @property
    def generation(self) -> int:
        """Grows when the content of an image that had been stored changes, or is taken out."""
        return int(self._fact(b"generation") or b"1")

    def spaces(self, kind: str = "") -> list[Space]:
        """All spaces of a kind, in the order in which they were made; without a kind, first those of features."""
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

    def deleted(self) -> list[Space]:
        """Spaces that were deleted, and may have files still."""
        with self._env.read(self._env.meta) as txn, txn.cursor() as cursor:
            cursor.set_range(DELETED)
            found = [self._env.opened(bytes(key), value) for key, value in cursor if key.startswith(DELETED)]
        return [Space(**json.loads(value)) for value in found]

    def snapshot(self, space: Space) -> str:
        """Name of the file with the snapshot of a space's table, see ``snapshots``; empty where there is none."""
        return (self._fact(snapshot_key(space.number)) or b"").decode()

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
            for i, key in enumerate(entry_keys(space.number, ids)):
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
        """As ``load``, but damage is counted, so that the caller can go on with what is whole."""
        space = self.space(name)
        if space is None:
            with self._env.read() as txn:
                return Survey(np.zeros(0, np.int64), np.zeros(0, ENTRY), self._changes.newest(txn), 0)
        with self._env.read() as txn:
            sequence = self._changes.newest(txn)
            expected = self._number(txn, count_key(space.number), 0)
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
        for _, records in record_blocks(cursor):
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

    def point_sequence(self, space: Space, point: str) -> int | None:
        """The change that a point of a space comes after, see ``storage.points``; None where it is not known here."""
        with self._env.read() as txn:
            return self._points.sequence(txn, space.number, point)


def entry_keys(number: int, ids: Ids) -> list[bytes]:
    """LMDB keys, big-endian, so that a space's entries lie together in the order of the ids."""
    keys = np.empty(len(ids), dtype=KEY)
    keys["space"], keys["id"] = number, ids
    block = keys.tobytes()
    return [block[i : i + 12] for i in range(0, len(block), 12)]


def deleted_key(number: int) -> bytes:
    """The key of the fact that a space is deleted."""
    return DELETED + str(number).encode()


def snapshot_key(number: int) -> bytes:
    """The key of the fact that says which snapshot counts for a space."""
    return f"table:{number}".encode()


def count_key(number: int) -> bytes:
    """The key of the fact that says how many entries a space has."""
    return f"entries:{number}".encode()


def record_blocks(cursor: Any) -> Iterator[tuple[list[bytes], npt.NDArray[Any]]]:
    """Keys and records from where a cursor stands; a record of a wrong length is one that no seal fits."""
    pieces = chain.from_iterable(cursor.iternext())
    while parts := list(islice(pieces, 2 * WALK_BLOCK)):
        block = b"".join(parts)
        if len(block) != len(parts) // 2 * RECORD.itemsize:
            block = b"".join(map(_fitted, parts[::2], parts[1::2]))
        yield parts[::2], np.frombuffer(block, RECORD)


def _fitted(key: bytes, value: bytes) -> bytes:
    """A record of the right length; one that had another length becomes a record that no seal fits."""
    fits = len(key) == KEY.itemsize and len(value) == ENTRY.itemsize
    return bytes(key) + bytes(value) if fits else bytes(key[:12]).ljust(12, b"\0") + bytes(ENTRY.itemsize)


_DAMAGED = np.zeros(1, ENTRY)[0]
_DAMAGED["row"], _DAMAGED["status"] = NO_ROW, DAMAGED
