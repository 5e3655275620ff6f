"""Publish versions of a local store to a cluster that copies of a server share.

Each block is read from the store with its checksums verified, compared with what the cluster has, written where it
differs, and read back. So it goes on where it was stopped, and mends what was thrown away or lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossmedia.concepts import has_concepts
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.head_files import load_card, load_head
from crossmedia.imgserver.storage.cluster.codec import TAGS, Codec, Mask, Values, command
from crossmedia.imgserver.storage.cluster.facts import Published, card_key
from crossmedia.imgserver.storage.cluster.store import RedisStore
from crossmedia.imgserver.storage.records import Rows, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import held
from crossmedia.status import is_ok

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class PublishReport:
    """What ``publish`` did.

    Attributes:
        versions: that were published.
        images: of them, failed ones included.
        written: images that the cluster did not have yet, or had otherwise.
        active: the version that servers of the cluster serve now.
        evicted: whether the cluster has thrown keys away for want of memory.
    """

    versions: tuple[str, ...]
    images: int
    written: int
    active: str
    evicted: bool
    seconds: float


def images_of(store: Store, versions: Sequence[str]) -> tuple[list[Space], int]:
    """The spaces of versions, of the active one when none is named, and an upper bound of their images.

    Raises:
        NotReady: there is no active version.
        BadInput: the store does not hold one of them, or one is compressed.
    """
    spaces = []
    for version in versions or [""]:
        space = held(store, version)
        if space.codebook:
            raise BadInput(
                f"{space.name} is compressed, and a cluster holds vectors as numbers. Publish another version: with "
                f"--version, and {space.version.plain} if the store still has it."
            )
        spaces.append(space)
    return spaces, sum(len(store.index.load(space.name)[0]) for space in spaces)


def publish(
    store: Store, cluster: RedisStore, spaces: list[Space], progress: Callable[[int], None] = lambda done: None
) -> PublishReport:
    """Bring versions to a cluster, and activate the store's active one there if it is among them.

    Args:
        store: where they are.
        cluster: where they go.
        spaces: of ``images_of``.
        progress: told the images done since the last time.

    Raises:
        StoreError: a row of the store is damaged, or a node does not answer, or does not keep what it is given. What
            was written stays, and the next run goes on from there.
    """
    started = time.monotonic()
    images = written = 0
    replaced = False

    def grow() -> None:
        """Raise the generation before a block changes what was published, so that a killed run is noticed too."""
        nonlocal replaced
        if not replaced:
            cluster.index.raise_generation(store.index.generation)
        replaced = True

    for space in spaces:
        if space.kind == "vector" and not space.version.imported:
            _publish_model(store, cluster, space)
        ids, entries, _ = store.index.load(space.name)
        codec = Codec(space)
        block = max(1, BLOCK_BYTES // codec.value.itemsize)
        for start in range(0, len(ids), block):
            rows = store.rows_of(space, ids[start : start + block], entries[start : start + block])
            written += _publish_rows(cluster, codec, rows, grow)
            progress(len(rows))
        images += len(ids)
        former = cluster.index.published(space.name)
        stamp = str(max(time.time_ns(), 1 + int(former.stamp if former and former.stamp else 0)))  # the latest counts
        _mark_complete(cluster, codec, stamp)
        cluster.index.declare(Published(replace(space, number=0, next_row=len(ids)), True, stamp))
    if replaced or store.index.generation > cluster.index.generation:
        cluster.index.raise_generation(store.index.generation, grown=replaced)
    names = [space.name for space in spaces]
    vectors = [space.name for space in spaces if space.kind == "vector"]
    if store.index.active in names:
        cluster.index.activate(store.index.active)
    elif vectors and not cluster.index.active:
        cluster.index.activate(vectors[-1])
    return PublishReport(
        tuple(names), images, written, cluster.index.active, cluster.evicted_keys, time.monotonic() - started
    )


def _publish_model(store: Store, cluster: RedisStore, space: Space) -> None:
    """Publish what makes more vectors of a version: the head's weights, and which backbone it is."""
    version = space.version
    features = store.index.space(version.backbone)
    if features is None:
        raise StoreError(f"The store {store} holds {space.name} and not the features behind it.")
    cluster.index.keep_head(version.head, load_head(store, space.name).to_bytes())
    if has_concepts(space.name):
        cluster.index.keep_head(card_key(version.head), load_card(store, space.name).to_bytes())
    if cluster.index.published(version.backbone) is None:
        cluster.index.declare(Published(replace(features, number=0, next_row=0), False))


def _publish_rows(cluster: RedisStore, codec: Codec, rows: Rows, before_a_change: Callable[[], None]) -> int:
    """Bring images to the cluster; return how many were written."""
    ids, values = rows.ids, codec.encode(rows)
    before, there, lost = cluster.get(codec, ids)
    if lost.any():
        raise StoreError(_gone(cluster))
    todo = ~(there & _same(before, values))
    if not todo.any():
        return 0
    changed = there & is_ok(rows.status) & is_ok(before["status"]) & (before["content"] != values["content"])
    if changed.any():
        before_a_change()
    taken, why = cluster.set(codec, ids[todo], values[todo])
    if why:
        raise StoreError(f"{cluster} did not take {int((~taken).sum())} vectors: {why}. Mend that, then run it again.")
    after, _, lost = cluster.get(codec, ids[todo])
    if lost.any():
        raise StoreError(_gone(cluster))
    if kept := int((~_same(after, values[todo])).sum()):
        raise StoreError(
            f"{cluster} did not keep {kept} of {int(todo.sum())} vectors just written. Has it enough memory (redis-cli "
            f"info memory), and does nobody else write? Then run it again."
        )
    return int(todo.sum())


def _same(one: Values, other: Values) -> Mask:
    """Which values are equal, byte by byte, shape (n,)."""
    words = [np.ascontiguousarray(values).view(np.uint64).reshape(len(values), -1) for values in (one, other)]
    same: Mask = (words[0] == words[1]).all(axis=1)
    return same


def _mark_complete(cluster: RedisStore, codec: Codec, stamp: str) -> None:
    """Say under each tag that all is there, so that a node that comes back empty is not believed to know nothing."""
    replies = cluster.nodes.ask([(tag, command(b"SET", codec.marker(tag), stamp.encode())) for tag in range(TAGS)])
    if any(isinstance(reply, Exception) for reply in replies):
        raise StoreError(_gone(cluster))


def _gone(cluster: RedisStore) -> str:
    lost = ", ".join(f"{node.address} ({node.trouble})" for node in cluster.nodes.lost) or "a node for some slots"
    return f"{cluster} cannot be filled: {lost} does not answer. What was written stays; run it again when it is back."
