"""Vectors that a client has fetched, kept in bounded memory for as long as its servers would say the same.

Every reply carries the generation of the store, which grows when an image's content changes, and is told by each
server for what it owns. Where it is another than before, everything is dropped. What is kept counts only while the
server has confirmed its generation within the last ``REFRESH_S`` seconds: a ``get`` beyond that asks for one of its
ids anew, and the reply confirms. So no vector is older than that interval, against what the server would have answered.
Permanent misses are kept for one interval, for a photo that is added raises no generation; transient ones never are.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crossmedia.arguments import must
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import VectorsReply
from crossmedia.keys import NULL_IMAGE
from crossmedia.status import PERMANENT, Status, is_ok

if TYPE_CHECKING:  # numba compiles for a while, and takes memory: not for those who keep nothing
    from crossmedia.imgserver.client.cached_rows import CachedRows, Found

log = logging.getLogger(__name__)

REFRESH_S = 1.0
LEAST_BYTES = 64 << 10
MAX_VERSIONS = 4
KEEP_IDLE_S = 600.0
_TICKS = 64  # of the time of permanent misses, a second
_KEPT = np.zeros(256, dtype=np.bool_)
_KEPT[[int(status) for status in (Status.OK, *PERMANENT)]] = True


def check_cache_bytes(cache_bytes: Any, name: str = "cache_bytes") -> None:
    """Refuse a size that no cache can have.

    Args:
        cache_bytes: as it was given.
        name: of the argument.

    Raises:
        BadInput: it is no whole number, negative, too small for a vector, or more than this machine's memory.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    whole = isinstance(cache_bytes, int | np.integer) and not isinstance(cache_bytes, bool)
    must(
        whole and (cache_bytes == 0 or LEAST_BYTES <= cache_bytes <= memory),
        name,
        cache_bytes,
        f"a whole number of bytes: 0 for no cache, else from {LEAST_BYTES:,} to the {memory:,} of this machine",
    )


@dataclass
class _Told:
    """What a server said of its store: a generation, and when the last call was made that confirmed it."""

    generation: int
    at: float


