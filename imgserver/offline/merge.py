"""Merge files of embedded or moved shards into a store: once, or again whenever there are more of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.head_files import copy_heads
from crossmedia.imgserver.offline.head_vectors import few_numbers, make_vectors
from crossmedia.imgserver.offline.moving import active_among, note_held
from crossmedia.imgserver.offline.rejects import write_rejects
from crossmedia.imgserver.offline.shard_files import FEATURES, VECTORS, ShardFiles, names_below
from crossmedia.imgserver.shards import SHARDS, Ownership
from crossmedia.imgserver.storage.records import Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import activate, own_space
from crossmedia.names import ImageNames
from crossmedia.version import Version

COMMIT_ROWS = 4096


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
        note: where vectors have fewer numbers than they would have of more photos; else empty.
    """

    version: str
    images: int
    added: int
    rejected: int
    rejects_file: str | None
    seconds: float
    note: str = ""


def merge(
    store: Store,
    folder: Path,
    dim: int | None = None,
    *,
    ownership: Ownership | None = None,
    new_head: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> MergeReport:
    """Take the rows of all files below ``folder`` into the store, make the vectors that lack, and activate them.

    Features that were embedded get vectors by the store's head, or a new one. Shards that were moved bring their
    vectors of all versions along, and an empty store activates what their former owners had active.

    Args:
        store: where they go; what it holds already with the same content stays as it is.
        folder: of everything that was embedded, by one backbone; or of moved shards.
        dim: numbers in a vector, as of ``precompute``.
        ownership: take only what this server owns, and note for former owners what the store then holds of that.
        new_head: fit a head even if the active version has one that fits.
        progress: told how many rows were just dealt with.

    Raises:
        BadInput: no files, of several backbones, or a damaged one.
        NothingEmbedded: not one photo could be embedded.
        StoreError: the store cannot be written.
    """
    started = time.monotonic()
    moved = active_among(folder, ownership)
    shards = np.flatnonzero(ownership.mine).tolist() if ownership else range(SHARDS)
    names = names_below(folder, FEATURES)
    if moved is None and len(names) != 1:
        found = f"of {len(names)} backbones: {', '.join(names)}" if names else "none"
        raise BadInput(f"{folder} must hold files of embedded shards of one backbone; there are {found}.")
    taken = [_take(store, ShardFiles(folder, FEATURES, name), shards, progress) for name in names]
    if (images := ImageNames.of_store(folder)) is not None:
        images.keep(store.folder)
    copy_heads(folder, store.folder)  # and nets in 8 bits that made the features
    if moved is not None:
        vectors = [ShardFiles(folder, VECTORS, name) for name in names_below(folder, VECTORS)]
        taken += [_take(store, files, shards, progress) for files in vectors]
    if not any(images for images, _ in taken):
        raise BadInput(f"{folder} holds no rows{f' that {ownership.me} owns' if ownership else ''} yet.")
    if moved and not store.index.active:
        activate(store, moved)
    backbone = Version.parse(store.index.active).backbone if moved else names[0]
    features = store.index.space(backbone)
    if features is None:  # imported vectors have none
        version, rejected, file, note = store.index.active, 0, None, ""
    else:
        version = make_vectors(store, features, dim, new_head=new_head)
        rejected, file = write_rejects(store, features, {})
        note = few_numbers(store, features, version, dim)
    if moved is not None and ownership is not None:
        note_held(store, folder, ownership)
    images, added = (max(counts) for counts in zip(*taken, strict=True))
    return MergeReport(version, images, added, rejected, file, time.monotonic() - started, note)


def _take(store: Store, files: ShardFiles, shards: Iterable[int], progress: Callable[[int], None]) -> tuple[int, int]:
    """Put rows of one version into the store; return how many there were, and how many of them were new to it."""
    images = added = 0
    for rows in _together(latest_rows(files, shards)):
        rows = replace(rows, space=own_space(store, rows.space))
        before, same = store.index.get(files.name, rows.ids)
        same &= (before["content"] == rows.sources["content"]) & (before["status"] == rows.status)
        if same.any():
            store.index.restamp(files.name, rows.ids[same], rows.sources[same])
        if not same.all():
            store.put(rows[~same])
        images += len(rows)
        added += int((~same).sum())
        progress(len(rows))
    return images, added


def _together(parts: Iterator[Rows]) -> Iterator[Rows]:
    """Join small files into one set of rows, because each commit waits for the disk."""
    waiting: list[Rows] = []
    for rows in parts:
        waiting.append(rows)
        if sum(map(len, waiting)) >= COMMIT_ROWS:
            yield Rows.joined(waiting)
            waiting = []
    if waiting:
        yield Rows.joined(waiting)


def latest_rows(files: ShardFiles, shards: Iterable[int]) -> Iterator[Rows]:
    """Every image once, by its latest row: file by file of each virtual shard, from the newest back."""
    for shard in shards:
        taken = np.zeros(0, dtype=np.int64)
        for place in reversed(files.places([shard])):
            rows = files.read(place)
            rows = rows[~np.isin(rows.ids, taken)]
            taken = np.union1d(taken, rows.ids)
            if len(rows):
                yield rows
