"""Points in the log of changes, by names that no other store and no other history has.

    meta   "point:<space>-<sequence>-<random>" -> nothing: how a space was after the change of that sequence number

A number alone would not do: a store that was compacted, restored or made anew counts from the beginning again, and what
it says has changed "since 40" would be wrong without a word. A point is known only where it was named, and in
copies of that which were made later. All methods run in a transaction of the caller.
"""

from __future__ import annotations

import secrets
from typing import Any

from crossmedia.imgserver.storage.changes import KEEP_CHANGES
from crossmedia.imgserver.storage.environment import Environment

POINT = b"point:"
RANDOM_BYTES = 6


class Points:
    """The points of a store.

    Args:
        env: its index.
    """

    def __init__(self, env: Environment):
        self._env = env

    def name(self, txn: Any, number: int, sequence: int) -> str:
        """The name of a point; a point has one name, however often it is asked for.

        Args:
            txn: for writing.
            number: of the space.
            sequence: of the last change in what was read of it.
        """
        wanted = f"{number}-{sequence}-"
        for point in self._all(txn):
            if point.startswith(wanted):
                return point
            if _sequence(point) + KEEP_CHANGES < sequence:  # nobody knows any more what changed since
                txn.delete(POINT + point.encode(), db=self._env.meta)
        point = wanted + secrets.token_hex(RANDOM_BYTES)
        self._env.put_fact(txn, self._env.meta, POINT + point.encode(), b"")
        return point

    def sequence(self, txn: Any, number: int, point: str) -> int | None:
        """The change that a point of a space comes after; None where this store never named it."""
        known = self._env.fact(txn, self._env.meta, POINT + point.encode()) is not None
        return _sequence(point) if known and point.startswith(f"{number}-") else None

    def _all(self, txn: Any) -> list[str]:
        cursor = txn.cursor(db=self._env.meta)
        found = list[str]()
        there = cursor.set_range(POINT)
        while there and cursor.key().startswith(POINT):
            found.append(bytes(cursor.key())[len(POINT) :].decode())
            there = cursor.next()
        return found


def _sequence(point: str) -> int:
    return int(point.split("-")[1])
