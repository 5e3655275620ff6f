"""Is what a store holds what was written?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crossmedia.imgserver.storage.checksums import name_rows
from crossmedia.imgserver.storage.records import NO_ROW, Entries, Ids, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.status import DAMAGED

BLOCK_BYTES = 16 << 20  # of rows, read at once


@dataclass(frozen=True)
class Damage:
    """What is wrong with a space.

    Attributes:
        compared: rows that were compared with their checksum.
        ids: of images whose row is damaged, ascending, shape (n,).
        entries: of them, as the index has them, shape (n,).
        sealed: entries of the index that are damaged themselves.
        lost: entries that are gone.
    """

    compared: int
    ids: Ids
    entries: Entries
    sealed: int
    lost: int

    def __bool__(self) -> bool:
        return bool(len(self.ids) or self.sealed or self.lost)


def find_damage(
    store: Store, space: Space, sample: int | None = None, on_progress: Callable[[int], None] = lambda rows: None
) -> Damage:
    """Look at all entries of a space, and at its rows.

    Args:
        store: whose.
        space: what is looked at.
        sample: compare the bytes of at most so many rows, chosen at random; None: of all.
        on_progress: called with how many rows more were compared.
    """
    found = store.index.survey(space.name)
    there = np.flatnonzero((found.entries["row"] != NO_ROW) & (found.entries["status"] != DAMAGED))
    rows = store.rows(space)
    bad = np.zeros(len(found.ids), dtype=np.bool_)
    bad[there] = rows.missing(found.entries["row"][there].astype(np.int64))
    if sample is not None and len(there) > sample:
        there = np.random.default_rng().choice(there, sample, replace=False)
    there = there[np.argsort(found.entries["row"][there])]  # in the order of the disk
    block = max(1, BLOCK_BYTES // space.row_bytes)
    for start in range(0, len(there), block):
        part = there[start : start + block]
        wrong = rows.gather(name_rows(found.entries["row"][part], found.entries["checksum"][part]))[1]
        if wrong is not None:
            bad[part[wrong]] = True
        on_progress(len(part))
    return Damage(len(there), found.ids[bad], found.entries[bad], found.damaged, found.lost)
