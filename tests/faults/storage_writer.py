"""A process that writes stored features into another store, batch after batch, until it is killed.

    python storage_writer.py SOURCE TARGET FIRST_BATCH

It says ``begin N`` before it hands batch N to the store, ``transaction N`` once LMDB's transaction is open, and
``ack N`` when the store has returned. What is in a batch follows from its number alone, so whoever killed the process
knows what must be there. Ids repeat from batch to batch.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.records import SOURCE, Ids, Rows, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.status import Status

IDS, BATCH, DIM = 4000, 96, 16


def features_in(store: Store) -> npt.NDArray[Any]:
    """All features of a prepared store, shape (n, F)."""
    (space,) = store.index.spaces("feature")
    _, entries, _ = store.index.load(space.name)
    return store.read(space, entries)


def ids_of(batch: int) -> Ids:
    """Image ids of a batch, each once."""
    return np.unique(np.random.default_rng(batch).integers(0, IDS, BATCH))


def rows_of(known: npt.NDArray[Any], ids: Ids, batch: int) -> npt.NDArray[Any]:
    """Features that a batch writes for ``ids``, shape (n, F): those of a photo, shifted by the number of the batch."""
    width = known.shape[1]
    places = (np.arange(width)[None, :] + batch) % width
    rows: npt.NDArray[Any] = known[(ids % len(known))[:, None], places]
    return rows


def spaces(store: Store, width: int) -> tuple[Space, Space]:
    """Where features and vectors go."""
    return (
        store.index.ensure_space("net@0", "feature", width, "float16"),
        store.index.ensure_space(f"net@0+cut@0/{DIM}", "vector", DIM, "float16"),
    )


def parts_of(store: Store, known: npt.NDArray[Any], batch: int) -> list[Rows]:
    """One batch as the daemon stores it: features and vectors, for one commit."""
    ids = ids_of(batch)
    rows = rows_of(known, ids, batch)
    ok = np.full(len(ids), Status.OK, dtype=np.uint8)
    sources = np.array([(1, 1, batch)] * len(ids), dtype=SOURCE)
    features, vectors = spaces(store, known.shape[1])
    return [Rows(features, ids, ok, sources, rows), Rows(vectors, ids, ok, sources, rows[:, :DIM])]


class Announced:
    """LMDB's environment, saying when a transaction that writes is open."""

    def __init__(self, environment: Any):
        self._environment = environment
        self.batch = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def begin(self, *args: Any, write: bool = False, **kwargs: Any) -> Any:
        """As LMDB's."""
        transaction = self._environment.begin(*args, write=write, **kwargs)
        if write and self.batch:
            os.write(1, b"transaction %d\n" % self.batch)
        return transaction


def main() -> None:
    """Write until killed."""
    source, target, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
    prepared = Store(source, create=False)
    known = features_in(prepared)
    prepared.close()
    store = Store(target)
    environment = Announced(store.index._env._lmdb)
    store.index._env._lmdb = environment  # type: ignore[assignment]  # it has what the index calls
    batch = first
    while True:
        parts = parts_of(store, known, batch)
        environment.batch = batch
        os.write(1, b"begin %d\n" % batch)
        store.put_all(parts)
        os.write(1, b"ack %d\n" % batch)
        environment.batch = 0
        batch += 1


if __name__ == "__main__":
    main()
