"""The servers of a client, what they tell of themselves, and one deadline for whatever is asked of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Self

from crossmedia.imgserver.client.retries import Deadline
from crossmedia.imgserver.client.security import ClientSecurity
from crossmedia.imgserver.client.server_info import ServerInfo
from crossmedia.imgserver.client.servers import Servers
from crossmedia.imgserver.client.transports import Transport


class Connected:
    """What ``ImageClient`` knows of its servers, beside their vectors.

    Args:
        server: as of ``ImageClient``.
        timeout_s: seconds that a call may take in all, retries included.
        security: TLS and token of connections to addresses; None takes what the environment says.

    Attributes:
        servers: where its calls go.
    """

    def __init__(
        self, server: str | Transport | Sequence[str | Transport], timeout_s: float, security: ClientSecurity | None
    ):
        self._server, self._timeout_s, self._security = server, timeout_s, security
        self.servers = Servers(server, security)
        self._generations: dict[Transport, int] = {}
        self._info: ServerInfo | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self.servers.close()

    @property
    def generation(self) -> int | None:
        """The highest generation that the server has told, summed over servers that each own a part; None before."""
        return sum(self._generations.values()) if self._generations else None

    def info(self, timeout_s: float | None = None) -> ServerInfo:
        """Ask the server what it serves; retried until the deadline, as every call.

        Returns:
            of servers that each own a part, what they are together.

        Raises:
            ServerUnavailable: nobody answered within the deadline.
            VersionMismatch: servers that each own a part serve different versions.
            WrongShard: they know another list of servers than this client.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     client.info().dim
            16
        """
        return self._info_of_all(self.deadline(timeout_s))

    def infos(self, timeout_s: float | None = None) -> list[ServerInfo]:
        """As ``info``, of each server that owns a part; they may serve different versions.

        Raises:
            ServerUnavailable: one did not answer within the deadline.
            WrongShard: they know another list of servers than this client.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     [info.ownership.servers for info in client.infos()]
            [()]
        """
        return self._infos(self.deadline(timeout_s))

    def deadline(self, timeout_s: float | None = None) -> Deadline:
        """The deadline of a call that begins now; None takes the client's seconds."""
        return Deadline.after(self._timeout_s if timeout_s is None else timeout_s)

    def _infos(self, deadline: Deadline) -> list[ServerInfo]:
        told = self.servers.infos(deadline)
        with self._lock:
            for transport, info in told:
                self._generations[transport] = max(self._generations.get(transport, 0), info.generation)
        return [info for _, info in told]

    def _info_of_all(self, deadline: Deadline) -> ServerInfo:
        return ServerInfo.of_one_version(self._infos(deadline))

    def described(self, deadline: Deadline) -> ServerInfo:
        """What the servers tell of themselves, asked for once: limits hold, versions and counters go on."""
        if self._info is None:
            self._info = ServerInfo.of_servers(self._infos(deadline))
        return self._info