class VectorCache:
    """Vectors by (version, id). Its methods may be called by several threads; a forked process begins with none.

    Args:
        size: most bytes of it; versions that are in use share them evenly.

    Attributes:
        copy_rows: puts rows of a reply among those that were found.
    """

    def __init__(self, size: int):
        from crossmedia.imgserver.client.cached_rows import CachedRows, compiled, copy_rows

        compiled()
        self.copy_rows = copy_rows
        self.size, self._none = size, CachedRows(0, 1, "float16")
        self._begin()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._versions: dict[str, tuple[CachedRows, float]] = {}
        self._told: dict[Transport, _Told] = {}
        self._started, self._doubted = time.monotonic() - 2 * REFRESH_S, -math.inf
        self._drops = 0

    def _locked(self) -> threading.Lock:
        if self._pid != os.getpid():  # the parent's lock may have been held during the fork
            self._begin()
        return self._lock

    @property
    def nbytes(self) -> int:
        """Bytes that it takes now."""
        with self._locked():
            return sum(rows.nbytes for rows, _ in self._versions.values())

    def find(self, version: str, ids: Ids, *, ever: bool = False) -> tuple[Found, int]:
        """What is there of ``ids``, shape (n,), of a version, and how often everything had been dropped by then.

        A permanent miss counts for one interval, or if ``ever`` for as long as it is there.
        """
        with self._locked():
            now = time.monotonic()
            rows = self._versions[version][0] if version in self._versions else self._none
            if rows is not self._none:
                self._versions[version] = rows, now
            # The time of a miss is rounded down, so it counts for no longer than that.
            since = 0 if ever else self._tick(max(now - REFRESH_S, self._doubted)) + 1
            return rows.find(ids, since), self._drops

    def confirmed(self, transport: Transport, at: float) -> bool:
        """Whether a server confirmed its generation within the interval that ends at ``at``."""
        told = self._told.get(transport)  # each is read in one step, so nobody waits for who looks rows up
        return told is not None and told.at > max(at - REFRESH_S, self._doubted)

    def doubt(self) -> None:
        """Believe nothing before it is confirmed anew: what is on the servers was changed from here."""
        with self._locked():
            self._doubted = time.monotonic()

    def holds(self, drops: int) -> bool:
        """Whether nothing was dropped since it had been so often."""
        return self._drops == drops

    def take(self, transport: Transport, reply: VectorsReply, ids: Ids, asked_at: float) -> None:
        """Keep what a reply brought, and drop what it says is of the past.

        Args:
            transport: that brought it.
            reply: as it was checked.
            ids: shape (n,), of the reply.
            asked_at: when the call was made, on the monotonic clock.
        """
        values, status = reply.values, reply.status
        if not is_ok(status).all():
            kept = _KEPT[status]
            ids, values, status = ids[kept], values[kept], status[kept]
        with self._locked():
            current = self._follow(transport, reply.generation, asked_at)
            rows = self._rows(reply.version, values) if current and len(ids) else None
            drops = self._drops
        # Whoever looks rows up is not waited for: what is asked for often comes again.
        if rows is not None and self._lock.acquire(blocking=False):
            try:
                if self._drops == drops:
                    rows.put(ids, values, status, self._tick(asked_at))
            finally:
                self._lock.release()

    def _follow(self, transport: Transport, generation: int, asked_at: float) -> bool:
        """Take note of a generation; return whether it is the one that is kept.

        A lower one is that of a copy that lags behind, or that answered before; where the higher one was not heard of
        for an interval, it is that of another store, such as one that was restored.
        """
        told = self._told.get(transport)
        if told is None:
            self._told[transport] = _Told(generation, asked_at)
            return True
        if generation == told.generation:
            told.at = max(told.at, asked_at)
            return True
        if generation < told.generation and asked_at < told.at + REFRESH_S:
            return False
        for rows, _ in self._versions.values():
            rows.drop()
        self._drops += 1
        told.generation, told.at = generation, asked_at
        return True

    def _rows(self, version: str, values: npt.NDArray[Any]) -> CachedRows:
        """The rows of a version. One that is new has its share of the memory, so the others begin anew with less."""
        from crossmedia.imgserver.client.cached_rows import CachedRows

        if version not in self._versions:
            now = time.monotonic()
            used = sorted((at, name) for name, (_, at) in self._versions.items() if at > now - KEEP_IDLE_S)
            kept = used[-(MAX_VERSIONS - 1) :]
            share = self.size // (len(kept) + 1)
            self._versions = {name: (self._versions[name][0].emptied(share), at) for at, name in kept}
            self._versions[version] = CachedRows(share, values.shape[1], values.dtype.name), now
            if not self._versions[version][0].places:
                log.warning(
                    "a cache of %d bytes has no room for vectors of %d numbers: none of %s is kept",
                    *(share, values.shape[1], version),
                )
        return self._versions[version][0]

    def _tick(self, at: float) -> int:
        return int((at - self._started) * _TICKS)


def held(
    cache: VectorCache | None, version: str, ids: Ids, shape: tuple[int, str]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """What a cache has of ``ids``, however old: values, shape (n, D), and status, shape (n,), FAILED for the rest.

    Args:
        cache: None: there is none.
        version: of the vectors.
        ids: shape (n,); -1 is no image, and NOT_FOUND.
        shape: D and dtype, for when it has none of that version.
    """
    values, status = np.zeros((len(ids), shape[0]), dtype=shape[1]), np.full(len(ids), Status.FAILED, dtype=np.uint8)
    if cache is not None:
        found, _ = cache.find(version, ids, ever=True)
        if found.cached:
            values, status = found.values, found.status
            values[found.absent], status[found.absent] = 0, Status.FAILED
    status[ids == NULL_IMAGE] = Status.NOT_FOUND
    return values, status
