"""One ``get``: ids as a caller gives them to vectors in their order, each id fetched once, or not at all.

Without a cache the ids are told apart first, and the vectors that came are put where they belong. A cache is looked
into with the ids as they are: what it has goes straight to its place, and only what it lacks is told apart.

Legend: n ids as they were given, u different ones of some, D numbers in a vector.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.client.cache import VectorCache
from crossmedia.imgserver.client.failures import broken
from crossmedia.imgserver.client.fetching import Fetch
from crossmedia.imgserver.client.ids import Ids, deduplicated, in_place
from crossmedia.imgserver.client.servers import Servers
from crossmedia.imgserver.client.transports import Transport
from crossmedia.keys import NULL_IMAGE
from crossmedia.status import Status, is_ok

if TYPE_CHECKING:  # it is compiled by numba, for those who have a cache
    from crossmedia.imgserver.client.cached_rows import Found

Fetched = Callable[[Ids], Fetch]
Rows = npt.NDArray[Any]
Statuses = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Got:
    """What came of n ids.

    Attributes:
        values: shape (n, D).
        status: shape (n,).
        unique: how many different ids there were, without the null image.
        cached: how many of them crossed no wire.
        retries: calls that were made again.
        missing: ids, permanent misses among them, each once, and the status of each.
    """

    values: Rows
    status: Statuses
    unique: int
    cached: int
    retries: int
    missing: tuple[Ids, Statuses]


def without_cache(ids: Ids, fetched: Fetched) -> Got:
    """Fetch each of ``ids``, shape (n,), once.

    Args:
        ids: in any order; -1 is the null image.
        fetched: fetches different ids.
    """
    unique, place = deduplicated(ids)
    fetch = fetched(unique)
    values, status = fetch.values, fetch.status
    if place is not None:
        values, status = in_place(values, place, 0), in_place(status, place, Status.NOT_FOUND)
    return Got(values, status, len(unique), 0, fetch.retries, (unique, fetch.status))


def beside_cache(ids: Ids, fetched: Fetched, cache: VectorCache, version: str, servers: Servers) -> Got:
    """Fetch what a cache lacks; where a reply says that something was replaced, the rest too.

    Args:
        ids: as of ``without_cache``.
        fetched: likewise; what it fetches goes into the cache.
        cache: of the client.
        version: of the vectors.
        servers: that own the images.
    """
    started = time.monotonic()
    found, drops = cache.find(version, ids)
    if not found.cached:
        fetch, place = fetched(found.unique), np.full(len(ids), -1)
        place[found.absent] = found.place
        values, status = in_place(fetch.values, place, 0), in_place(fetch.status, place, Status.NOT_FOUND)
        return Got(values, status, len(found.unique), 0, fetch.retries, (found.unique, fetch.status))
    used = _holders(ids, found, servers)
    heard = [way for way, rows in servers.split(found.unique) if len(rows)]
    silent = [one for way, one in used if way not in heard and not cache.confirmed(way, started)]
    asked = np.append(found.unique, silent).astype(np.int64) if silent else found.unique
    fetches = [fetched(asked)] if len(asked) else []
    cached = found.cached - len(silent)
    if cache.holds(drops) and all(cache.confirmed(transport, started) for transport, _ in used):
        values, status = found.values, found.status
        for fetch in fetches:
            _check_alike(values, fetch.values, servers)
            cache.copy_rows(fetch.values, found.place, values, found.absent)
            status[found.absent] = Status.OK if is_ok(fetch.status).all() else fetch.status[found.place]
    else:  # what was found is of the past, or nobody has said that it is not
        hits, cached = np.setdiff1d(ids[ids != NULL_IMAGE], asked), 0
        fetches += [fetched(hits)] if len(hits) else []
        values, status = _rows_of(ids, fetches, servers)
    retries, missing = sum(fetch.retries for fetch in fetches), _missing(ids, status)
    return Got(values, status, found.cached + len(found.unique), cached, retries, missing)


def _holders(ids: Ids, found: Found, servers: Servers) -> list[tuple[Transport, int]]:
    """Whose images were found, and one of each of them; the image of a server that is asked anyway may be none."""
    if len(servers) == 1 and len(found.unique):
        return [(servers.transports[0], NULL_IMAGE)]
    there = ids != NULL_IMAGE
    there[found.absent] = False
    hits = ids[there]
    return [(transport, int(hits[rows[0]])) for transport, rows in servers.split(hits)]


def _rows_of(ids: Ids, fetches: list[Fetch], servers: Servers) -> tuple[Rows, Statuses]:
    """Rows and status of ``ids``, each of which is in one of the fetches."""
    for fetch in fetches:
        _check_alike(fetches[0].values, fetch.values, servers)
    every = np.concatenate([fetch.ids for fetch in fetches])
    order = np.argsort(every)
    place = order[np.searchsorted(every, ids, sorter=order).clip(0, len(every) - 1)]
    place[ids == NULL_IMAGE] = -1
    values = in_place(np.concatenate([fetch.values for fetch in fetches]), place, 0)
    return values, in_place(np.concatenate([fetch.status for fetch in fetches]), place, Status.NOT_FOUND)


def _check_alike(some: Rows, others: Rows, servers: Servers) -> None:
    """Refuse vectors of two lengths.

    Raises:
        ServerFault: a server gave another length than it had given.
    """
    if some.shape[1] != others.shape[1]:
        what = f"some of its vectors have {others.shape[1]} numbers, others {some.shape[1]}"
        raise broken(servers.transports[0].address, what)


def _missing(ids: Ids, status: Statuses) -> tuple[Ids, Statuses]:
    """The ids that failed, each once, and the status of each."""
    failed = np.flatnonzero(~is_ok(status) & (ids != NULL_IMAGE))
    if not len(failed):
        return ids[:0], status[:0]
    unique, first = np.unique(ids[failed], return_index=True)
    return unique, status[failed][first]
