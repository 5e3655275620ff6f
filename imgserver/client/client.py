"""The client that trainers use: ids in any order and number, vectors in the same order, one deadline for it all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from crossmedia.v1 import image_server_pb2 as pb

from imgserver.client.putting import put_photos
from imgserver.client.results import (
    DTYPE_CODES,
    KNOWN_STATUS,
    PERMANENT,
    TRANSIENT,
    FetchStats,
    ServerInfo,
    Status,
    Vectors,
)
from imgserver.client.retries import backoff, seconds_left, wait
from imgserver.client.transports import GrpcTransport, Pending, Transport
from imgserver.errors import (
    CrossMediaError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerFault,
    ServerUnavailable,
    TooManyMissingImages,
    VersionMismatch,
)
from imgserver.wire import VectorsReply

NULL_IMAGE = -1
# A rule in per cent says nothing about a handful of ids.
MISSING_RULE_FROM = 100

Ids = npt.NDArray[np.int64]
_STATUS_NAMES = {int(status): status.name for status in Status}


class ImageClient:
    """Fetches image vectors by id.

    It asks for each id once, splits what exceeds the server's limits, keeps several calls in flight, and retries what
    can be retried (server away, overload, transient statuses) until the one deadline of the ``get`` is over. The first
    reply fixes the version; a reply of another version is an error, so vectors of two versions never mix.

        with ImageClient("localhost:7070") as client:
            vectors = client.get([1, 2])
            vectors.values, vectors.status, vectors.version

    Args:
        server: address of a daemon, or a transport.
        version: the version that must be served; None takes the active one of the first reply.
        timeout_s: seconds that a ``get`` may take in all, retries included.
        dtype: how vectors travel: ``float16``, or ``float32``, which is the widened value where fp16 is stored.
        in_flight: how many calls of one ``get`` may be under way at once.
    """

    def __init__(
        self,
        server: str | Transport,
        *,
        version: str | None = None,
        timeout_s: float = 30.0,
        dtype: Literal["float16", "float32"] = "float16",
        in_flight: int = 4,
    ):
        if dtype not in DTYPE_CODES:
            raise InvalidRequest(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_CODES)}.")
        self._transport: Transport = GrpcTransport(server) if isinstance(server, str) else server
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
        deadline = time.monotonic() + timeout_s
        for pause in backoff():
            try:
                return ServerInfo.from_message(self._transport.get_info(seconds_left(deadline, timeout_s)))
            except (ServerUnavailable, Overloaded) as error:
                wait(error, pause, deadline)
        raise AssertionError("This is a bug: the backoff never ends.")

    def get(self, image_ids: Sequence[int] | npt.NDArray[Any], timeout_s: float | None = None) -> Vectors:
        """Fetch the vectors of ``image_ids``, in their order.

        Args:
            image_ids: shape (n,), integers; duplicates are asked for once, -1 is the null image: never sent, NOT_FOUND
                in the result and not counted as missing.
            timeout_s: seconds for this ``get``; None takes the client's.

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
        asked = _as_ids(image_ids)
        unique, place = _deduplicated(asked)
        if self._limits is None:
            self._limits = self.info(timeout_s)
        fetch = _Fetch(self, unique, deadline, timeout_s, self._limits)
        fetch.run()
        values, status = fetch.values, fetch.status
        with self._lock:
            self._stats.requested += len(asked)
            self._stats.unique += len(unique)
            self._stats.seconds += time.monotonic() - started
            for failure, count in _failures(status):
                self._stats.missing[failure] = self._stats.missing.get(failure, 0) + count
        if place is not None:
            values, status = _in_place(values, place, 0), _in_place(status, place, Status.NOT_FOUND)
        return Vectors(values, status, self.version or "", self.generation or 0)

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

    def thumbnails(self, image_ids: Sequence[int] | npt.NDArray[Any], max_side: int = 128) -> list[bytes | None]:
        """Small JPEGs of the photos, in the order asked; None where there is no photo or it cannot be decoded."""
        ids = _as_ids(image_ids)
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

    def check_missing(self, max_missing: float) -> None:
        """Refuse to go on when too many of the images asked for so far are permanently missing.

        The rule starts at 100 ids: before that a share says nothing.

        Raises:
            TooManyMissingImages: the share of missing images is above ``max_missing``.
        """
        stats = self._stats
        if stats.unique >= MISSING_RULE_FROM and stats.missing_fraction > max_missing:
            counts = ", ".join(f"{name} {count}" for name, count in sorted(stats.missing.items()))
            raise TooManyMissingImages(
                f"{stats.missing_fraction:.1%} of the {stats.unique} images asked for are missing ({counts}), more "
                f"than max_missing {max_missing:.1%}. Check that samples and catalogue use the same image ids, see the "
                f"rejects of 'imgserver precompute', or raise max_missing."
            )

    def _accept(self, reply: VectorsReply, rows: int) -> VectorsReply:
        """Check one reply; the first fixes the version."""
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
            if self.version is None:
                self.version = reply.version
            if reply.version != self.version:
                raise VersionMismatch(
                    f"The server now serves {reply.version}; this client began with {self.version}. Vectors of two "
                    f"versions do not mix: start the run again, or activate the former version."
                )
            self.generation = max(self.generation or 0, reply.generation)
            self._stats.calls += 1
            self._stats.computed += reply.computed
            self._stats.bytes_received += values.nbytes + status.nbytes
        return reply


