"""The client that trainers use: ids in any order and number, vectors in the same order, one deadline for it all."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crossmedia.errors import InvalidRequest, VersionMismatch
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.fetching import Fetch
from crossmedia.imgserver.client.ids import Ids, as_ids, deduplicated, in_place
from crossmedia.imgserver.client.putting import put_photos
from crossmedia.imgserver.client.results import DTYPE_CODES, FetchStats, Neighbours, ServerInfo, Vectors
from crossmedia.imgserver.client.retries import seconds_left, until_answered
from crossmedia.imgserver.client.searching import best_of, search
from crossmedia.imgserver.client.security import ClientSecurity
from crossmedia.imgserver.client.servers import Servers, at_once
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import VectorsReply
from crossmedia.keys import NULL_IMAGE
from crossmedia.status import PERMANENT, Status
from crossmedia.v1 import image_server_pb2 as pb


class ImageClient:
    """Fetches image vectors by id.

    It asks for each id once, splits what exceeds the server's limits, keeps several calls in flight, and retries what
    can be retried (server away, overload, transient statuses) until the one deadline of the ``get`` is over. The first
    reply fixes the version; a reply of another version is an error, so vectors of two versions never mix.

        with ImageClient("localhost:7070") as client:
            vectors = client.get([1, 2])
            vectors.values, vectors.status, vectors.version

    Args:
        server: ``host:port`` of a daemon; ``host:port,host:port`` of servers that each own a part of the images, if
            they say so, else of copies, among which calls go round, as they do behind ``dns:///name:port``; a
            transport; or a list of addresses or transports, each asked for the images that it owns.
        version: the version that must be served; None takes the active one of the first reply.
        timeout_s: seconds that a ``get`` may take in all, retries included.
        dtype: how vectors travel: ``float16``, or ``float32``, which is the widened value where fp16 is stored.
        in_flight: how many calls of one ``get`` may be under way at once, to each server.
        security: TLS and token of connections to addresses; None takes what the environment says.

    Raises:
        BadInput: a list is empty or names a server twice.
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
    ):
        if dtype not in DTYPE_CODES:
            raise InvalidRequest(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_CODES)}.")
        self._servers = Servers(server, security)
        self.version = version or None
        self._generations: dict[Transport, int] = {}
        self._timeout_s, self._dtype, self._in_flight = timeout_s, dtype, in_flight
        self._limits: ServerInfo | None = None
        self._stats = FetchStats()
        self._lock = threading.Lock()

    def __enter__(self) -> ImageClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self._servers.close()

    @property
    def generation(self) -> int | None:
        """The highest generation that the server has told, summed over servers that each own a part; None before."""
        return sum(self._generations.values()) if self._generations else None

    @property
    def stats(self) -> FetchStats:
        """Running totals of this client."""
        return self._stats

    def info(self, timeout_s: float | None = None) -> ServerInfo:
        """Ask the server what it serves; retried until the deadline, as every call.

        Returns:
            of servers that each own a part, what they are together.

        Raises:
            ServerUnavailable: nobody answered within the deadline.
            VersionMismatch: servers that each own a part serve different versions.
            WrongShard: they know another list of servers than this client.
        """
        infos = self.infos(timeout_s)
        if len({info.version for info in infos}) > 1:
            serving = "; ".join(f"{info.server_name or 'one'}: {info.version or 'nothing yet'}" for info in infos)
            raise VersionMismatch(
                f"The servers that share the images serve different versions ({serving}). Activate the same on all, "
                f"with 'imgserver versions --activate'."
            )
        return ServerInfo.of_parts(infos)

    def infos(self, timeout_s: float | None = None) -> list[ServerInfo]:
        """As ``info``, of each server that owns a part; they may serve different versions.

        Raises:
            ServerUnavailable: one did not answer within the deadline.
            WrongShard: they know another list of servers than this client.
        """
        told = self._servers.infos(self._timeout_s if timeout_s is None else timeout_s)
        with self._lock:
            for transport, info in told:
                self._generations[transport] = max(self._generations.get(transport, 0), info.generation)
        return [info for _, info in told]

    def _described(self, timeout_s: float) -> ServerInfo:
        """Limits of the servers, asked for once."""
        if self._limits is None:
            self._limits = ServerInfo.of_parts(self.infos(timeout_s))
        return self._limits

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
        """
        started = time.monotonic()
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = started + timeout_s
        asked = as_ids(image_ids)
        unique, place = deduplicated(asked)
        limits = self._described(timeout_s)
        if len(self._servers) > 1 and not (version or self.version):
            told = self.info(seconds_left(deadline, timeout_s))
            self.version = told.version or None  # all of them must serve it
        fetch = Fetch(
            self._servers,
            unique,
            version or self.version or "",
            self._dtype,
            limits,
            self._in_flight,
            partial(self._accept, version or None, limits),
            deadline,
            timeout_s,
        )
        fetch.run()
        values, status = fetch.values, fetch.status
        with self._lock:
            self._stats.requested += len(asked)
            self._stats.unique += len(unique)
            self._stats.retries += fetch.retries
            self._stats.seconds += time.monotonic() - started
            for failure, count in _failures(status):
                self._stats.missing[failure] = self._stats.missing.get(failure, 0) + count
            if self._stats.missing and self._stats.missing_id < 0:
                self._stats.missing_id = int(unique[np.isin(status, PERMANENT)][0])
        if place is not None:
            values, status = in_place(values, place, 0), in_place(status, place, Status.NOT_FOUND)
        return Vectors(values, status, version or self.version or "", self.generation or 0)

    def put(self, photos: Mapping[int, bytes], timeout_s: float | None = None) -> dict[int, Status]:
        """Have photos embedded and stored, so that the next ``get`` serves their vectors; also replaces photos.

        Putting the same bytes again costs nothing, so a ``put`` that failed half-way is simply repeated. The server
        keeps vectors and not photos: bring them to the catalogue too.

        Args:
            photos: image id -> the whole photo.
            timeout_s: seconds for all of it; None takes the client's.

        Returns:
            image id -> what became of it: OK, or why the photo was refused.

        Raises:
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
            NotReady: nothing was precomputed yet.
            VersionMismatch: the vectors served were imported.
            InvalidRequest: an id is negative or above 2**63 - 1.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        limits = self._described(timeout_s)
        ids, data = as_ids(list(photos)), list(photos.values())
        if NULL_IMAGE in ids or len(np.unique(ids)) < len(ids):
            raise InvalidRequest("A photo is given under -1, which stands for no image, or two are under one id.")

        def put(transport: Transport, rows: Ids) -> dict[int, Status]:
            mine = {int(ids[row]): data[row] for row in rows.tolist()}
            return put_photos(transport, limits, mine, deadline, timeout_s)

        parts = self._servers.of_each(ids, put)
        found = {image_id: status for _, part in parts for image_id, status in part.items()}
        return {given: found[image_id] for given, image_id in zip(photos, ids.tolist(), strict=True)}

    def put_head(self, run_id: str, version: str, head: bytes, timeout_s: float | None = None) -> None:
        """Have the servers hold a head, so that vectors and gradients of its version can be asked for.

        Args:
            run_id: the run that it belongs to; the server keeps the latest few of each.
            version: that of these weights, ``Head.version``.
            head: what ``Head.to_bytes`` gives.
            timeout_s: seconds, retries included; None takes the client's.

        Raises:
            InvalidRequest, BadInput: the server refuses it.
            VersionMismatch: the server has no features of that backbone.
            ServerFault: the server says that it holds another.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        request = pb.PutHeadRequest(run_id=run_id, version=version, head=head, owner=pb.HEAD_OWNER_TRAINER)
        deadline = time.monotonic() + timeout_s

        def put(transport: Transport) -> None:
            reply = until_answered(partial(transport.put_head, request), deadline, timeout_s)
            replies.held(reply, version, transport.address)

        at_once([partial(put, transport) for transport in self._servers.transports])
        with self._lock:
            self._stats.head_bytes_sent += len(head) * len(self._servers)

    def head_gradient(
        self,
        version: str,
        image_ids: Ids,
        d_vectors: npt.NDArray[np.float32],
        shapes: Mapping[str, Sequence[int]],
        timeout_s: float | None = None,
    ) -> list[replies.Gradient]:
        """The gradient of a head's weights for gradients of its vectors.

        Args:
            version: of a head that was put.
            image_ids: shape (n,), as they were asked for.
            d_vectors: shape (n, D); zeros where there was no vector.
            shapes: of the head's weights, by name.
            timeout_s: seconds, retries included; None takes the client's.

        Returns:
            parts whose sum it is, name of a weight -> its gradient: one part, unless the ids took several calls; in the
            same order for the same servers.

        Raises:
            VersionMismatch: the server does not hold the head (any more): put it again.
            InvalidRequest: a gradient is not finite.
            ServerFault: what came is no gradient of such weights.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        step = self._described(timeout_s).ids_per_call(8 + 4 * d_vectors.shape[1])

        def of_server(transport: Transport, rows: Ids) -> list[replies.Gradient]:
            gradients = []
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                request = pb.GetHeadGradientRequest(
                    version=version,
                    image_ids=image_ids[part].astype("<i8").tobytes(),
                    d_vectors=np.ascontiguousarray(d_vectors[part], dtype="<f4").tobytes(),
                )
                call = partial(transport.get_head_gradient, request)
                reply = until_answered(call, deadline, timeout_s)
                gradients.append(replies.gradient(reply, version, shapes, transport.address))
                with self._lock:
                    self._stats.bytes_sent += len(request.image_ids) + len(request.d_vectors)
                    self._stats.head_bytes_received += len(reply.gradient)
            return gradients

        return [one for _, gradients in self._servers.of_each(image_ids, of_server) for one in gradients]

    def search(
        self,
        queries: Sequence[int] | npt.NDArray[Any] | Sequence[bytes],
        k: int = 10,
        timeout_s: float | None = None,
    ) -> Neighbours:
        """The images that are most alike, by the cosine of their vectors, from the server's similarity index.

        Args:
            queries: image ids, which are not among their own neighbours; or photos, as bytes, which are not kept. Of
                servers that each own a part photos alone can be asked.
            k: neighbours of each.
            timeout_s: seconds for all of it, retries included; None takes the client's.

        Raises:
            NotReady: the store has no index; 'imgserver index' builds one.
            VersionMismatch: the index is of another version than this client's, or than the server serves.
            InvalidRequest: k is out of the server's limits, an id is negative, or ids are asked of several servers.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        limits = self._described(timeout_s)

        def ask(transport: Transport) -> Neighbours:
            return search(transport, limits, self.version or "", queries, k, deadline, timeout_s)

        if len(self._servers) > 1 and len(queries) and not isinstance(queries[0], bytes):
            raise InvalidRequest(
                "The images most alike another are on all servers, and each knows the vectors of its own only. Search "
                "with the photo, which all are asked for."
            )
        return best_of(at_once([partial(ask, transport) for transport in self._servers.transports]))

    def thumbnails(self, image_ids: Sequence[int] | npt.NDArray[Any], max_side: int = 128) -> list[bytes | None]:
        """Small JPEGs of the photos, in the order asked; None where there is no photo or it cannot be decoded.

        Args:
            image_ids: shape (n,), integers; -1 is the null image.
            max_side: pixels of the longest side.

        Raises:
            InvalidRequest: an id is none, or ``max_side`` is more than the server draws.
            WrongShard: the server owns a part of the images, and an id is of another part.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so when the client's ``timeout_s`` is over.
        """
        deadline = time.monotonic() + self._timeout_s
        ids = as_ids(image_ids)
        step = self._described(self._timeout_s).max_thumbnails_per_call
        result: list[bytes | None] = [None] * len(ids)
        real = np.flatnonzero(ids != NULL_IMAGE)

        def ask(transport: Transport, rows: Ids) -> None:
            for start in range(0, len(rows), step):
                part = real[rows[start : start + step]]
                request = pb.GetThumbnailsRequest(image_ids=ids[part].astype("<i8").tobytes(), max_side=max_side)
                reply = until_answered(partial(transport.get_thumbnails, request), deadline, self._timeout_s)
                jpegs = replies.thumbnails(reply, ids[part], max_side, transport.address)
                for row, jpeg in zip(part.tolist(), jpegs, strict=True):
                    result[row] = jpeg

        self._servers.of_each(ids[real], ask)
        return result

    def _accept(
        self, asked: str | None, limits: ServerInfo, transport: Transport, reply: VectorsReply, ids: Ids
    ) -> VectorsReply:
        """Check one reply; the first to a ``get`` that asked for no version of its own fixes the client's."""
        reply = replies.vectors(reply, ids, self._dtype, asked or self.version, limits, transport.address)
        with self._lock:
            if self.version is None and asked is None:
                self.version = reply.version
            if reply.version != (wanted := asked or self.version):
                raise VersionMismatch(
                    f"The server now serves {reply.version}; this client began with {wanted}. Vectors of two "
                    f"versions do not mix: start the run again, or activate the former version."
                )
            self._generations[transport] = max(self._generations.get(transport, 0), reply.generation)
            self._stats.calls += 1
            self._stats.computed += reply.computed
            self._stats.bytes_sent += 8 * len(ids)
            self._stats.bytes_received += reply.values.nbytes + reply.status.nbytes
        return reply


def _failures(status: npt.NDArray[np.uint8]) -> list[tuple[str, int]]:
    """Name and count of each permanent failure."""
    if not len(status) or status.max() == Status.OK:
        return []
    counts = np.bincount(status, minlength=256)
    return [(failure.name, int(counts[failure])) for failure in PERMANENT if counts[failure]]
