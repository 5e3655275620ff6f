"""The nodes of a cluster: which tag lies where, many commands in one round trip, and nodes that do not answer.

Commands of one request go to all nodes before the first reply is read, so the nodes work at the same time. A node that
fails is not asked again until the watch sees it answer: it costs one request a time-out, not every request.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.storage.cluster.codec import SLOTS, TAG_NAMES, command, slot_of
from crossmedia.imgserver.storage.cluster.url import RedisUrl

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 0.5
REPLY_TIMEOUT_S = 1.0

Request = tuple[int, bytes]  # a tag, and a command about keys of that tag


class Lost(Exception):
    """What stands in the place of a reply that did not come; the text says why."""


class Node:
    """One node: its connections, and since when it does not answer.

    Args:
        host: its name or address.
        port: its port.
        url: how to talk to it.
    """

    def __init__(self, host: str, port: int, url: RedisUrl):
        import redis

        self.address = f"{host}:{port}"
        kind: Any = redis.SSLConnection if url.tls else redis.Connection
        self.pool: Any = redis.ConnectionPool(
            connection_class=kind,
            host=host,
            port=port,
            username=url.user or None,
            password=url.password or None,
            socket_timeout=REPLY_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            protocol=2,
        )
        self.trouble = ""

    def ask(self, *words: bytes) -> Any:
        """One command, whatever is known of the node.

        Raises:
            redis.RedisError: it does not answer, or refuses.
        """
        connection = self.pool.get_connection()
        try:
            connection.send_packed_command([command(*words)])
            return connection.read_response()
        finally:
            self.pool.release(connection)


class Nodes:
    """A cluster, or one Redis.

    Args:
        url: where it is.

    Raises:
        BadInput: the Redis client is not installed, or several servers are named that are no cluster.
        StoreError: none of the nodes answers.
    """

    def __init__(self, url: RedisUrl):
        try:
            import hiredis  # noqa: F401  # redis takes it by itself; without it, it would parse replies in Python
            import redis
        except ImportError as error:
            raise BadInput(
                f"A store behind redis:// needs the Redis client ({error.name} is missing). "
                f'Install it with: pip install "crossmedia[redis]"'
            ) from error
        self.url = url
        self._errors: Any = redis.exceptions
        self._lock, self._losing = threading.Lock(), threading.Lock()
        self._nodes: dict[str, Node] = {}
        self._owners: list[Node | None] = [None] * len(TAG_NAMES)
        self._named = [self._node(host, port) for host, port in url.hosts]
        self._clustered = self._is_cluster()
        self.find_owners()

    def _node(self, host: str, port: int) -> Node:
        address = f"{host}:{port}"
        if address not in self._nodes:
            self._nodes[address] = Node(host, port, self.url)
        return self._nodes[address]

    def _is_cluster(self) -> bool:
        reasons = []
        for node in self._named:
            try:
                clustered = b"cluster_enabled:1" in node.ask(b"INFO", b"cluster")
            except self._errors.RedisError as error:
                reasons.append(f"{node.address}: {error}")
                continue
            if not clustered and len(self._named) > 1:
                raise BadInput(
                    f"{self.url} names {len(self._named)} servers, and {node.address} is not in cluster mode. Name "
                    f"one server, or make them a cluster: redis-cli --cluster create …"
                )
            return clustered
        raise StoreError(f"No node of {self.url} answers ({'; '.join(reasons)}). Start them, or correct --store.")

    def close(self) -> None:
        """Close all connections."""
        for node in self._nodes.values():
            node.pool.disconnect()

    @property
    def all(self) -> list[Node]:
        """The nodes that own tags."""
        return list({owner.address: owner for owner in self._owners if owner is not None}.values())

    @property
    def lost(self) -> list[Node]:
        """The nodes that own tags and do not answer."""
        return [node for node in self.all if node.trouble]

    def owner(self, tag: int) -> Node | None:
        """The node of a tag."""
        return self._owners[tag]

    def find_owners(self) -> None:
        """Ask which node has which slots; when no node says, what was known stands."""
        if not self._clustered:
            self._owners = [self._named[0]] * len(TAG_NAMES)
            return
        with self._lock:
            for node in sorted({*self._nodes.values()}, key=lambda node: bool(node.trouble)):
                try:
                    ranges = node.ask(b"CLUSTER", b"SLOTS")
                except self._errors.RedisError as error:
                    self._lose(node, error)
                    continue
                owners: list[Node | None] = [None] * SLOTS
                for first, last, (host, port, *_), *_ in ranges:
                    # A node that was not told its own address leaves it empty.
                    found = self._node(host.decode() if host else node.address.rpartition(":")[0], port)
                    owners[first : last + 1] = [found] * (last + 1 - first)
                self._owners = [owners[slot_of(tag)] for tag in TAG_NAMES]
                return

    def revive(self) -> None:
        """Look whether nodes that did not answer do so again."""
        for node in self.lost:
            try:
                node.ask(b"PING")
            except self._errors.RedisError as error:
                node.trouble = str(error) or type(error).__name__
            else:
                log.info("the Redis node %s answers again", node.address)
                node.trouble = ""

    def ask(self, requests: Iterable[Request]) -> list[Any]:
        """The reply to each request, in order; an exception in its place where none came.

        What Redis refuses (no memory, no permission) stands there as its own ``ResponseError``, else it is ``Lost``.
        """
        todo = list(requests)
        replies: list[Any] = [None] * len(todo)
        self._ask(todo, range(len(todo)), replies)
        moved = [i for i, reply in enumerate(replies) if isinstance(reply, self._errors.MovedError)]
        if moved:
            self.find_owners()
            self._ask(todo, moved, replies)
        return [Lost(str(r)) if isinstance(r, self._unserved) else r for r in replies]

    @property
    def _unserved(self) -> tuple[Any, ...]:
        """A slot that moves, or that nobody serves: the vector is not to be had now."""
        errors = self._errors
        return errors.MovedError, errors.AskError, errors.TryAgainError, errors.ClusterDownError

    def _ask(self, requests: list[Request], places: Iterable[int], replies: list[Any]) -> None:
        by_node: dict[str, list[int]] = {}
        for place in places:
            node = self._owners[requests[place][0]]
            if node is None:
                replies[place] = Lost("no node serves its slot")
            elif node.trouble:
                replies[place] = Lost(f"{node.address}: {node.trouble}")
            else:
                by_node.setdefault(node.address, []).append(place)
        sent: list[tuple[Node, Any, list[int]]] = []
        try:
            for address, mine in by_node.items():
                node, connection = self._nodes[address], None
                try:
                    connection = node.pool.get_connection()
                    connection.send_packed_command([b"".join(requests[place][1] for place in mine)])
                except (self._errors.RedisError, OSError) as error:
                    if connection is not None:
                        connection.disconnect()
                        node.pool.release(connection)
                    self._fail(node, error, mine, replies)
                else:
                    sent.append((node, connection, mine))
            while sent:
                node, connection, mine = sent[-1]
                self._read(node, connection, mine, replies)
                sent.pop()
                node.pool.release(connection)
        finally:
            for node, connection, _ in sent:  # something nobody foresaw: no reply may be left for the next request
                connection.disconnect()
                node.pool.release(connection)

    def _read(self, node: Node, connection: Any, mine: list[int], replies: list[Any]) -> None:
        for done, place in enumerate(mine):
            try:
                replies[place] = connection.read_response()
            except self._errors.ResponseError as error:
                replies[place] = error
            except (self._errors.RedisError, OSError) as error:
                connection.disconnect()
                self._fail(node, error, mine[done:], replies)
                return

    def _fail(self, node: Node, error: Exception, mine: list[int], replies: list[Any]) -> None:
        self._lose(node, error)
        for place in mine:
            replies[place] = Lost(f"{node.address}: {error}")

    def _lose(self, node: Node, error: Exception) -> None:
        with self._losing:
            first, node.trouble = not node.trouble, str(error) or type(error).__name__
        if first:  # of the requests that met it at the same time
            log.error("the Redis node %s does not answer: %s; what it holds counts as lost", node.address, error)
