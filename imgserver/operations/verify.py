"""Do the rows on disk match what the index says of them?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgserver.storage.records import NO_ROW, Ids, Space, row_checksums
from imgserver.storage.rows import rows_in_segment
from imgserver.storage.store import Store, row_folder

BLOCK = 8192  # rows read at once


def missing_files(store: Store, space: Space) -> list[str]:
    """Row files of a space that are not there or too short for the rows that the index names."""
    per_file, width = rows_in_segment(space.row_bytes), space.row_bytes
    missing = []
    for number in range(-(-space.next_row // per_file)):
        path = row_folder(store.folder, space) / f"{number:05d}.rows"
        if not path.exists() or path.stat().st_size < min(per_file, space.next_row - number * per_file) * width:
            missing.append(str(path))
    return missing


def damaged_rows(
    store: Store, space: Space, sample: int | None = None, on_progress: Callable[[int], None] = lambda rows: None
) -> tuple[int, Ids]:
    """How many rows were compared with their checksum, and the images, shape (n,), whose row does not match.

    Args:
        store: whose.
        space: its rows.
        sample: compare at most so many, chosen at random; None: all.
        on_progress: called with how many rows more were compared.
    """
    ids, entries, _ = store.index.load(space.name)
    there = np.flatnonzero(entries["row"] != NO_ROW)
    if sample is not None and len(there) > sample:
        there = np.random.default_rng().choice(there, sample, replace=False)
    there = there[np.argsort(entries["row"][there])]  # in the order of the disk
    bad: list[Ids] = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(there), BLOCK):
        part = there[start : start + BLOCK]
        found = row_checksums(store.rows(space).gather(entries["row"][part].astype(np.int64)))
        bad.append(ids[part[found != entries["checksum"][part]]])
        on_progress(len(part))
    return len(there), np.concatenate(bad)
