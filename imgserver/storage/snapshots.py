"""What a table held, id -> row, in a file beside the index, so that the next start need not walk over the entries.

    index/table-<space>-<sequence>-<hash>   ids and values, int64, shape (2, n), as of the change of that number

The index names the file that counts, and the name has the hash of its content: a damaged one, or one of another
history, is never taken for it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.index import Index
from crossmedia.imgserver.storage.records import Ids

log = logging.getLogger(__name__)

SNAPSHOT_FROM = 100_000  # ids; fewer are read from the index in no time

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
    block = np.stack([ids, values])
    file = index.folder / f"table-{space.number}-{sequence}-{_hash(block)}"
    try:
        with open(file, "wb") as out:
            block.tofile(out)
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
    _, _, sequence, expected = file.split("-")
    try:
        block: Values = np.memmap(index.folder / file, dtype=np.int64, mode="r")
    except FileNotFoundError:  # a store that was copied without it
        return None
    except (OSError, ValueError):  # cut, or empty
        block = np.zeros(0, dtype=np.int64)
    if len(block) % 2 or _hash(block) != expected:
        log.warning(
            "The snapshot %s is damaged; the table is read from the index, which takes longer", index.folder / file
        )
        return None
    ids, values = block.reshape(2, -1)
    return ids, values, int(sequence)


def _hash(block: Values) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(block).data)


def remove_snapshots(folder: Path, number: int | None = None, keep: Path | None = None) -> None:
    """Remove the files of the space ``number``, or of all spaces, below the index ``folder``, but for ``keep``."""
    for file in folder.glob(f"table-{'*' if number is None else number}-*"):
        if file != keep:
            file.unlink(missing_ok=True)
