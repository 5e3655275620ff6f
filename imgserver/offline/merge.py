"""Files of embedded shards into a store: once, or again whenever more of them are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from crossmedia.v1 import image_server_pb2 as pb

from imgserver.errors import BadInput
from imgserver.offline.head_vectors import make_vectors
from imgserver.offline.rejects import write_rejects
from imgserver.offline.shard_files import FEATURES, Block, ShardFiles, names_below
from imgserver.shards import SHARDS
from imgserver.storage.store import Store
from imgserver.storage.versions import feature_space

OK = pb.VECTOR_STATUS_OK


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    Attributes:
        version: of the vectors, now active.
        images: in the files.
        added: of them, those that the store did not hold with this content.
        rejected: images of the backbone, of this merge or earlier, that cannot be embedded.
        rejects_file: lists them, or None.
        seconds: of it all.
    """

    version: str
    images: int
    added: int
    rejected: int
    rejects_file: str | None
    seconds: float


def merge(
    store: Store,
    folder: Path,
    dim: int | None = None,
    *,
    new_head: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> MergeReport:
    """Take the features of all files below ``folder`` into the store, make vectors, and activate them.

    Args:
        store: where they go; what it holds already with the same content stays as it is.
        folder: of everything that was embedded, by one backbone.
        dim: numbers in a vector, as of ``precompute``.
        new_head: fit a head even if the active version has one that fits.
        progress: told how many rows were just dealt with.

    Raises:
        BadInput: no files, of several backbones, or a damaged one.
        NothingEmbedded: not one photo could be embedded.
        StoreError: the store cannot be written.
    """
    started = time.monotonic()
    names = names_below(folder, FEATURES)
    if len(names) != 1:
        found = f"of {len(names)} backbones: {', '.join(names)}" if names else "none"
        raise BadInput(f"{folder} must hold files of embedded shards of one backbone; there are {found}.")
    space = None
    images = added = 0
    for block in latest_rows(ShardFiles(folder, FEATURES, names[0])):
        space = space or feature_space(store, names[0], block.values.shape[1], block.recipe)
        before, same = store.index.get(space.name, block.ids)
        same &= (before["content"] == block.sources["content"]) & (before["status"] == block.status)
        if same.any():
            store.index.restamp(space.name, block.ids[same], block.sources[same])
        new = ~same
        if new.any():
            values = block.values[new & (block.status == OK)]
            store.put(space, block.ids[new], values, block.status[new], block.sources[new], OK)
        images += len(block.ids)
        added += int(new.sum())
        progress(len(block.ids))
    if space is None:
        raise BadInput(f"{folder} holds no rows of {names[0]} yet.")
    version = make_vectors(store, space, dim, new_head=new_head)
    rejected, file = write_rejects(store, space, {})
    return MergeReport(version, images, added, rejected, file, time.monotonic() - started)


def latest_rows(files: ShardFiles) -> Iterator[Block]:
    """Every image once, by its latest row: file by file of each virtual shard, from the newest back."""
    for shard in range(SHARDS):
        taken = np.zeros(0, dtype=np.int64)
        for place in reversed(files.places([shard])):
            block = files.read(place)
            block = block.rows(~np.isin(block.ids, taken))
            taken = np.union1d(taken, block.ids)
            if len(block.ids):
                yield block
