"""A store written anew beside itself: without the rows that no entry names.

    rows/<new numbers>/   the rows that entries name, in their order; nothing points at them yet
    index/anew/data.mdb   an index that does
    index/data.mdb        replaced by it in one rename: before it the old store counts, after it the new one
    rows/<old numbers>/   removed

A kill at any moment leaves one whole store, and what it leaves beside is removed by the next run. The rename needs the
store alone, so that no process goes on with the index that was there before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crossmedia.disk import sync, sync_names, used_bytes
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.storage.checksums import name_rows
from crossmedia.imgserver.storage.copied import NOTE
from crossmedia.imgserver.storage.exclusive import alone
from crossmedia.imgserver.storage.index import Index
from crossmedia.imgserver.storage.records import NO_ROW, Entries, Space
from crossmedia.imgserver.storage.snapshots import remove_snapshots
from crossmedia.imgserver.storage.store import CODEBOOKS, open_rows, row_folder

ANEW = "anew"
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class CompactReport:
    """What was done.

    Attributes:
        rows: that are kept.
        rows_dropped: that no entry named.
        bytes_before: of index and rows on disk.
        bytes_after: the same, afterwards.
    """

    rows: int
    rows_dropped: int
    bytes_before: int
    bytes_after: int


def compact(store: Path, on_progress: Callable[[int, int], None] = lambda done, of: None) -> CompactReport:
    """Give back the space of rows that were replaced or deleted, and of the index.

    Args:
        store: its folder; no process may have it open.
        on_progress: called with bytes of rows written, and to be written.

    Raises:
        BadInput: another process has the store open, or the disk has no room for what is written beside.
        StoreError: it cannot be read, or a row is damaged; the store is as it was.
    """
    with alone(store):
        old = Index(store / "index", create=False, unlocked=True)
        try:
            spaces = old.spaces()
            _clean(store, spaces)
            before = _used_bytes(store)
            kept, dropped = _fill(store, old, spaces, on_progress)
        finally:
            old.close()
        fresh = take_into_use(store)
        _clean(store, fresh.spaces())
        fresh.close()
        return CompactReport(kept, dropped, before, _used_bytes(store))


def take_into_use(store: Path) -> Index:
    """The index that was made in ``index/anew`` in the place of the store's; who calls has the store alone."""
    (store / "index" / NOTE).unlink(missing_ok=True)  # of the former file
    os.replace(store / "index" / ANEW / "data.mdb", store / "index" / "data.mdb")
    sync(store / "index")
    # Opened once by LMDB's own rules, so that its lock file knows the new history before anybody else comes.
    return Index(store / "index", create=False)


def _fill(store: Path, old: Index, spaces: list[Space], on_progress: Callable[[int, int], None]) -> tuple[int, int]:
    """Write the new rows and the new index; return how many rows it has, and how many fewer than before."""
    free_number = 1 + max((space.number for space in spaces), default=0)
    live = {space.name: int((old.load(space.name)[1]["row"] != NO_ROW).sum()) for space in spaces}
    rewritten = [space for space in spaces if live[space.name] < space.next_row]
    to_write = sum(live[space.name] * space.row_bytes for space in rewritten)
    index_bytes = (store / "index" / "data.mdb").stat().st_size
    if (free := shutil.disk_usage(store).free) < to_write + index_bytes:
        raise BadInput(
            f"The rows that are kept are written anew beside the old ones, {(to_write + index_bytes) / 1e9:.2f} GB, "
            f"and the disk of {store} has {free / 1e9:.2f} GB free. Make room, or move the store by 'imgserver backup'."
        )
    new, done, rows = Index(store / "index" / ANEW), 0, sum(live.values())
    try:
        kept = sorted((space for space in spaces if space not in rewritten), key=lambda space: space.number)
        for space in kept + rewritten:
            target = space
            ids, entries, _ = old.load(space.name)
            if space in rewritten:
                target = replace(space, number=free_number, next_row=live[space.name])
                free_number += 1
                for written in _copy_rows(store, space, target, entries):
                    done += written
                    on_progress(done, to_write)
            new.adopt(target, ids, entries)
        new.adopt_facts(old.active, old.generation)
    finally:
        new.close()
    if rewritten:
        sync_names(store / "rows")
    return rows, sum(space.next_row for space in spaces) - rows


def _copy_rows(store: Path, space: Space, target: Space, entries: Entries) -> Iterator[int]:
    """Write the rows that ``entries`` name one behind the other, and their new numbers into ``entries``."""
    source, written_to = open_rows(store, space), open_rows(store, target)
    there = np.flatnonzero(entries["row"] != NO_ROW)
    there = there[np.argsort(entries["row"][there], kind="stable")]
    block = max(1, BLOCK_BYTES // space.row_bytes)
    for start in range(0, len(there), block):
        part = there[start : start + block]
        values, bad = source.gather(name_rows(entries["row"][part], entries["checksum"][part]))
        if bad is not None:
            raise StoreError(
                f"{int(bad.sum())} rows of {space.name} in {store} do not match their checksum; nothing was changed. "
                f"'imgserver doctor --full --store {store}' names the images."
            )
        written_to.write(start, values)
        entries["row"][part] = start + np.arange(len(part))
        yield values.nbytes
    sync_names(row_folder(store, target))


def _clean(store: Path, spaces: list[Space]) -> None:
    """Remove rows and codebooks of no space, the index that was being made, and table snapshots of former rows."""
    named = {row_folder(store, space) for space in spaces}
    for folder in (store / "rows").glob("*"):
        if folder not in named:
            shutil.rmtree(folder)
    codebooks = {space.codebook for space in spaces}
    for file in (store / CODEBOOKS).glob("*.safetensors"):  # of a compression that was killed before it made a version
        if file.stem not in codebooks:
            file.unlink()
    shutil.rmtree(store / "index" / ANEW, ignore_errors=True)
    remove_snapshots(store / "index")


def _used_bytes(store: Path) -> int:
    return sum(used_bytes(store / part) for part in ("index", "rows"))
