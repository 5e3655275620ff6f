"""The table: image id -> row of a version, in memory, following what other processes add to the store."""

from __future__ import annotations

import logging
import threading
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.checksums import Mask, name_rows
from crossmedia.imgserver.storage.codebook import Codebook
from crossmedia.imgserver.storage.hashtable import ABSENT, IdTable
from crossmedia.imgserver.storage.index import Index
from crossmedia.imgserver.storage.records import NO_ROW, Entries, Ids, Space
from crossmedia.imgserver.storage.rows import RowFile
from crossmedia.imgserver.storage.snapshots import SNAPSHOT_FROM, load_snapshot, save_snapshot
from crossmedia.status import DAMAGED, Status

log = logging.getLogger(__name__)


class TableStore(Protocol):
    """What a table needs of a store; see ``Store``."""

    index: Index

    def rows(self, space: Space) -> RowFile: ...  # noqa: D102
    def codebook(self, space: Space) -> Codebook | None: ...  # noqa: D102
    def note_damaged(self, space: Space, entries: int) -> None: ...  # noqa: D102


class Table:
    """Vectors of one version: a lookup in memory over rows that stay in the mapped files.

    The hash holds the row and its checksum where there is a vector, and ``-status`` where the image failed for good, or
    its entry is damaged. Before ``load`` has ended it knows nothing, and lookups go to the index, which is slower and
    right.

    Args:
        store: what is served.
        space: the version's vectors.
    """

    def __init__(self, store: TableStore, space: Space):
        self.space, self._store = space, store
        self._rows, self._codebook = store.rows(space), store.codebook(space)
        self._lock = threading.Lock()  # one writer at a time; readers take no lock
        self._ids = IdTable()
        self._sequence = self._with_row = self._unsaved = 0
        # Of an id that is not in the table: nobody knows it; or, where entries are lost, it may be one of them.
        self._unknown = 0
        self._generation = 0
        self.loaded = False

    @property
    def generation(self) -> int:
        """Of the store when the table last followed it: what is looked up from now on is as new, or newer."""
        return self._generation if self.loaded else self._store.index.generation

    def __len__(self) -> int:
        return self._with_row

    @property
    def sequence(self) -> int:
        """The last change of the store that is in it; of another number, it may say something else of an image."""
        return self._sequence

    def known(self) -> tuple[Ids, npt.NDArray[np.uint8]]:
        """All ids that the store has heard of, ascending, shape (n,), and their status as ``get`` tells it, shape (n,).

        What is damaged in rows, which are not looked at, is OK here.
        """
        ids, found = self._ids.items()
        order = np.argsort(ids, kind="stable")
        found = found[order]
        kept = found != ABSENT
        return ids[order][kept], np.where(found >= 0, int(Status.OK), -found).astype(np.uint8)[kept]

    def load(self) -> None:
        """Read what the store holds: from the snapshot of an earlier table and what was added since, else all of it."""
        with self._lock:
            generation = self._store.index.generation  # first: what is read below is of then, or later
            snapshot = load_snapshot(self._store.index, self.space.name)
            if snapshot is None:
                self._load_all()
            else:
                ids, values, self._sequence = snapshot
                self._fill(ids, values)
                self._follow()
            self._generation = generation
            self.loaded = True  # only now: a snapshot alone is of the past

    def _load_all(self) -> None:
        found = self._store.index.survey(self.space.name)
        ids, self._sequence = found.ids, found.sequence
        if found.damaged or found.lost:
            log.error(
                "%s: %d entries are damaged, %d are lost; their images have no vector. Run 'imgserver mend --store %s'",
                *(self.space.name, found.damaged, found.lost, self._store),
            )
        self._unknown = DAMAGED if found.lost else 0
        self._store.note_damaged(self.space, found.damaged + found.lost)
        self._fill(ids, _hash_values(found.entries))
        self._unsaved = len(ids)
        self._save()

    def _fill(self, ids: Ids, values: npt.NDArray[np.int64]) -> None:
        table = IdTable(len(ids) + len(ids) // 8 + 1024)
        table.put(ids, values)
        self._ids = table
        self._with_row = int(np.count_nonzero(values >= 0))

    def _save(self) -> None:
        """Keep a snapshot when a quarter of the table is in none; without room for it, the next start is slow.

        It is tried again when as much was added once more.
        """
        if self._unsaved >= max(SNAPSHOT_FROM, len(self._ids) // 4):
            self._unsaved = 0
            try:
                save_snapshot(self._store.index, self.space.name, *self._ids.items(), self._sequence)
            except StoreError as error:
                log.warning("%s", error)

    def refresh(self) -> int:
        """Take over what any process committed since the last time; return how many ids that were."""
        with self._lock:
            if not self.loaded:
                return 0
            generation = self._store.index.generation
            changed = self._follow()
            self._generation = generation
            return changed

    def _follow(self) -> int:
        found = self._store.index.changes_since(self._sequence, self.space.name)
        if found is None:
            self._load_all()
            return len(self._ids)
        ids, self._sequence = found
        if len(ids):
            before, values = self._ids.get(ids), self._from_index(ids)  # what was removed is ABSENT from here on
            self._ids.put(ids, values)
            self._with_row += int((values >= 0).sum()) - int((before >= 0).sum())
            self._unsaved += len(ids)
            self._save()
        return len(ids)

    def get(self, ids: Ids) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Vectors of ``ids`` as stored; of codes, what they decode to.

        Returns:
            values, shape (n, dim), zeros where there is none; status, shape (n,): ``Status.OK``, the permanent failure,
            ``DAMAGED`` where what was stored is not what was written, TIMED_OUT where a store of many machines cannot
            say now, or 0 where the store has never heard of the id.
        """
        found = self._ids.get(ids) if self.loaded else self._from_index(ids)
        if not len(found) or found.min() >= 0:
            values, bad = self._gather(found)
            status = np.full(len(ids), int(Status.OK), dtype=np.uint8)
            if bad is not None:
                status[bad] = DAMAGED
            return values, status
        has_row = found >= 0
        values = np.zeros((len(ids), self.space.dim), dtype=self.space.value_dtype)
        values[has_row], bad = self._gather(found[has_row])
        status = np.where(has_row, int(Status.OK), np.where(found == ABSENT, self._unknown, -found)).astype(np.uint8)
        if bad is not None:
            status[np.flatnonzero(has_row)[bad]] = DAMAGED
        return values, status

    def _gather(self, found: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], Mask | None]:
        """Vectors, zeros where one is damaged, and which are; None when none is."""
        stored, bad = self._rows.gather(found)
        if self._codebook is None:
            return stored, bad
        values = self._codebook.decode(stored)
        if bad is not None:
            values[bad] = 0
        return values, bad

    def _from_index(self, ids: Ids) -> npt.NDArray[np.int64]:
        entries, there = self._store.index.get(self.space.name, ids)
        return np.where(there | (entries["status"] == DAMAGED), _hash_values(entries), ABSENT)


def _hash_values(entries: Entries) -> npt.NDArray[np.int64]:
    named = name_rows(entries["row"], entries["checksum"])
    return np.where(entries["row"] != NO_ROW, named, -entries["status"].astype(np.int64))


def leave_snapshot(store: TableStore, space: Space) -> None:
    """Write the snapshot that a large table starts from, so that the first server starts fast too."""
    if len(store.index) >= SNAPSHOT_FROM:
        Table(store, space).load()
