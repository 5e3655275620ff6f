"""The few facts beside the rows: which versions there are, which is active, the generation, heads.

They lie in a hash under each of eight tags spread over the slots, and are read from all copies: the versions are the
union, the generation the largest, the active version the one set last. So no node that is lost or comes back with old
data takes them away, and nobody needs a lock to write.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.cluster.codec import TAGS, command, named_key
from crossmedia.imgserver.storage.cluster.nodes import Nodes
from crossmedia.imgserver.storage.records import Space

COPIES = range(0, TAGS, TAGS // 8)
FORMAT = 1


@dataclass(frozen=True)
class Published:
    """A version, or the features of a backbone, that the cluster knows.

    Attributes:
        space: what it is; ``next_row`` is the number of images when it was published.
        rows: whether its rows are kept; of features mostly only the recipe is.
        stamp: of the publishing: a tag that carries it holds all that was published.
    """

    space: Space
    rows: bool
    stamp: str = ""


class Facts:
    """What is known of a cluster, in memory; ``read`` brings it up to date, and forgets no version.

    Args:
        nodes: the cluster.
    """

    def __init__(self, nodes: Nodes):
        self._nodes = nodes
        self._published: dict[str, Published] = {}
        self._active, self._generation = (0, ""), 1
        self._lock = threading.Lock()

    @property
    def active(self) -> str:
        """The version that is served; empty before anything was published."""
        return self._active[1]

    @property
    def generation(self) -> int:
        """Grows when the content of an image that had been stored changes."""
        return self._generation

    def spaces(self, kind: str = "") -> list[Space]:
        """All spaces, of a kind if one is given, by name."""
        found = [known.space for known in list(self._published.values()) if kind in ("", known.space.kind)]
        return sorted(found, key=lambda space: space.name)

    def space(self, name: str) -> Space | None:
        """The space of that name, or None."""
        known = self._published.get(name)
        return known.space if known else None

    def published(self, name: str) -> Published | None:
        """How a space was published, or None."""
        return self._published.get(name)

    def read(self) -> None:
        """Take over what the copies say.

        Raises:
            StoreError: no copy can be read, or they are of another release.
        """
        replies = self._nodes.ask([(tag, command(b"HGETALL", _facts_key(tag))) for tag in COPIES])
        copies = [dict(zip(r[::2], r[1::2], strict=True)) for r in replies if not isinstance(r, Exception)]
        if not copies:
            raise StoreError(
                f"The cluster {self._nodes.url} answers no question about its versions: {replies[0]}. "
                f"'redis-cli --cluster check' says what is wrong with it."
            )
        with self._lock:
            for copy in copies:
                self._merge(copy)

    def _merge(self, copy: dict[bytes, bytes]) -> None:
        if (found := int(copy.get(b"format", FORMAT))) != FORMAT:
            raise StoreError(
                f"The vectors in {self._nodes.url} have format {found}, and this release reads format {FORMAT}. Serve "
                f"with the release that published them, or empty the cluster and publish anew."
            )
        for name, value in copy.items():
            if name.startswith(b"space "):
                told = json.loads(value)
                new = Published(Space(**told.pop("space")), **told)
                old = self._published.get(new.space.name)
                if old is None or old.stamp < new.stamp or (new.rows and not old.rows):
                    self._published[new.space.name] = new
        if b"active" in copy:
            at, version = json.loads(copy[b"active"])
            self._active = max(self._active, (at, version))
        self._generation = max(self._generation, int(copy.get(b"generation", 1)))

    def declare(self, published: Published) -> None:
        """Say that the cluster has a space.

        Raises:
            StoreError: no copy could be written.
        """
        told = {"space": asdict(published.space), "rows": published.rows, "stamp": published.stamp}
        self._write(lambda key: (b"HSET", key, b"space " + published.space.name.encode(), json.dumps(told).encode()))

    def activate(self, version: str) -> None:
        """Serve ``version`` from now on.

        Raises:
            StoreError: no copy could be written.
        """
        at = max(time.time_ns(), self._active[0] + 1)
        self._write(lambda key: (b"HSET", key, b"active", json.dumps([at, version]).encode()))

    def raise_generation(self, at_least: int = 0, *, grown: bool = True) -> None:
        """Let the generation grow by one, if it has ``grown``, and to ``at_least`` if that is more."""
        new = str(max(self._generation + grown, at_least)).encode()
        self._write(lambda key: (b"HSET", key, b"generation", new))

    def _write(self, words: Callable[[bytes], tuple[bytes, ...]]) -> None:
        requests = [(tag, command(*words(_facts_key(tag)))) for tag in COPIES]
        marks = [(tag, command(b"HSET", _facts_key(tag), b"format", str(FORMAT).encode())) for tag in COPIES]
        replies = self._nodes.ask(requests + marks)
        if all(isinstance(reply, Exception) for reply in replies):
            raise StoreError(f"The cluster {self._nodes.url} took no fact about its versions: {replies[0]}.")
        self.read()

    def keep_head(self, name: str, data: bytes) -> None:
        """Keep a head's bytes beside the facts.

        Raises:
            StoreError: no copy could be written.
        """
        kept = xxhash.xxh3_64_digest(data) + data
        replies: list[Any] = self._nodes.ask([(tag, command(b"SET", _head_key(tag, name), kept)) for tag in COPIES])
        if all(isinstance(reply, Exception) for reply in replies):
            raise StoreError(f"The cluster {self._nodes.url} did not take the head {name}: {replies[0]}.")

    def read_head(self, name: str) -> bytes | None:
        """A head's bytes, from the first copy that is whole; None when there is none."""
        for tag in COPIES:
            (reply,) = self._nodes.ask([(tag, command(b"GET", _head_key(tag, name)))])
            if isinstance(reply, bytes) and xxhash.xxh3_64_digest(reply[8:]) == reply[:8]:
                return reply[8:]
        return None


def _facts_key(tag: int) -> bytes:
    return named_key(tag, "facts")


def card_key(name: str) -> str:
    """The name under which the card of a head is kept, as heads are."""
    return f"{name}.json"


def _head_key(tag: int, name: str) -> bytes:
    return named_key(tag, f"head:{name}")
