"""A store that was copied as files, by cp or rsync: its index is right as of some moment, or it is refused.

LMDB writes its pages where they lie, so a copy that was made meanwhile may be torn: its pages are of several commits,
and following them may even end a process. The index notes which file it is, so a copy is known by its note; before it
is opened for the first time a process of its own walks over all of the index:

    python -P -m crossmedia.imgserver.storage.settle INDEX     0: it is whole, and was written anew with its own note
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from crossmedia.errors import StoreError

NOTE = "data.file"  # which file data.mdb is: of which file system, and which one there


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
    if not is_copy(index):
        return
    done = subprocess.run(
        [sys.executable, "-P", "-m", "crossmedia.imgserver.storage.settle", index],
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


def is_copy(index: Path) -> bool:
    """Whether the index is another file than the one that its note names."""
    try:
        return (index / NOTE).read_text() != _identity(index)
    except OSError:
        return False
