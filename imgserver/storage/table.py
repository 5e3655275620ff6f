"""The table: image id -> row of the served version, in memory, following what other processes add to the store."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from imgserver.storage.hashtable import ABSENT, IdTable
from imgserver.storage.index import NO_ROW, Entries, Ids, Space
from imgserver.storage.store import Store


class Table:
    """Vectors of one version: a lookup in memory over rows that stay in the mapped files.

    The hash holds ``row`` where there is a vector and ``-status`` where the image failed for good.

    Args:
        store: what is served.
        space: the version's vectors.
    """

    def __init__(self, store: Store, space: Space):
        self.space, self._store = space, store
        self._rows = store.rows(space)
        self._lock = threading.Lock()  # one writer at a time; readers take no lock
        self._load()

    def _load(self) -> None:
        ids, entries, self._sequence = self._store.index.load(self.space.name)
        table = IdTable(2 * len(ids) + 1024)
        table.put(ids, _hash_values(entries))
        self._ids = table
        self._with_row = int((entries["row"] != NO_ROW).sum())

    def __len__(self) -> int:
        return self._with_row

    def refresh(self) -> int:
        """Take over what was committed since the last time, by whomever; return how many ids that were."""
        with self._lock:
            found = self._store.index.changes_since(self._sequence, self.space.name)
            if found is None:
                self._load()
                return len(self._ids)
            ids, self._sequence = found
            if len(ids):
                entries, there = self._store.index.get(self.space.name, ids)
                before = self._ids.get(ids[there])
                values = _hash_values(entries[there])
                self._ids.put(ids[there], values)
                self._with_row += int((values >= 0).sum()) - int((before >= 0).sum())
            return len(ids)

    def get(self, ids: Ids, ok: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Vectors of ``ids`` as stored.

        Returns:
            values, shape (n, dim), zeros where there is none; status, shape (n,), ``ok`` or the permanent failure;
            known, shape (n,): False where the table has never heard of the id.
        """
        found = self._ids.get(ids)
        known = found != ABSENT
        has_row = found >= 0
        if has_row.all():
            return self._rows.gather(found), np.full(len(ids), ok, dtype=np.uint8), known
        values = np.zeros((len(ids), self.space.dim), dtype=self.space.dtype)
        values[has_row] = self._rows.gather(found[has_row])
        status = np.where(has_row, ok, np.where(known, -found, 0)).astype(np.uint8)
        return values, status, known


def _hash_values(entries: Entries) -> npt.NDArray[np.int64]:
    rows = entries["row"].astype(np.int64)
    return np.where(rows != NO_ROW, rows, -entries["status"].astype(np.int64))
