"""The store that copies of a server share: rows and facts in Redis, nothing of its own.

Redis is a cache. A key that is not there is a miss, a damaged value is a miss, and a node that is gone makes misses of
all that it held.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import CrossMediaError, StoreError, VersionMismatch
from crossmedia.imgserver.storage.cluster.codec import TAGS, Codec, Grouped, Mask, Values, command, grouped, tags_of
from crossmedia.imgserver.storage.cluster.facts import Facts, card_key
from crossmedia.imgserver.storage.cluster.nodes import Nodes
from crossmedia.imgserver.storage.cluster.url import RedisUrl
from crossmedia.imgserver.storage.records import Ids, Rows, Space
from crossmedia.imgserver.storage.stores import Stored
from crossmedia.status import Status, is_ok

log = logging.getLogger(__name__)

WATCH_S = 1.0


class RedisStore:
    """Features and vectors in a Redis-protocol cluster, or in one Redis.

    Args:
        url: where it is.
        folder: of this machine, for what a server keeps of its own: the converted backbone.

    Raises:
        BadInput: the URL is none, or the Redis client is not installed.
        StoreError: no node answers.
    """

    def __init__(self, url: str, folder: Path):
        self.url, self.folder = RedisUrl.parse(url), folder
        self.filling_advice = f"Run 'imgserver publish --to {self.url}' where the store is"
        self.similarity_advice = (
            "Vectors in Redis are searched by no index: serve from the store itself, where 'imgserver index' has run"
        )
        self.nodes = Nodes(self.url)
        self.index = Facts(self.nodes)
        self.evicted = [False] * TAGS
        self.damaged = 0  # what is damaged here is not there
        self._memory = (0, 0)
        self._trouble = ""
        self._closing = threading.Event()
        self.index.read()
        self._look()
        self._watcher = threading.Thread(target=self._watch, name="watch-redis", daemon=True)
        self._watcher.start()

    def __str__(self) -> str:
        return str(self.url)

    def close(self) -> None:
        """Close the connections."""
        self._closing.set()
        self._watcher.join()
        self.nodes.close()

    def _watch(self) -> None:
        """Each second: who owns what, who is back, what was published."""
        while not self._closing.wait(WATCH_S):
            try:
                self.nodes.find_owners()
                self.nodes.revive()
                self.index.read()
                self._look()
                self._trouble = ""
            except CrossMediaError as error:
                self._say(str(error))
            except Exception:
                log.exception("the cluster could not be watched")

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:  # once, not every second
            log.error("%s", trouble)
        self._trouble = trouble

    def _look(self) -> None:
        """Memory, and whether a node has thrown keys away."""
        infos = {}
        for tag in range(TAGS):
            owner = self.nodes.owner(tag)
            if owner is not None and not owner.trouble and owner.address not in infos:
                replies = self.nodes.ask([(tag, command(b"INFO", part)) for part in (b"memory", b"stats")])
                if not any(isinstance(reply, Exception) for reply in replies):
                    infos[owner.address] = _numbers(b"\n".join(replies))
        used = sum(info["used_memory"] for info in infos.values())
        most = sum(info.get("maxmemory") or info.get("total_system_memory", 0) for info in infos.values())
        self._memory = used, max(0, most - used)
        owners = [self.nodes.owner(tag) for tag in range(TAGS)]
        self.evicted = [
            bool(owner is not None and infos.get(owner.address, {}).get("evicted_keys", 0)) for owner in owners
        ]

    @property
    def evicted_keys(self) -> bool:
        """Whether a node has thrown keys away for want of memory since it started."""
        self._look()
        return any(self.evicted)

    @property
    def readable(self) -> bool:
        """Whether any node answers."""
        return len(self.nodes.lost) < len(self.nodes.all)

    def used_bytes(self) -> int:
        """Bytes that the nodes use, of whatever is in them."""
        return self._memory[0]

    def free_bytes(self) -> int:
        """Bytes that the nodes may use besides."""
        return self._memory[1]

    def table(self, space: Space) -> RedisTable:
        """Lookups of a version.

        Raises:
            VersionMismatch: only the recipe of these features was published, not their rows.
        """
        published = self.index.published(space.name)
        if published is None or not published.rows:
            raise VersionMismatch(
                f"{self.url} does not hold the features of {space.name}, which a head that learns needs. Run "
                f"'imgserver publish --version {space.name} --to {self.url}', or serve from a local store."
            )
        return RedisTable(self, space)

    def read_head(self, name: str) -> bytes | None:
        """A head's bytes, or None."""
        return self.index.read_head(name)

    def read_card(self, name: str) -> bytes | None:
        """The bytes of a head's card, or None."""
        return self.index.read_head(card_key(name))

    def fetch(self, space: Space, image_id: int) -> Stored | None:
        """What is stored of an image, or None; a node that is lost knows nothing."""
        if not self._keeps(space):
            return None
        codec, ids = Codec(space), np.array([image_id])
        values, there, _ = self.get(codec, ids)
        return Stored(values[0], values["row"][0]) if there[0] else None

    def knows(self, space: Space, ids: Ids) -> Mask:
        """Of which ids, shape (n,), there is a value, or may be one on a node that is lost."""
        if not self._keeps(space):
            return np.zeros(len(ids), dtype=np.bool_)
        _, there, lost = self.get(Codec(space), ids)
        return there | lost

    def get(self, codec: Codec, ids: Ids) -> tuple[Values, Mask, Mask]:
        """Values of ids, shape (n,), which are there, and which were not to be had now."""
        groups = grouped(ids)
        replies = self.nodes.ask(codec.gets(ids, groups))
        found: list[Any] = []
        lost = np.zeros(len(ids), dtype=np.bool_)
        for (_, start, end), reply in zip(groups.parts, replies, strict=True):
            if isinstance(reply, Exception):
                lost[start:end] = True
                reply = [None] * (end - start)
            found += reply
        values, there = codec.decode(ids[groups.order], found)
        return _ungrouped(groups, values), _ungrouped(groups, there), _ungrouped(groups, lost)

    def complete(self, codec: Codec, space: Space, ids: Ids) -> Mask:
        """Whether ids that are not there, shape (n,), were never published: their tag holds all that was, still."""
        published = self.index.published(space.name)
        tags = tags_of(ids)
        asked = np.unique(tags).tolist()
        replies = self.nodes.ask([(tag, command(b"GET", codec.marker(tag))) for tag in asked])
        whole = np.zeros(TAGS, dtype=np.bool_)
        for tag, reply in zip(asked, replies, strict=True):
            marked = published is not None and reply == published.stamp.encode()
            whole[tag] = marked and not self.evicted[tag]
        return whole[tags]

    def as_stored(self, space: Space, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows, shape (n, dim), as they will be read once they are stored."""
        return values.astype(space.dtype)

    def put_all(self, parts: list[Rows]) -> Ids:
        """Keep rows for all servers; return the ids that a node did not take, and say why in the log."""
        refused = [np.zeros(0, dtype=np.int64)]
        for part in parts:
            if not self._keeps(part.space):
                continue
            try:
                codec = Codec(part.space)
                before, there, _ = self.get(codec, part.ids)
                values = codec.encode(part)
                changed = there & is_ok(before["status"]) & (before["content"] != values["content"])
                taken, why = self.set(codec, part.ids, values)
                if why:
                    self._say(f"{self.url} does not keep what is computed: {why}")
                refused.append(part.ids[~taken])
                if changed.any():
                    self.index.raise_generation()
            except StoreError as error:
                self._say(str(error))
        return np.unique(np.concatenate(refused))

    def set(self, codec: Codec, ids: Ids, values: Values) -> tuple[Mask, str]:
        """Write values of ids, shape (n,); return which were taken, shape (n,), and why others were not."""
        groups = grouped(ids)
        replies = self.nodes.ask(codec.sets(ids, values, groups))
        taken, why = np.ones(len(ids), dtype=np.bool_), ""
        for (_, start, end), reply in zip(groups.parts, replies, strict=True):
            if isinstance(reply, Exception):
                taken[groups.order[start:end]], why = False, str(reply)
        return taken, why

    def _keeps(self, space: Space) -> bool:
        published = self.index.published(space.name)
        return published is not None and published.rows


def _ungrouped(groups: Grouped, array: Values) -> Values:
    out = np.empty_like(array)
    whole = f"V{array.itemsize}"  # copied in one piece, not field by field
    out.view(whole)[groups.order] = array.view(whole)
    return out


def _numbers(info: bytes) -> dict[str, int]:
    """The whole numbers of a reply to INFO."""
    pairs = (line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return {name.decode(): int(value) for name, value in pairs if value.strip().isdigit()}


class RedisTable:
    """Lookups of one version in Redis: one round trip to each node.

    Args:
        store: where the rows are.
        space: the version.
    """

    loaded = True

    def __init__(self, store: RedisStore, space: Space):
        self.space, self._store = space, store
        self._codec = Codec(space)

    def __len__(self) -> int:
        """Images when the version was published; nobody counts what was computed or thrown away since."""
        space = self._store.index.space(self.space.name)
        return space.next_row if space else 0

    @property
    def generation(self) -> int:
        """That of the cluster, as it was read last: it is raised after values have changed."""
        return self._store.index.generation

    def load(self) -> None:
        """Nothing is loaded."""

    def refresh(self) -> int:
        """Nothing is held here that could be old."""
        return 0

    def get(self, ids: Ids) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """As ``Table.get``; TIMED_OUT where a row may exist and is not to be had now: it is not known to be missing."""
        values, there, lost = self._store.get(self._codec, ids)
        status = values["status"]
        if there.all():
            return values["row"], status.copy()
        status = np.where(there, status, np.where(lost, Status.TIMED_OUT, 0)).astype(np.uint8)
        absent = np.flatnonzero(~there & ~lost)
        if len(absent):
            status[absent] = np.where(self._store.complete(self._codec, self.space, ids[absent]), 0, Status.TIMED_OUT)
        return np.where(is_ok(status)[:, None], values["row"], 0).astype(self.space.dtype), status
