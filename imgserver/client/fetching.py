"""Vectors from the servers that own them: in calls they take, several in flight, tried again until one deadline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from crossmedia.errors import CrossMediaError, DeadlineExceeded, Overloaded, ServerUnavailable
from crossmedia.imgserver.client.cache import VectorCache
from crossmedia.imgserver.client.failures import broken
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.replies import Asked
from crossmedia.imgserver.client.results import DTYPE_CODES
from crossmedia.imgserver.client.retries import Deadline, Tries
from crossmedia.imgserver.client.servers import Servers
from crossmedia.imgserver.client.transports import Pending, Transport
from crossmedia.imgserver.wire import VectorsReply
from crossmedia.status import TRANSIENT
from crossmedia.v1 import image_server_pb2 as pb


@dataclass(frozen=True, slots=True)
class _Part:
    """What goes into one call: whom to ask, and rows of a ``Fetch`` with their ids, both of shape (n,)."""

    transport: Transport
    rows: Ids
    ids: Ids


class Fetch:
    """One ``get``: parts of the unique ids, each in flight, answered, or waiting for another try.

    Args:
        servers: carry the calls, each for the ids that it owns.
        ids: shape (n,), each once.
        asked: of every server.
        accept: checks the reply that a transport brought for some ids.
        deadline: of all of it.
        cache: takes what comes; None: there is none.

    Attributes:
        values: shape (n, D), once it ran.
        status: shape (n,), likewise.
        retries: calls that were made again because a server was away or overloaded.
    """

    def __init__(
        self,
        servers: Servers,
        ids: Ids,
        asked: Asked,
        accept: Callable[[Transport, VectorsReply, Ids], VectorsReply],
        deadline: Deadline,
        cache: VectorCache | None = None,
    ):
        self.cache = cache
        self.servers, self.ids, self.asked, self.accept, self.deadline = servers, ids, asked, accept, deadline
        dim = asked.info.dim_of(asked.version)
        self.step = asked.info.limits.ids_per_call(dim * np.dtype(asked.dtype).itemsize)
        self.values = np.zeros((0, dim), dtype=asked.dtype)
        self.status = np.zeros(0, dtype=np.uint8)
        self._all = np.arange(len(ids))
        self._late = np.zeros(len(ids), dtype=np.uint8)  # of rows that are asked for again, why
        self.retries = 0

    def run(self, in_flight: int) -> None:
        """Fetch until every row has a final status, or raise at the deadline.

        Args:
            in_flight: how many calls to each server may be under way at once.
        """
        if not len(self.ids):
            return
        rows = self._all
        tries = Tries(self.deadline)
        while True:
            rows, error = self._one_round(rows, in_flight * len(self.servers))
            if not len(rows):
                tries.answered()
                return
            tries.wait(error)

    def _one_round(self, rows: Ids, in_flight: int) -> tuple[Ids, CrossMediaError]:
        """Ask once for ``rows``; return those to ask for again, and why."""
        parts = deque(self._parts(rows))
        alone = len(parts) == 1
        flying: deque[tuple[_Part, Pending, float]] = deque()
        again: list[Ids] = []
        why: CrossMediaError = DeadlineExceeded("")
        while parts or flying:
            while parts and len(flying) < in_flight:
                part = parts.popleft()
                asked_at = time.monotonic()
                flying.append((part, self._start(part, alone), asked_at))
            part, call, asked_at = flying.popleft()
            try:
                reply = self.accept(part.transport, call.result(), part.ids)
            except (ServerUnavailable, Overloaded) as error:
                self.retries += 1
                again.append(part.rows)
                why = error
                continue
            self._take(part, reply)
            if self.cache is not None:
                self.cache.take(part.transport, reply, part.ids, asked_at)
            if reply.status.max() >= min(TRANSIENT):
                late = np.isin(reply.status, TRANSIENT)
                again.append(waiting := part.rows[late])
                # FAILED is above TIMED_OUT: the last try may have no time to find out what an earlier one did.
                self._late[waiting] = np.maximum(self._late[waiting], reply.status[late])
                first = int(waiting[0])
                why = self.asked.info.not_ready(
                    int(self.ids[first]), int(self._late[first]), len(waiting), self.deadline.timeout_s
                )
        return (np.concatenate(again) if again else rows[:0]), why

    def _parts(self, rows: Ids) -> list[_Part]:
        """Rows that go into one call each; the servers take turns, so that all are busy from the start."""
        ids = self.ids if rows is self._all else self.ids[rows]
        if len(self.servers) == 1 and len(ids) <= self.step:
            return [_Part(self.servers.transports[0], rows, ids)]
        of_servers = [
            [
                _Part(transport, rows[mine[start : start + self.step]], ids[mine[start : start + self.step]])
                for start in range(0, len(mine), self.step)
            ]
            for transport, mine in self.servers.split(ids)
        ]
        return [part for part in chain.from_iterable(zip_longest(*of_servers)) if part is not None]

    def _take(self, part: _Part, reply: VectorsReply) -> None:
        """Put the rows of a reply in their places; a reply that holds all of them is taken as it is."""
        dim, address = reply.values.shape[1], part.transport.address
        if len(part.rows) == len(self.ids):
            self.values, self.status = reply.values, reply.status
            return
        if len(self.status) != len(self.ids):
            try:
                self.values = np.zeros((len(self.ids), dim), dtype=self.asked.dtype)
            except MemoryError:
                what = f"{len(self.ids)} vectors of {dim} numbers, of {reply.version}, do not fit into memory here"
                raise broken(address, what) from None
            self.status = np.zeros(len(self.ids), dtype=np.uint8)
        elif dim != self.values.shape[1]:
            raise broken(address, f"some of its vectors have {dim} numbers, others {self.values.shape[1]}")
        elif not self.status.flags.writeable:  # they are the former reply's own bytes
            self.values, self.status = self.values.copy(), self.status.copy()
        self.values[part.rows], self.status[part.rows] = reply.values, reply.status

    def _start(self, part: _Part, alone: bool) -> Pending:
        way, block = part.transport, np.ascontiguousarray(part.ids, dtype="<i8").tobytes()
        request = pb.GetVectorsRequest(version=self.asked.version, image_ids=block, dtype=DTYPE_CODES[self.asked.dtype])
        start = getattr(way, "get_vectors_alone", way.get_vectors) if alone else way.get_vectors
        pending: Pending = start(request, self.deadline.left())
        return pending
