"""Embed a whole catalogue: features, then a PCA head fitted on a sample, then vectors, then activate.

May run while the daemon serves the store; the daemon sees the result. Every batch is committed, so a run that was
killed goes on where it stopped. Photos that changed since they were embedded are noticed and embedded anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.offline.decoding import batched, decoded, reasons_of
from crossmedia.imgserver.offline.head_vectors import DEFAULT_DIM, check_photos, few_numbers, make_vectors
from crossmedia.imgserver.offline.image_ids import wanted_ids
from crossmedia.imgserver.offline.rejects import without_reason, write_rejects
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import feature_space
from crossmedia.imgserver.vision.backbone import Backbone
from crossmedia.imgserver.vision.decode import ImageLimits
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.embedding import embed
from crossmedia.imgserver.vision.engines import MAX_BATCH, Engine
from crossmedia.imgserver.vision.photos import Photo, read_photo, sources_of
from crossmedia.names import ImageNames
from crossmedia.status import NOT_KEPT, is_ok

COMMIT_PHOTOS = 256
INDEX_BYTES_PER_IMAGE = 2 * 100  # an entry for the feature and one for the vector, with LMDB's page overhead


@dataclass(frozen=True)
class PrecomputeConfig:
    """What to embed.

    Attributes:
        dim: numbers in a vector; None keeps the head of the active version, and is 64 where there is none to keep.
        only: embed just these image ids; None is the whole catalogue.
        limits: of a photo.
        seed: of the sample that the PCA is fitted on.
        new_head: fit a head even if the active version has one that fits.
    """

    dim: int | None = None
    only: Ids | None = None
    limits: ImageLimits = ImageLimits()
    seed: int = 0
    new_head: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run will do, before it starts.

    Attributes:
        found: photos asked for that the catalogue has.
        skipped: photos that are embedded already and have not changed.
        to_embed: ids of the rest, in the order in which they are read.
        names: what the photos are called; None: by their ids.
    """

    found: int
    skipped: int
    to_embed: Ids
    names: ImageNames | None = None

    def disk_bytes(self, feature_dim: int, dim: int | None) -> int:
        """Bytes that the run will add to the store: fp16 rows of feature and vector, and the index."""
        return len(self.to_embed) * (2 * feature_dim + 2 * (dim or DEFAULT_DIM) + INDEX_BYTES_PER_IMAGE)


@dataclass
class PrecomputeResult:
    """What a run did.

    Attributes:
        found: photos of the catalogue that were asked for.
        embedded: photos that went through the CNN.
        skipped: photos that were embedded already.
        rejected: photos that cannot be embedded, now or in an earlier run.
        version: of the vectors, now active.
        seconds: of the whole run; by the command, from its start on.
        start_s: seconds of them before the first photo: packages, listing, the CNN made ready, the estimate.
        rejects_file: lists each rejected id with its reason, or None.
        reasons: how many photos failed in this run, by the name of their status.
        note: where vectors have fewer numbers than they would have of more photos; else empty.
    """

    found: int
    embedded: int = 0
    skipped: int = 0
    rejected: int = 0
    version: str = ""
    seconds: float = 0.0
    start_s: float = 0.0
    rejects_file: str | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def make_plan(store: Store, catalogue: Catalogue, backbone: Backbone, config: PrecomputeConfig) -> Plan:
    """See what is to be done.

    Raises:
        BadInput: an id of ``config.only`` is not in the catalogue, its manifest names images wrongly, or there are too
            few photos for ``config.dim``.
        NothingEmbedded: the catalogue has no photo.
    """
    names = catalogue.names()
    ids = wanted_ids(catalogue, config.only)
    space = feature_space(store, backbone.version, backbone.feature_dim, backbone.recipe)
    entries, known = store.index.get(space.name, ids)
    found = catalogue.fingerprints(ids[known])
    unchanged = np.zeros(len(ids), dtype=np.bool_)
    unchanged[known] = found.there & (found.size == entries["size"][known]) & (found.stamp == entries["stamp"][known])
    failed = np.flatnonzero(unchanged & ~is_ok(entries["status"]))
    unchanged[failed] = ~without_reason(store.folder, ids[failed])
    plan = Plan(len(ids), int(unchanged.sum()), catalogue.reading_order(ids[~unchanged]), names)
    check_photos(store, space, config.dim, len(plan.to_embed), new_head=config.new_head)
    return plan


