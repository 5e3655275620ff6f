"""The log of changes in the index: what each commit added or took away, so that tables can follow.

    sequence number -> space number, image ids, behind a checksum

All methods run in a transaction of the caller. The latest ten thousand commits are kept; a table that fell
behind, or meets a damaged piece of the log, reads all entries anew.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from crossmedia.imgserver.storage.checksums import open_fact, seal_fact
from crossmedia.imgserver.storage.records import Ids

KEEP_CHANGES = 10_000


class Changes:
    """The log.

    Args:
        db: LMDB's handle of it.
    """

    def __init__(self, db: Any):
        self._db = db

    def newest(self, txn: Any) -> int:
        """Sequence number of the last change; 0 before the first."""
        cursor = txn.cursor(db=self._db)
        return _sequence(cursor) if cursor.last() else 0

    def add(self, txn: Any, number: int, ids: Ids) -> None:
        """Log that entries of a space were written or removed.

        Args:
            txn: for writing.
            number: of the space.
            ids: shape (n,).
        """
        sequence = self.newest(txn) + 1
        key = struct.pack(">Q", sequence)
        txn.put(key, seal_fact(key, struct.pack("<I", number) + ids.astype("<i8").tobytes()), db=self._db)
        cursor = txn.cursor(db=self._db)
        while cursor.first() and _sequence(cursor) <= sequence - KEEP_CHANGES:
            cursor.delete()

    def since(self, txn: Any, sequence: int, number: int) -> Ids | None:
        """Ids of a space that changed after ``sequence``, ascending, each once; None when the log no longer says."""
        newest = self.newest(txn)
        if newest == sequence:
            return np.zeros(0, dtype=np.int64)
        cursor = txn.cursor(db=self._db)
        if newest < sequence or not cursor.set_key(struct.pack(">Q", sequence + 1)):
            return None
        found = [open_fact(bytes(key), bytes(value)) for key, value in cursor.iternext()]
        if len(found) != newest - sequence:
            return None
        parts = [np.zeros(0, dtype=np.int64)]
        for change in found:
            if change is None:
                return None
            if struct.unpack("<I", change[:4])[0] == number:
                parts.append(np.frombuffer(change[4:], dtype="<i8"))
        return np.unique(np.concatenate(parts))

    def forget(self, txn: Any) -> None:
        """Have all tables read all entries anew."""
        sequence = self.newest(txn) + 2  # a gap, over which nobody follows
        txn.drop(self._db, delete=False)
        key = struct.pack(">Q", sequence)
        txn.put(key, seal_fact(key, struct.pack("<I", 0)), db=self._db)


def _sequence(cursor: Any) -> int:
    number: int = struct.unpack(">Q", cursor.key()[:8].ljust(8, b"\0"))[0]
    return number
