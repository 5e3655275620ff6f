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
from crossmedia.v1 import image_server_pb2 as pb

from imgserver.client.fetching import Fetch
from imgserver.client.ids import NULL_IMAGE, Ids, as_ids, deduplicated, in_place
from imgserver.client.putting import put_photos
from imgserver.client.results import (
    DTYPE_CODES,
    KNOWN_STATUS,
    PERMANENT,
    FetchStats,
    Neighbours,
    ServerInfo,
    Status,
    Vectors,
)
from imgserver.client.retries import until_answered
from imgserver.client.searching import search
from imgserver.client.security import ClientSecurity
from imgserver.client.transports import GrpcTransport, Transport
from imgserver.errors import InvalidRequest, ServerFault, VersionMismatch
from imgserver.wire import VectorsReply


class ImageClient:
    """Fetches image vectors by id.

    It asks for each id once, splits what exceeds the server's limits, keeps several calls in flight, and retries what
    can be retried (server away, overload, transient statuses) until the one deadline of the ``get`` is over. The first
    reply fixes the version; a reply of another version is an error, so vectors of two versions never mix.

        with ImageClient("localhost:7070") as client:
            vectors = client.get([1, 2])
            vectors.values, vectors.status, vectors.version

    Args:
        server: ``host:port`` of a daemon; ``host:port,host:port`` or ``dns:///name:port`` of copies, among which calls
            go round; or a transport.
        version: the version that must be served; None takes the active one of the first reply.
        timeout_s: seconds that a ``get`` may take in all, retries included.
        dtype: how vectors travel: ``float16``, or ``float32``, which is the widened value where fp16 is stored.
        in_flight: how many calls of one ``get`` may be under way at once.
        security: TLS and token of a connection to an address; None takes what the environment says.
    """

    def __init__(
        self,
        server: str | Transport,
        *,
        version: str | None = None,
        timeout_s: float = 30.0,
        dtype: Literal["float16", "float32"] = "float16",
        in_flight: int = 4,
        security: ClientSecurity | None = None,
    ):
        if dtype not in DTYPE_CODES:
            raise InvalidRequest(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_CODES)}.")
        self._transport: Transport = GrpcTransport(server, security) if isinstance(server, str) else server
        self.version = version
        self.generation: int | None = None
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
        """Give up the connection."""
        self._transport.close()

    @property
    def stats(self) -> FetchStats:
        """Running totals of this client."""
        return self._stats

    def info(self, timeout_s: float | None = None) -> ServerInfo:
        """Ask the server what it serves; retried until the deadline, as every call.

        Raises:
            ServerUnavailable: nobody answered within the deadline.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        reply = until_answered(self._transport.get_info, time.monotonic() + timeout_s, timeout_s)
        return ServerInfo.from_message(reply)

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
            InvalidRequest: an id is negative (other than -1) or no integer.
        """
        started = time.monotonic()
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = started + timeout_s
        asked = as_ids(image_ids)
        unique, place = deduplicated(asked)
        if self._limits is None:
            self._limits = self.info(timeout_s)
        fetch = Fetch(
            self._transport,
            unique,
            version or self.version or "",
            self._dtype,
            self._limits,
            self._in_flight,
            partial(self._accept, version),
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
            InvalidRequest: an id is negative.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        self._limits = self._limits or self.info(timeout_s)
        return put_photos(self._transport, self._limits, photos, deadline, timeout_s)

    def put_head(self, run_id: str, version: str, head: bytes, timeout_s: float | None = None) -> None:
        """Have the server hold a head, so that vectors and gradients of its version can be asked for.

        Args:
            run_id: the run that it belongs to; the server keeps the latest few of each.
            version: that of these weights, ``Head.version``.
            head: what ``Head.to_bytes`` gives.
            timeout_s: seconds, retries included; None takes the client's.

        Raises:
            InvalidRequest, BadInput: the server refuses it.
            VersionMismatch: the server has no features of that backbone.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        request = pb.PutHeadRequest(run_id=run_id, version=version, head=head, owner=pb.HEAD_OWNER_TRAINER)
        until_answered(lambda left: self._transport.put_head(request, left), time.monotonic() + timeout_s, timeout_s)
        with self._lock:
            self._stats.head_bytes_sent += len(head)

    def head_gradient(
        self, version: str, image_ids: Ids, d_vectors: npt.NDArray[np.float32], timeout_s: float | None = None
    ) -> list[bytes]:
        """The gradient of a head's weights for gradients of its vectors.

        Args:
            version: of a head that was put.
            image_ids: shape (n,), as they were asked for.
            d_vectors: shape (n, D); zeros where there was no vector.
            timeout_s: seconds, retries included; None takes the client's.

        Returns:
            safetensors blocks whose sum it is: one, unless the ids took several calls.

        Raises:
            VersionMismatch: the server does not hold the head (any more): put it again.
            InvalidRequest: a gradient is not finite.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        self._limits = self._limits or self.info(timeout_s)
        step = self._limits.ids_per_call(8 + 4 * d_vectors.shape[1])
        blocks = []
        for start in range(0, len(image_ids), step):
            request = pb.GetHeadGradientRequest(
                version=version,
                image_ids=image_ids[start : start + step].astype("<i8").tobytes(),
                d_vectors=np.ascontiguousarray(d_vectors[start : start + step], dtype="<f4").tobytes(),
            )
            call = partial(self._transport.get_head_gradient, request)
            blocks.append(until_answered(call, deadline, timeout_s).gradient)
            with self._lock:
                self._stats.bytes_sent += len(request.image_ids) + len(request.d_vectors)
                self._stats.head_bytes_received += len(blocks[-1])
        return blocks

    def search(
        self,
        queries: Sequence[int] | npt.NDArray[Any] | Sequence[bytes],
        k: int = 10,
        timeout_s: float | None = None,
    ) -> Neighbours:
        """The images that are most alike, by the cosine of their vectors, from the server's similarity index.

        Args:
            queries: image ids, which are not among their own neighbours; or photos, as bytes, which are not kept.
            k: neighbours of each.
            timeout_s: seconds for all of it, retries included; None takes the client's.

        Raises:
            NotReady: the store has no index; 'imgserver index' builds one.
            VersionMismatch: the index is of another version than this client's, or than the server serves.
            InvalidRequest: k is out of the server's limits, or an id is negative.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        self._limits = self._limits or self.info(timeout_s)
        return search(self._transport, self._limits, self.version or "", queries, k, deadline, timeout_s)

    def thumbnails(self, image_ids: Sequence[int] | npt.NDArray[Any], max_side: int = 128) -> list[bytes | None]:
        """Small JPEGs of the photos, in the order asked; None where there is no photo or it cannot be decoded."""
        ids = as_ids(image_ids)
        if self._limits is None:
            self._limits = self.info()
        result: list[bytes | None] = [None] * len(ids)
        real = np.flatnonzero(ids != NULL_IMAGE)
        step = self._limits.max_thumbnails_per_call
        for start in range(0, len(real), step):
            part = real[start : start + step]
            request = pb.GetThumbnailsRequest(image_ids=ids[part].astype("<i8").tobytes(), max_side=max_side)
            reply = self._transport.get_thumbnails(request, self._timeout_s)
            for row, jpeg in zip(part.tolist(), reply.jpegs, strict=True):
                result[row] = jpeg or None
        return result

    def _accept(self, asked: str | None, reply: VectorsReply, rows: int) -> VectorsReply:
        """Check one reply; the first to a ``get`` that asked for no version of its own fixes the client's."""
        values, status = reply.values, reply.status
        if len(status) != rows or len(values) != rows or values.dtype != self._dtype:
            raise ServerFault(
                f"The reply is broken: {rows} ids were asked, it holds {len(status)} statuses and {len(values)} "
                f"vectors of {values.dtype}. Client and server may be of different releases."
            )
        if not KNOWN_STATUS[status].all():
            raise ServerFault(
                f"The reply holds the unknown status {int(status[~KNOWN_STATUS[status]][0])}. "
                f"The server may be newer than this client: update crossmedia here."
            )
        with self._lock:
            if self.version is None and asked is None:
                self.version = reply.version
            if reply.version != (wanted := asked or self.version):
                raise VersionMismatch(
                    f"The server now serves {reply.version}; this client began with {wanted}. Vectors of two "
                    f"versions do not mix: start the run again, or activate the former version."
                )
            self.generation = max(self.generation or 0, reply.generation)
            self._stats.calls += 1
            self._stats.computed += reply.computed
            self._stats.bytes_sent += 8 * rows
            self._stats.bytes_received += values.nbytes + status.nbytes
        return reply


def _failures(status: npt.NDArray[np.uint8]) -> list[tuple[str, int]]:
    """Name and count of each permanent failure."""
    if not len(status) or status.max() == Status.OK:
        return []
    counts = np.bincount(status, minlength=256)
    return [(failure.name, int(counts[failure])) for failure in PERMANENT if counts[failure]]
