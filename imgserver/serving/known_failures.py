"""Failures that are remembered for a while, so that a missing or broken photo is not looked for by every call."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.hashtable import ABSENT, IdTable
from crossmedia.imgserver.storage.records import Ids

MAX_REMEMBERED = 1_000_000
LONGEST_S = 10 * 365 * 86_400.0  # what "for ever" comes to
_STATUS_BITS = 8


class KnownFailures:
    """Image id -> the status of its failure, until it is too old to be believed.

    Args:
        ttl_s: seconds that a failure is believed.
    """

    def __init__(self, ttl_s: float):
        self._ttl_s = min(ttl_s, LONGEST_S)
        self._lock = threading.Lock()
        self._known = IdTable()

    def put(self, ids: Ids, status: npt.NDArray[np.uint8]) -> None:
        """Remember failures; ids and status of shape (n,)."""
        until = int((time.monotonic() + self._ttl_s) * 1000) << _STATUS_BITS
        with self._lock:
            if len(self._known) + len(ids) > MAX_REMEMBERED:  # callers that ask at random must not fill the memory
                self._known = IdTable()
            self._known.put(ids, until | status.astype(np.int64))

    def get(self, ids: Ids) -> npt.NDArray[np.uint8]:
        """Status of each id, shape (n,); 0 where no failure is known or it is too old."""
        found = self._known.get(ids)
        believed = (found != ABSENT) & (found >> _STATUS_BITS > int(time.monotonic() * 1000))
        return np.where(believed, found & 0xFF, 0).astype(np.uint8)

    def forget(self) -> None:
        """Forget all failures, because the catalogue is another one now."""
        with self._lock:
            self._known = IdTable()
