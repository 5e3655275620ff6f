"""Where a client's calls go: one server, copies of one, or servers that each own a part of the images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from crossmedia.errors import BadInput, WrongShard
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.addresses import SCHEMES
from crossmedia.imgserver.client.arguments import check_servers
from crossmedia.imgserver.client.failures import printable
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.retries import Deadline, ask
from crossmedia.imgserver.client.security import ClientSecurity
from crossmedia.imgserver.client.server_info import ServerInfo
from crossmedia.imgserver.client.transports import GrpcTransport, Transport
from crossmedia.imgserver.shards import owners, shards_of
from crossmedia.imgserver.wire import GET_INFO
from crossmedia.v1 import image_server_pb2 as pb

Reply = TypeVar("Reply")
RowNumbers = npt.NDArray[np.int64]


class Servers:
    """The transports of a client, and which of them is asked for which image.

    Args:
        servers: an address or a transport, asked for every image; or a list of them, each asked for the images that it
            owns. An address with commas is copies that take turns, unless they say that each owns a part.
        security: TLS and token of connections to addresses; None takes what the environment says.

    Raises:
        BadInput: one is neither, an address has no port, a list is empty or names a server twice.
    """

    def __init__(self, servers: str | Transport | Sequence[str | Transport], security: ClientSecurity | None = None):
        self._security = security
        every: Sequence[str | Transport]
        if isinstance(servers, str) or not isinstance(servers, Sequence):
            every, self._own_parts = [servers], False
        else:
            every, self._own_parts = servers, True
        check_servers(every, security)
        self._names = [server if isinstance(server, str) else f"transport-{n}" for n, server in enumerate(every)]
        if not every or len(set(self._names)) < len(every):
            raise BadInput(f"A list of servers names each once; got {', '.join(self._names) or 'none'}.")
        self.transports = [GrpcTransport(server, security) if isinstance(server, str) else server for server in every]
        self._owner = owners(self._names) if len(every) > 1 else None
        self._former: list[Transport] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.transports)

    def infos(self, deadline: Deadline) -> list[tuple[Transport, ServerInfo]]:
        """What each server that owns a part says of itself, or what the one server or one copy says.

        Raises:
            WrongShard: the servers know another list than this client, or are not where the list says.
            BadInput: an address stands for several servers that each own a part, and does not name them.
            ServerUnavailable, DeadlineExceeded: a server did not answer within the deadline.
            ServerFault: what one says cannot be.
        """

        def told(transport: Transport) -> ServerInfo:
            return replies.info(ask(transport, GET_INFO, pb.GetInfoRequest(), deadline), transport.address)

        with self._lock:  # another thread may be told meanwhile that each of them owns a part
            asked, names, own_parts = self.transports, self._names, self._own_parts
        infos = at_once([partial(told, transport) for transport in asked])
        if own_parts:
            for name, info in zip(names, infos, strict=True):
                self._check(name, info, any(other.ownership.servers for other in infos))
        elif infos[0].ownership.servers and (parts := self._named(names[0], infos[0])):
            with self._lock:
                if not self._own_parts:
                    self._names, self._owner, self._own_parts = parts, owners(parts), True
                    self._former = self.transports  # closed with the others, for other threads may be asking there
                    self.transports = [GrpcTransport(part, self._security) for part in parts]
            return self.infos(deadline)
        return list(zip(asked, infos, strict=True))

    def _named(self, name: str, info: ServerInfo) -> list[str]:
        """The servers that the one address names; empty when it is a single server, which itself says what it owns.

        Never those that a server names: whoever answers would choose where this client goes, and its token with it.
        """
        if name.startswith(SCHEMES):
            raise BadInput(
                f"Each of the servers behind {name} owns a part of the images, so the list must name them: "
                f"{printable(','.join(info.ownership.servers))}."
            )
        return [part.strip() for part in name.split(",") if part.strip()] if "," in name else []

    def _check(self, name: str, info: ServerInfo, parts: bool) -> None:
        """Refuse a server that sees itself or the list in another way than this client."""
        ownership = info.ownership
        if not parts:  # servers that hold all images serve a part as well as any
            return
        if set(ownership.servers) != set(self._names):
            told = printable(", ".join(ownership.servers))
            raise WrongShard(
                f"The image server {name} shares the images out among {told or 'nobody'}; this client was given "
                f"{', '.join(sorted(self._names))}. The lists must be the same, addresses written alike: start the "
                f"server with 'imgserver serve --servers', or the run with --server, of the right one."
            )
        if ownership.server_name != name:
            raise WrongShard(
                f"The image server at {name} was started as --me {ownership.server_name}. One of the two is wrong: "
                f"each server of a list is started under the address at which clients find it."
            )

    def split(self, ids: Ids) -> list[tuple[Transport, RowNumbers]]:
        """Whom to ask for which rows of ``ids``, shape (n,); servers that own none of them are left out."""
        if self._owner is None:
            return [(self.transports[0], np.arange(len(ids)))]
        owner = self._owner[shards_of(ids)]
        parts = [np.flatnonzero(owner == place) for place in range(len(self.transports))]
        return [(transport, rows) for transport, rows in zip(self.transports, parts, strict=True) if len(rows)]

    def of_each(self, ids: Ids, call: Callable[[Transport, RowNumbers], Reply]) -> list[tuple[RowNumbers, Reply]]:
        """``call`` for the rows of each server, all at once; in the servers' order."""
        parts = self.split(ids)
        replies = at_once([partial(call, transport, rows) for transport, rows in parts])
        return [(rows, reply) for (_, rows), reply in zip(parts, replies, strict=True)]

    def close(self) -> None:
        """Give up the connections."""
        for transport in (*self.transports, *self._former):
            transport.close()


def at_once(calls: Sequence[Callable[[], Reply]]) -> list[Reply]:
    """What the calls return, made side by side; threads cost some 50 µs each, and none is left for a fork to break."""
    if len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(len(calls), thread_name_prefix="server") as pool:
        return list(pool.map(lambda call: call(), calls))
