"""A store that was copied as files, by cp or rsync: its index is right as of some moment, or it is refused.

LMDB writes its pages where they lie, so a copy that was made meanwhile may be torn: its pages are of several commits,
and following them may even end a process. The index notes which file it is, so a copy is known by its note; before it
is opened for the first time a process of its own walks over all of the index:

    python -P -m crossmedia.imgserver.storage.copied INDEX     0: it is whole, and was written anew with its own note

A later commit gives an image that changed a row behind all that the copied commit knows. So entries that are in order,
as many as were counted, with rows that were given out, are those of that commit. Written anew the index has no list of
free pages, which may be torn as well. A row that the copy lacks does not match its checksum, and is noticed like any
other that is damaged.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossmedia.disk import sync_names
from crossmedia.errors import BadInput, StoreError

if TYPE_CHECKING:
    from crossmedia.imgserver.storage.index import Index

NOTE = "data.file"  # which file data.mdb is: of which file system, and which one there
COPY = "copied"


def note_file(index: Path) -> None:
    """Note which file the index is, unless that is noted, or the folder cannot be written."""
    if not (index / NOTE).exists():
        with suppress(OSError):
            (index / NOTE).write_text(_identity(index))


def examine_copy(index: Path) -> None:
    """Examine an index that is a copy, and was not opened yet; nothing for any other.

    Raises:
        StoreError: it was copied while it was written, or cannot be written anew.
    """
    if not _is_copy(index):
        return
    done = subprocess.run(
        [sys.executable, "-P", "-m", "crossmedia.imgserver.storage.copied", index],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2].rstrip(".") or f"its examination ended with {done.returncode}"
        raise StoreError(
            f"The store {index.parent} is a copy of files, and not whole ({reason}). Was the store that it was copied "
            f"from written meanwhile? Copy it by 'imgserver backup' and 'imgserver restore', at any time, or while no "
            f"process has it open."
        )


def _identity(index: Path) -> str:
    return f"{os.statvfs(index).f_fsid:x} {os.stat(index / 'data.mdb').st_ino}"


def _is_copy(index: Path) -> bool:
    try:
        return (index / NOTE).read_text() != _identity(index)
    except OSError:
        return False


def _settle(index: Path) -> None:
    from crossmedia.imgserver.storage.exclusive import alone
    from crossmedia.imgserver.storage.index import Index

    store = index.parent
    with suppress(BadInput), alone(store):  # who has it open has examined it
        if not _is_copy(index):
            return
        found = Index(index, unlocked=True)
        _check(found)
        new = index / COPY
        new.mkdir(exist_ok=True)
        (new / "data.mdb").unlink(missing_ok=True)
        found.copy(new)  # LMDB itself compares the pages in use and the free ones with all that there are
        found.close()
        (index / NOTE).unlink()
        os.replace(new / "data.mdb", index / "data.mdb")
        note_file(index)
        sync_names(index)
        new.rmdir()


def _check(index: Index) -> None:
    from crossmedia.imgserver.storage.records import NO_ROW

    entries_of_all = 0
    for space in index.spaces():
        ids, entries, _ = index.load(space.name)
        entries_of_all += len(ids)
        rows = entries["row"][entries["row"] != NO_ROW]
        if (np.diff(ids) <= 0).any() or (len(rows) and rows.max() >= space.next_row):
            raise StoreError(f"the index of {space.name} is of several moments")
    if entries_of_all != len(index):
        raise StoreError(f"the index has {entries_of_all} entries and counts {len(index)}")


if __name__ == "__main__":
    try:
        _settle(Path(sys.argv[1]))
    except Exception as error:  # a torn index may fail in any way
        sys.exit(f"{error}")