def measure_rate(catalogue: Catalogue, backbone: Backbone, engine: Engine, config: PrecomputeConfig, ids: Ids) -> float:
    """Images a second that this machine embeds, from one batch of the photos at hand."""
    sample = ids[np.linspace(0, len(ids) - 1, min(len(ids), MAX_BATCH), dtype=np.int64)]
    size = backbone.preprocessing.size
    engine.run(np.zeros((len(sample), size, size, 3), dtype=np.uint8))  # the first run of a shape sets things up
    with Decoders(config.limits, workers=1) as decoders:
        read_photo(catalogue, int(sample[0]), backbone.preprocessing, decoders)  # starts the process
        started = time.perf_counter()
        photos = [read_photo(catalogue, int(i), backbone.preprocessing, decoders) for i in sample]
    if pixels := [photo.pixels for photo in photos if photo.pixels is not None]:
        engine.run(np.stack(pixels))
    return len(sample) / (time.perf_counter() - started)


def precompute(
    store: Store,
    catalogue: Catalogue,
    backbone: Backbone,
    engine: Engine,
    config: PrecomputeConfig,
    plan: Plan,
    progress: Callable[[int], None] = lambda done: None,
) -> PrecomputeResult:
    """Do what ``plan`` says; ``progress`` is told how many photos were just dealt with.

    Raises:
        NothingEmbedded: not one photo could be embedded, now or before.
        BadInput: too few photos for a PCA of this dim.
        StoreError: the store cannot be written.
    """
    started = time.monotonic()
    if (free := store.free_bytes()) < (need := plan.disk_bytes(backbone.feature_dim, config.dim)):
        raise BadInput(f"The run needs {need} bytes on the disk of {store.folder}; {free} are free.")
    result = PrecomputeResult(plan.found, skipped=plan.skipped)
    space = feature_space(store, backbone.version, backbone.feature_dim, backbone.recipe)
    if plan.names is not None:
        plan.names.keep(store.folder)
    else:
        ImageNames.forget(store.folder, catalogue.ids())
    reasons: dict[int, str] = {}
    with Decoders(config.limits) as decoders, ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:
        committed: Future[None] | None = None
        for batch in batched(decoded(catalogue, backbone, decoders, plan.to_embed), COMMIT_PHOTOS):
            commit = _embed(store, space, engine, batch, result, reasons)
            if committed is not None:
                committed.result()  # one batch is written while the next goes through the CNN
            committed = writer.submit(commit)
            progress(len(batch))
        if committed is not None:
            committed.result()

    result.rejected, result.rejects_file = write_rejects(store, space, reasons, config.only, catalogue)
    result.version = make_vectors(store, space, config.dim, config.seed, new_head=config.new_head)
    result.note = few_numbers(store, space, result.version, config.dim)
    for reason in reasons.values():
        name = reason.partition(":")[0]
        result.reasons[name] = result.reasons.get(name, 0) + 1
    result.seconds = time.monotonic() - started
    return result


def _embed(
    store: Store,
    space: Space,
    engine: Engine,
    photos: list[Photo],
    result: PrecomputeResult,
    reasons: dict[int, str],
) -> Callable[[], None]:
    """Embed one batch; return what commits it. A photo that was only touched, with the content it had, stays."""
    reasons.update(reasons_of(photos))
    photos = [photo for photo in photos if photo.status not in NOT_KEPT]
    ids = np.array([photo.image_id for photo in photos], dtype=np.int64)
    before, same = store.index.get(space.name, ids)
    same &= before["content"] == np.array([photo.source.content for photo in photos], dtype=np.uint64)
    same &= before["status"] == np.array([photo.status for photo in photos], dtype=np.uint8)
    if same.any():
        store.index.restamp(space.name, ids[same], sources_of(photos)[same])
        result.skipped += int(same.sum())
    photos = [photo for photo, known in zip(photos, same.tolist(), strict=True) if not known]
    if not photos:
        return lambda: None
    photos, features = embed(engine, photos, space.dim)
    reasons.update(reasons_of(photos))
    status = np.array([photo.status for photo in photos], dtype=np.uint8)
    result.embedded += len(features)
    return lambda: store.put(space, ids[~same], features, status, sources_of(photos))
