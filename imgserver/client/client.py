"""The client that trainers use: ids in any order and number, vectors in the same order, one deadline for it all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crossmedia.arguments import check_whole
from crossmedia.concepts import ConceptCard
from crossmedia.errors import InvalidRequest, VersionMismatch
from crossmedia.imgserver.client import people, replies
from crossmedia.imgserver.client.arguments import check_photos, check_settings, check_version
from crossmedia.imgserver.client.cache import VectorCache, check_cache_bytes, held
from crossmedia.imgserver.client.fetching import Fetch
from crossmedia.imgserver.client.getting import beside_cache, without_cache
from crossmedia.imgserver.client.ids import Ids, as_ids
from crossmedia.imgserver.client.listing import Listing
from crossmedia.imgserver.client.putting import as_bytes, put_photos
from crossmedia.imgserver.client.replies import Asked
from crossmedia.imgserver.client.results import FetchStats, Neighbours, Vectors
from crossmedia.imgserver.client.searching import Queries, Query, best_of, search
from crossmedia.imgserver.client.security import ClientSecurity
from crossmedia.imgserver.client.server_info import dim_in
from crossmedia.imgserver.client.servers import at_once
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import VectorsReply
from crossmedia.keys import NULL_IMAGE
from crossmedia.status import Status


class ImageClient(Listing):
    """Fetches image vectors by id.

    It asks for each id once, splits what exceeds the server's limits, keeps several calls in flight, and retries what
    can be retried (server away, overload, transient statuses) until the one deadline of the ``get`` is over. The first
    reply fixes the version; a reply of another version is an error, so vectors of two versions never mix.

    Args:
        server: ``host:port`` of a daemon; ``host:port,host:port`` of servers that each own a part of the images, if
            they say so, else of copies, among which calls go round, as they do behind ``dns:///name:port``; a
            transport; or a list of addresses or transports, each asked for the images that it owns.
        version: the version that must be served; None takes the active one of the first reply.
        timeout_s: seconds that a ``get`` may take in all, retries included.
        dtype: how vectors travel: ``float16``, or ``float32``, which is the widened value where fp16 is stored.
        in_flight: how many calls of one ``get`` may be under way at once, to each server.
        security: TLS and token of connections to addresses; None takes what the environment says.
        cache_bytes: memory for vectors that were fetched, so that they are not fetched again; 0: none. What was
            replaced on a server is dropped within a second. A store in this process needs none: its rows are mapped.

    Raises:
        BadInput: an argument is of another type or cannot be, an address has no port, a list is empty or names a
            server twice.

    Attributes:
        version: as given; else that of the first reply, None before.
        stats: running totals of this client.
        servers: where its calls go.
        cache: what was fetched; None: nothing is kept.

    Example:
        >>> from crossmedia import ImageClient
        >>> with ImageClient("localhost:7070") as client:
        ...     vectors = client.get([1, 2])
        >>> vectors.values.shape, vectors.ok.tolist()
        ((2, 16), [True, True])
    """

    def __init__(
        self,
        server: str | Transport | Sequence[str | Transport],
        *,
        version: str | None = None,
        timeout_s: float = 30.0,
        dtype: Literal["float16", "float32"] = "float16",
        in_flight: int = 4,
        security: ClientSecurity | None = None,
        cache_bytes: int = 0,
    ):
        check_settings(version, timeout_s, dtype, in_flight)
        check_cache_bytes(cache_bytes)
        super().__init__(server, timeout_s, security)
        self.version, self._dtype, self._in_flight = version or None, dtype, in_flight
        self.cache = VectorCache(int(cache_bytes)) if cache_bytes else None
        self.stats = FetchStats()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it connects anew and stays with its version; totals and cache begin empty."""
        made = partial(ImageClient, version=self.version, timeout_s=self._timeout_s, dtype=self._dtype)
        made = partial(made, cache_bytes=self.cache.size if self.cache else 0)
        return partial(made, in_flight=self._in_flight, security=self._security), (self._server,)

    def get(
        self, image_ids: Sequence[int] | npt.NDArray[Any], timeout_s: float | None = None, version: str | None = None
    ) -> Vectors:
        """Fetch the vectors of ``image_ids``, in their order.

        Args:
            image_ids: shape (n,), integers; duplicates are asked for once, -1 is the null image: never sent, NOT_FOUND
                in the result and not counted as missing.
            timeout_s: seconds for this ``get``; None takes the client's.
            version: for this ``get`` alone, in place of the client's: a backbone's, for features, or that of a head
                that was put.

        Returns:
            ``n`` rows; permanent misses are rows of zeros with their status.

        Raises:
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
            VersionMismatch: the server serves another version than this client's.
            NotReady: the server has no vectors yet.
            WrongShard: the server owns a part of the images, and an id is of another part.
            InvalidRequest: an id is negative (other than -1), above 2**63 - 1 or no integer.
            ServerFault: a reply does not fit what was asked: see ``replies``.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     vectors = client.get([3, 1, 3, -1])
            >>> vectors.ok.tolist(), vectors.version == client.version
            ([True, True, True, False], True)
        """
        check_version(version)
        started, deadline, ids = time.monotonic(), self.deadline(timeout_s), as_ids(image_ids)
        info = self.described(deadline)
        if len(self.servers) > 1 and not (version or self.version):
            self.version = self._info_of_all(deadline).version or None  # all of them must serve it
        asked = Asked(version or self.version or "", self._dtype, info)

        def fetched(unique: Ids) -> Fetch:
            fetch = Fetch(self.servers, unique, asked, partial(self._accept, asked), deadline, self.cache)
            fetch.run(self._in_flight)
            return fetch

        if self.cache is None:
            got = without_cache(ids, fetched)
        else:
            got = beside_cache(ids, fetched, self.cache, asked.version, self.servers)
        with self._lock:
            self.stats.requested += len(ids)
            self.stats.unique += got.unique
            self.stats.cached += got.cached
            self.stats.retries += got.retries
            self.stats.seconds += time.monotonic() - started
            self.stats.count_missing(*got.missing)
        return Vectors(got.values, got.status, asked.version or self.version or "", self.generation or 0)

    def cached(self, image_ids: Sequence[int] | npt.NDArray[Any], version: str | None = None) -> Vectors:
        """What the cache has of ``image_ids``, in their order, without a call: for when no server answers.

        It is what servers said last, however long ago; what was replaced since is not known here.

        Args:
            image_ids: as in ``get``.
            version: in place of the client's.

        Returns:
            ``n`` rows; zeros and FAILED where the cache has none, NOT_FOUND for the null image.

        Raises:
            InvalidRequest: an id is negative (other than -1), above 2**63 - 1 or no integer.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070", cache_bytes=1 << 20) as client:
            ...     before, _, after = client.cached([1, 2]), client.get([1]), client.cached([1, 2])
            >>> before.ok.tolist(), after.ok.tolist()
            ([False, False], [True, False])
        """
        check_version(version)
        ids, version = as_ids(image_ids), version or self.version or ""
        dim = self._info.dim_of(version) if self._info else dim_in(version) or 0
        values, status = held(self.cache, version, ids, (dim, self._dtype))
        return Vectors(values, status, version, self.generation or 0)

    def put(self, photos: Mapping[int, bytes | str], timeout_s: float | None = None) -> dict[int, Status]:
        """Have photos embedded and stored, so that the next ``get`` serves their vectors; also replaces photos.

        Putting the same bytes again costs nothing, so a ``put`` that failed half-way is simply repeated. The server
        keeps vectors and not photos: bring them to the catalogue too.

        Args:
            photos: image id -> the whole photo; or id -> text, where the server's backbone reads texts.
            timeout_s: seconds for all of it; None takes the client's.

        Returns:
            image id -> what became of it: OK, or why the photo was refused.

        Raises:
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
            NotReady: nothing was precomputed yet.
            VersionMismatch: the vectors served were imported.
            InvalidRequest: an id is negative or above 2**63 - 1; or these are texts, and the server sees photos.

        Example:
            >>> from pathlib import Path
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     client.put({4711: Path("photos/001.jpg").read_bytes()})
            {4711: <Status.OK: 1>}
        """
        check_photos(photos)
        deadline = self.deadline(timeout_s)
        info = self.described(deadline)
        ids, data = as_ids(list(photos)), as_bytes(photos, info)
        if NULL_IMAGE in ids or len(np.unique(ids)) < len(ids):
            raise InvalidRequest("Something is given under -1, which stands for nothing, or two are under one id.")

        def put(transport: Transport, rows: Ids) -> dict[int, Status]:
            mine = {int(ids[row]): data[row] for row in rows.tolist()}
            return put_photos(transport, info, mine, deadline)

        try:
            parts = self.servers.of_each(ids, put)
        finally:
            if self.cache is not None:
                self.cache.doubt()
        found = {image_id: status for _, part in parts for image_id, status in part.items()}
        return {given: found[image_id] for given, image_id in zip(photos, ids.tolist(), strict=True)}

    def search(self, queries: Queries, k: int = 10, timeout_s: float | None = None) -> Neighbours:
        """The images that are most alike, by the cosine of their vectors, from the server's similarity index.

        Args:
            queries: image ids, which are not among their own neighbours; or photos, as bytes, or words, as text, which
                are not kept. Of servers that each own a part these alone can be asked.
            k: neighbours of each.
            timeout_s: seconds for all of it, retries included; None takes the client's.

        Raises:
            NotReady: the store has no similarity index; 'imgserver index' builds one.
            VersionMismatch: that index is of another version than this client's, or than the server serves.
            InvalidRequest: k is out of the server's limits, an id is negative, or ids are asked of several servers.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     client.search([1, 2], k=3).image_ids.shape
            (2, 3)
        """
        deadline, query = self.deadline(timeout_s), Query(queries, k, self.version or "")
        limits = self.described(deadline).limits
        if len(self.servers) > 1 and len(queries) and query.by_id:
            raise InvalidRequest(
                "What is most alike an image or a text is on all servers, and each knows the vectors of its own only. "
                "Search with the photo or with words, which all are asked for."
            )
        calls = [partial(search, transport, limits, query, deadline) for transport in self.servers.transports]
        return best_of(at_once(calls))

    def thumbnails(self, image_ids: Sequence[int] | npt.NDArray[Any], max_side: int = 128) -> list[bytes | None]:
        r"""Small JPEGs of the photos, in the order asked; None where there is no photo or it cannot be decoded.

        Args:
            image_ids: shape (n,), integers; -1 is the null image.
            max_side: pixels of the longest side.

        Raises:
            InvalidRequest: an id is none, or ``max_side`` is more than the server draws.
            WrongShard: the server owns a part of the images, and an id is of another part.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so when the client's ``timeout_s`` is over.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     [jpeg[:2] for jpeg in client.thumbnails([1, 2])]
            [b'\xff\xd8', b'\xff\xd8']
        """
        check_whole("max_side", max_side)
        deadline, ids = self.deadline(), as_ids(image_ids)
        return people.thumbnails(self.servers, self.described(deadline).limits, ids, max_side, deadline)

    def concepts(self, version: str = "") -> ConceptCard:
        """What the numbers of a vector are called and mean, where a head of concepts made them.

        Args:
            version: whose; empty: this client's version, or the active one.

        Raises:
            VersionMismatch: its numbers are no concepts, or the server does not hold it.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so when the client's ``timeout_s`` is over.

        Example:
            >>> from crossmedia import ImageClient
            >>> from crossmedia.concepts import Concept, ConceptCard
            >>> from crossmedia.imgserver.client import MockTransport
            >>> card = ConceptCard("concepts@0", "net@0", 9, 9, (Concept("warmth", "anchor"),))
            >>> with ImageClient(MockTransport({}, version="net@0+concepts@0/1", card=card)) as client:
            ...     client.concepts().names
            ('warmth',)
        """
        check_version(version)
        return people.concepts(self.servers, version or self.version or "", self.deadline())

    def count(self, **more: float) -> None:
        """Add to running totals, by their names; calls of several threads may end at once."""
        with self._lock:
            for name, amount in more.items():
                setattr(self.stats, name, getattr(self.stats, name) + amount)

    def _accept(self, asked: Asked, transport: Transport, reply: VectorsReply, ids: Ids) -> VectorsReply:
        """Check one reply; the first to a ``get`` that asked for no version fixes the client's."""
        reply = replies.vectors(reply, ids, asked, transport.address)
        with self._lock:
            if not asked.version and self.version is None:
                self.version = reply.version
            if reply.version != (wanted := asked.version or self.version):
                raise VersionMismatch(
                    f"The server now serves {reply.version}; this client began with {wanted}. Vectors of two "
                    f"versions do not mix: start the run again, or activate the former version."
                )
            self._generations[transport] = max(self._generations.get(transport, 0), reply.generation)
            self.stats.calls += 1
            self.stats.computed += reply.computed
            self.stats.bytes_sent += 8 * len(ids)
            self.stats.bytes_received += reply.values.nbytes + reply.status.nbytes
        return reply
