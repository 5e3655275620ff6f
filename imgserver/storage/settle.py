"""The walk over an index that was copied as files, in a process of its own; see ``storage.copied``.

A later commit gives an image that changed a row behind all that the copied commit knows. So entries that are in order,
as many as were counted, with rows that were given out, are those of that commit. Written anew the index has no list of
free pages, which may be torn as well. A row that the copy lacks does not match its checksum, and is noticed like any
other that is damaged.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from crossmedia.disk import sync_names
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.storage.copied import NOTE, is_copy, note_file
from crossmedia.imgserver.storage.exclusive import alone
from crossmedia.imgserver.storage.index import Index
from crossmedia.imgserver.storage.records import NO_ROW

COPY = "copied"


def _settle(index: Path) -> None:
    store = index.parent
    with suppress(BadInput), alone(store):  # who has it open has examined it
        if not is_copy(index):
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
