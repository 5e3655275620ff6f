"""The log of changes in the index: what each commit added or took away, so that tables can follow.

    sequence number -> space number, image ids

All methods run in a transaction of the caller. The latest ten thousand commits are kept; who fell behind reads all
entries anew.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from imgserver.storage.records import Ids

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
        txn.put(struct.pack(">Q", sequence), struct.pack("<I", number) + ids.astype("<i8").tobytes(), db=self._db)
        cursor = txn.cursor(db=self._db)
        while cursor.first() and _sequence(cursor) <= sequence - KEEP_CHANGES:
            cursor.delete()

    def since(self, txn: Any, sequence: int, number: int) -> Ids | None:
        """Ids of a space that changed after ``sequence``, ascending, each once; None when the log no longer says."""
        newest = self.newest(txn)
        if newest == sequence:
            return np.zeros(0, dtype=np.int64)
        cursor = txn.cursor(db=self._db)
        if newest < sequence or not cursor.first() or _sequence(cursor) > sequence + 1:
            return None
        cursor.set_range(struct.pack(">Q", sequence + 1))
        parts = [
            np.frombuffer(value[4:], dtype="<i8") for _, value in cursor if struct.unpack("<I", value[:4])[0] == number
        ]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


def _sequence(cursor: Any) -> int:
    number: int = struct.unpack(">Q", cursor.key())[0]
    return number