class _Fetch:
    """One ``get``: parts of the unique ids, each in flight, answered, or waiting for another try."""

    def __init__(self, client: ImageClient, ids: Ids, deadline: float, timeout_s: float, limits: ServerInfo):
        self.client, self.ids, self.deadline, self.timeout_s = client, ids, deadline, timeout_s
        itemsize = np.dtype(client._dtype).itemsize
        # An id costs 8 bytes in the request, its vector and status byte in the reply; 1 KiB is left for the rest.
        row_bytes = max(8, limits.dim * itemsize + 1)
        by_bytes = (limits.max_message_bytes - 1024) // row_bytes
        self.step = max(1, min(limits.max_ids_per_call, by_bytes))
        self.values = np.zeros((0, limits.dim), dtype=client._dtype)
        self.status = np.zeros(0, dtype=np.uint8)

    def run(self) -> None:
        """Fetch until every row has a final status, or raise at the deadline."""
        rows = np.arange(len(self.ids))
        if not len(rows):
            return
        for pause in backoff():
            rows, error = self._one_round(rows)
            if not len(rows):
                return
            wait(error, pause, self.deadline)

    def _one_round(self, rows: Ids) -> tuple[Ids, CrossMediaError]:
        """Ask once for ``rows``; return those to ask for again, and why."""
        parts = deque(rows[start : start + self.step] for start in range(0, len(rows), self.step))
        flying: deque[tuple[Ids, Pending]] = deque()
        again: list[Ids] = []
        why: CrossMediaError = DeadlineExceeded("")
        while parts or flying:
            while parts and len(flying) < self.client._in_flight:
                part = parts.popleft()
                flying.append((part, self._start(part)))
            part, call = flying.popleft()
            try:
                reply = self.client._accept(call.result(), len(part))
            except (ServerUnavailable, Overloaded) as error:
                again.append(part)
                why = error
                continue
            self._take(part, reply)
            late = np.isin(reply.status, TRANSIENT) if reply.status.max() >= min(TRANSIENT) else part[:0]
            if late.any():
                again.append(part[late])
                first = part[late][0]
                why = DeadlineExceeded(
                    f"{int(late.sum())} images were not ready within {self.timeout_s:.3g} s (the first: image "
                    f"{self.ids[first]}, {_STATUS_NAMES[int(self.status[first])]}). Run 'imgserver precompute' first, "
                    f"or allow more time."
                )
        return (np.concatenate(again) if again else rows[:0]), why

    def _take(self, part: Ids, reply: VectorsReply) -> None:
        """Put the rows of a reply in their places; a reply that holds all of them is taken as it is."""
        if len(part) == len(self.ids):
            self.values, self.status = reply.values, reply.status
            return
        if len(self.status) != len(self.ids):
            self.values = np.zeros((len(self.ids), reply.values.shape[1]), dtype=self.client._dtype)
            self.status = np.zeros(len(self.ids), dtype=np.uint8)
        elif not self.status.flags.writeable:  # they are the former reply's own bytes
            self.values, self.status = self.values.copy(), self.status.copy()
        self.values[part], self.status[part] = reply.values, reply.status

    def _start(self, part: Ids) -> Pending:
        block = self.ids[part].astype("<i8").tobytes()
        request = pb.GetVectorsRequest(
            version=self.client.version or "", image_ids=block, dtype=DTYPE_CODES[self.client._dtype]
        )
        self.client._stats.bytes_sent += len(block)
        return self.client._transport.get_vectors(request, seconds_left(self.deadline, self.timeout_s))


def _as_ids(image_ids: Sequence[int] | npt.NDArray[Any]) -> Ids:
    ids = np.asarray(image_ids)
    if ids.size == 0:
        return np.zeros(0, dtype=np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidRequest(f"Image ids must be a flat list of integers; got shape {ids.shape} of {ids.dtype}.")
    ids = ids.astype(np.int64)
    if ids.min() < NULL_IMAGE:
        raise InvalidRequest(f"Image id {ids.min()} is negative; ids are 0 or more, and -1 stands for no image.")
    return ids


def _deduplicated(asked: Ids) -> tuple[Ids, Ids | None]:
    """The ids to ask for, each once and without the null image, and the place of each asked id among them.

    The place of a null image is the last row, -1. No places at all when the ids can be asked for as they are.
    """
    if len(asked) and asked[0] != NULL_IMAGE and bool((asked[1:] > asked[:-1]).all()):
        return asked, None
    # Arrow's hash takes a half to a tenth of the time of numpy's sort.
    encoded = pa.array(asked).dictionary_encode()
    unique, place = encoded.dictionary.to_numpy(), encoded.indices.to_numpy()
    null = np.flatnonzero(unique == NULL_IMAGE)
    if len(null):
        unique = np.delete(unique, null)
        place = np.where(place == null[0], -1, place - (place > null[0]))
    elif len(unique) == len(asked):
        return asked, None
    return unique, place


def _in_place(rows: npt.NDArray[Any], place: Ids, null: int) -> npt.NDArray[Any]:
    """``rows`` in the order of ``place``; -1 stands for a row full of ``null``."""
    if len(rows) and place.min(initial=0) >= 0:
        return np.take(rows, place, axis=0, mode="clip")  # the places are right; "clip" spares numpy its own check
    return np.concatenate([rows, np.full((1, *rows.shape[1:]), null, dtype=rows.dtype)])[place]


def _failures(status: npt.NDArray[np.uint8]) -> list[tuple[str, int]]:
    """Name and count of each permanent failure."""
    if not len(status) or status.max() == Status.OK:
        return []
    counts = np.bincount(status, minlength=256)
    return [(failure.name, int(counts[failure])) for failure in PERMANENT if counts[failure]]
