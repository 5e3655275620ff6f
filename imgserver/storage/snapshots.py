"""What a table held, id -> row, in a file beside the index, so that the next start need not walk over the entries.

    index/table-<space>-<sequence>-<random>.npy   ids and values, shape (2, n), as of the change of that sequence number

The index names the file that counts, and no name comes twice: a snapshot of another history is never taken for it.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imgserver.errors import StoreError
from imgserver.storage.index import Index
from imgserver.storage.records import Ids

Values = npt.NDArray[np.int64]


def save_snapshot(index: Index, name: str, ids: Ids, values: Values, sequence: int) -> None:
    """Keep what a table holds, and drop the former snapshot; nothing is done for a space that was deleted meanwhile.

    Args:
        index: of the store.
        name: the space.
        ids: shape (n,).
        values: shape (n,).
        sequence: of the last change that is in them.

    Raises:
        StoreError: it cannot be written; the former one stands.
    """
    space = index.space(name)
    if space is None:
        return
    file = index.folder / f"table-{space.number}-{sequence}-{uuid.uuid4().hex[:12]}.npy"
    try:
        with open(file, "wb") as out:
            np.save(out, np.stack([ids, values]))
            out.flush()
            os.fsync(out.fileno())
        index.name_snapshot(space, file.name)
    except (OSError, StoreError) as error:
        file.unlink(missing_ok=True)
        raise StoreError(f"The snapshot {file} cannot be written: {error}. Is the disk full?") from error
    remove_snapshots(index.folder, space.number, keep=file)


def load_snapshot(index: Index, name: str) -> tuple[Ids, Values, int] | None:
    """Ids and values, shape (n,), that ``save_snapshot`` kept, mapped from the file, and their sequence; or None."""
    space = index.space(name)
    file = index.snapshot(space) if space else ""
    if not file:
        return None
    try:
        ids, values = np.load(index.folder / file, mmap_mode="r")
    except (OSError, ValueError):  # a store that was copied without it
        return None
    return ids, values, int(file.split("-")[2])


def remove_snapshots(folder: Path, number: int | None = None, keep: Path | None = None) -> None:
    """Remove the files of the space ``number``, or of all spaces, below the index ``folder``, but for ``keep``."""
    for file in folder.glob(f"table-{'*' if number is None else number}-*.npy"):
        if file != keep:
            file.unlink(missing_ok=True)
