"""A head on one server or several: each answers for the images that it owns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from imgserver.client.client import ImageClient
from imgserver.client.ids import Ids
from imgserver.client.results import FetchStats, Status, Vectors
from imgserver.client.retries import seconds_left
from imgserver.client.security import ClientSecurity
from imgserver.client.transports import Transport
from imgserver.errors import BadInput, VersionMismatch
from imgserver.shards import owners, shards_of

Reply = TypeVar("Reply")
RowNumbers = npt.NDArray[np.int64]
# A head that was put may be pushed out by others of its run before it is asked for, but not for ever.
MOST_TRIES = 4


class HeadServers:
    """Vectors and gradients of a head that this process owns, through the servers that hold the features.

    A server that does not hold the head, because it is new there or because the server was restarted, is given it, and
    asked again. All calls are pure functions of the head's version and the ids, so a server that went away in the
    middle is simply asked once more when it is back.

    Args:
        servers: addresses of daemons, or transports; each answers for the images that it owns. With several, never one
            name for them all: it has to be known which server owns what.
        run_id: names the run to the servers.
        timeout_s: seconds that a call may take in all, retries included.
        security: TLS and token of connections to addresses; None takes what the environment says.

    Raises:
        BadInput: no server, or one twice.
    """

    def __init__(
        self,
        servers: Sequence[str | Transport],
        run_id: str,
        timeout_s: float = 30.0,
        security: ClientSecurity | None = None,
    ):
        names = [server if isinstance(server, str) else f"transport-{n}" for n, server in enumerate(servers)]
        if not names or len(set(names)) < len(names):
            raise BadInput(f"A learning head takes a list of servers, each once; got {', '.join(names) or 'none'}.")
        self.clients = [
            ImageClient(server, timeout_s=timeout_s, dtype="float32", security=security) for server in servers
        ]
        self.run_id, self.timeout_s = run_id, timeout_s
        self._owners = owners(names)
        self._pool = ThreadPoolExecutor(len(names), thread_name_prefix="head") if len(names) > 1 else None
        self._held: list[str] = [""] * len(names)  # the version that each server was given last

    def __enter__(self) -> HeadServers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        if self._pool is not None:
            self._pool.shutdown()
        for client in self.clients:
            client.close()

    def backbone(self) -> str:
        """The backbone whose features the servers hold; the same on all of them.

        Raises:
            VersionMismatch: they hold none, or features of different ones.
            NotReady: a server has none.
        """
        found = {}
        for number, client in enumerate(self.clients):
            info = client.info()
            if not info.version:
                client.get([0])  # raises NotReady with the server's own words
                info = client.info()
            found[info.features()] = number
        if len(found) > 1:
            raise VersionMismatch(f"The servers hold features of different backbones: {', '.join(sorted(found))}.")
        return next(iter(found))

    def features(self, image_ids: Ids, version: str) -> Vectors:
        """Features of images, fp32 values of what is stored; for starting a head, not for training."""
        return self._vectors(image_ids, version, lambda client, ids, left: client.get(ids, left, version))

    def vectors(self, image_ids: Ids, version: str, head: Callable[[], bytes]) -> Vectors:
        """Vectors of a head.

        Args:
            image_ids: shape (n,), each once, none null.
            version: of the head.
            head: gives its weights, when a server has to be given them.

        Raises:
            CrossMediaError: as ``ImageClient.get``.
        """
        return self._vectors(
            image_ids,
            version,
            lambda client, ids, left: self._with_head(
                client, version, head, left, lambda seconds: client.get(ids, seconds, version)
            ),
        )

    def gradient(
        self, image_ids: Ids, version: str, d_vectors: npt.NDArray[np.float32], head: Callable[[], bytes]
    ) -> list[bytes]:
        """Blocks whose sum is the gradient of the head's weights; always in the same order for the same servers.

        Args:
            image_ids: shape (n,), as in ``vectors``.
            version: of the head.
            d_vectors: shape (n, D), zeros where there was no vector.
            head: gives its weights, when a server has to be given them again.

        Raises:
            CrossMediaError: as ``ImageClient.head_gradient``.
        """

        def call(client: ImageClient, rows: RowNumbers, left: float) -> list[bytes]:
            return self._with_head(
                client,
                version,
                head,
                left,
                lambda seconds: client.head_gradient(version, image_ids[rows], d_vectors[rows], seconds),
            )

        return [block for _, blocks in self._each(image_ids, call) for block in blocks]

    @property
    def stats(self) -> FetchStats:
        """Running totals over the servers."""
        total = FetchStats()
        for client in self.clients:
            total.add(client.stats)
        return total

    @property
    def generation(self) -> int:
        """The highest generation that a server has told."""
        return max((client.generation or 0 for client in self.clients), default=0)

    def _vectors(self, image_ids: Ids, version: str, call: Callable[[ImageClient, Ids, float], Vectors]) -> Vectors:
        parts = self._each(image_ids, lambda client, rows, left: call(client, image_ids[rows], left))
        if len(parts) == 1:
            return parts[0][1]
        values = np.zeros((len(image_ids), parts[0][1].values.shape[1]), dtype=np.float32)
        status = np.full(len(image_ids), Status.NOT_FOUND, dtype=np.uint8)
        for rows, found in parts:
            values[rows], status[rows] = found.values, found.status
        return Vectors(values, status, version, self.generation)

    def _each(
        self, image_ids: Ids, call: Callable[[ImageClient, RowNumbers, float], Reply]
    ) -> list[tuple[RowNumbers, Reply]]:
        """``call`` for the rows of each server, all at once; the servers' order."""
        if self._pool is None:
            rows = np.arange(len(image_ids))
            return [(rows, call(self.clients[0], rows, self.timeout_s))]
        owner = self._owners[shards_of(image_ids)]
        parts = [np.flatnonzero(owner == place) for place in range(len(self.clients))]
        calls = [
            self._pool.submit(call, client, rows, self.timeout_s)
            for client, rows in zip(self.clients, parts, strict=True)
        ]
        return [(rows, done.result()) for rows, done in zip(parts, calls, strict=True)]

    def _with_head(
        self,
        client: ImageClient,
        version: str,
        head: Callable[[], bytes],
        timeout_s: float,
        call: Callable[[float], Reply],
    ) -> Reply:
        """Make a call for a head; give the server the head first if it was not given it, and again if it lost it."""
        deadline = time.monotonic() + timeout_s
        place = self.clients.index(client)
        for tries_left in range(MOST_TRIES, -1, -1):
            if self._held[place] != version:
                client.put_head(self.run_id, version, head(), seconds_left(deadline, timeout_s))
                self._held[place] = version
            try:
                return call(seconds_left(deadline, timeout_s))
            except VersionMismatch:
                self._held[place] = ""
                if not tries_left:
                    raise
        raise AssertionError("This is a bug: the last try returns or raises.")
