"""Embed a whole catalogue: features, then a PCA head fitted on a sample, then vectors, then activate.

May run while the daemon serves the store; the daemon sees the result. Every batch is committed, so a run that was
killed goes on where it stopped. Photos that changed since they were embedded are noticed and embedded anew.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.offline.decoding import batched, decoded
from crossmedia.imgserver.offline.head_vectors import DEFAULT_DIM, check_photos, few_numbers, make_vectors
from crossmedia.imgserver.offline.image_ids import wanted_ids
from crossmedia.imgserver.offline.rejects import without_reason, write_rejects
from crossmedia.imgserver.offline.texts import check_kind, text_batches, texts_per_s
from crossmedia.imgserver.shards import Ownership, shards_of
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue
from crossmedia.imgserver.storage.records import SOURCE, Ids, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import own_space
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.imgserver.vision.backbone import AnyBackbone
from crossmedia.imgserver.vision.backbones import any_backbone
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.embedding import embedded, reasons_of
from crossmedia.imgserver.vision.engines import MAX_BATCH, Engine, make_engine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.imgserver.vision.photos import Photo, read_photo
from crossmedia.names import ImageNames
from crossmedia.status import is_ok
from crossmedia.version import TEXT

COMMIT_PHOTOS = 256
INDEX_BYTES_PER_IMAGE = 2 * 100  # an entry for the feature and one for the vector, with LMDB's page overhead


@dataclass(frozen=True)
class PrecomputeConfig:
    """What to embed.

    Attributes:
        dim: numbers in a vector; None keeps the head of the active version, and is 64 where there is none to keep.
        only: embed just these image ids; None is the whole catalogue.
        new_head: fit a head even if the active version has one that fits.
        ownership: embed only what a server owns; None: all.
    """

    dim: int | None = None
    only: Ids | None = None
    new_head: bool = False
    ownership: Ownership | None = None

    def chosen(self, catalogue: Catalogue) -> Ids | None:
        """The image ids that are asked for; None is the whole catalogue."""
        if self.ownership is None:
            return self.only
        ids = catalogue.ids() if self.only is None else self.only
        mine: Ids = ids[self.ownership.mine[shards_of(ids)]]
        return mine


@dataclass(frozen=True)
class Plan:
    """What a run will do, before it starts.

    Attributes:
        config: that it follows.
        only: the image ids asked for; None is the whole catalogue.
        found: photos asked for that the catalogue has.
        skipped: photos that are embedded already and have not changed.
        to_embed: ids of the rest, in the order in which they are read.
        names: what the photos are called; None: by their ids.
    """

    config: PrecomputeConfig
    only: Ids | None
    found: int
    skipped: int
    to_embed: Ids
    names: ImageNames | None = None

    def disk_bytes(self, feature_dim: int) -> int:
        """Bytes that the run will add to the store: fp16 rows of feature and vector, and the index."""
        return len(self.to_embed) * (2 * feature_dim + 2 * (self.config.dim or DEFAULT_DIM) + INDEX_BYTES_PER_IMAGE)


@dataclass
class PrecomputeResult:
    """What a run did.

    Attributes:
        found: photos of the catalogue that were asked for.
        embedded: photos that went through the CNN.
        skipped: photos that were embedded already.
        rejected: photos that cannot be embedded, now or in an earlier run.
        version: of the vectors, now active.
        seconds: of the whole run; by the command, from its start on, imports included.
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


def make_plan(store: Store, catalogue: Catalogue, backbone: AnyBackbone, config: PrecomputeConfig) -> Plan:
    """See what is to be done.

    Raises:
        BadInput: an id of ``config.only`` is not in the catalogue, its manifest names images wrongly, or there are too
            few photos for ``config.dim``.
        NothingEmbedded: the catalogue has no photo.
    """
    names, only = catalogue.names(), config.chosen(catalogue)
    ids = wanted_ids(catalogue, only)
    space = own_space(store, backbone.space)
    entries, known = store.index.get(space.name, ids)
    known[known] = catalogue.unchanged(ids[known], entries[known])
    failed = np.flatnonzero(known & ~is_ok(entries["status"]))
    known[failed] = ~without_reason(store.folder, ids[failed])
    plan = Plan(config, only, len(ids), int(known.sum()), catalogue.reading_order(ids[~known]), names)
    check_photos(store, space, config.dim, len(plan.to_embed), new_head=config.new_head)
    return plan


def precompute(
    store: str | Path,
    catalogue: str | Path | PhotoSource,
    backbone: str = "efficientnet_lite0",
    *,
    dim: int | None = None,
    ids: Collection[int] | None = None,
    new_head: bool = False,
    threads: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> PrecomputeResult:
    """Embed a catalogue of photos into a store, and activate the vectors.

    Call it again after a kill, or when photos were added: what is there already is passed over.

    Args:
        store: folder of features and vectors; made if it is not there.
        catalogue: path or URL of the photos; or how they are read, where the limits are not the usual ones.
        backbone: the CNN that makes the features: ``efficientnet_lite0``, ``torchvision:<model>``, ``onnx:<file>``.
        dim: numbers in a vector; None keeps the head of the active version, and is 64 where there is none to keep.
        ids: embed just these image ids; None is the whole catalogue.
        new_head: fit the PCA anew on the photos that are there now, which makes another version.
        threads: of the CNN; 0 takes all cores.
        progress: told how many photos were just dealt with.

    Returns:
        how many photos were found, embedded, skipped and rejected, and the version that is active now.

    Raises:
        NothingEmbedded: there is no photo, or not one could be embedded, now or before.
        BadInput: no such catalogue or backbone, an id that is not in the catalogue, or too few photos for ``dim``.
        StoreError: the store cannot be written.

    Example:
        >>> import crossmedia
        >>> result = crossmedia.precompute(store="store", catalogue="photos", dim=16)
        >>> result.found, result.rejected
        (243, 0)
    """
    if not os.fspath(store) or (not isinstance(catalogue, PhotoSource) and not os.fspath(catalogue)):
        raise BadInput("store and catalogue are named, not empty: the one is a folder, the other where the photos are.")
    photos = catalogue if isinstance(catalogue, PhotoSource) else PhotoSource(os.fspath(catalogue))
    only = None if ids is None else np.unique(np.array(list(ids), dtype=np.int64))
    with StoreEmbedder(store, photos, backbone, threads) as embedder:
        plan = embedder.plan(PrecomputeConfig(dim, only, new_head=new_head))
        return embedder.run(plan, progress)


class StoreEmbedder:
    """A catalogue, a store, and the CNN or text encoder between them; ``with`` closes the store.

    Args:
        store: folder; made if it is not there.
        photos: how they are read; or texts, a ``TextSource``.
        backbone: name of the CNN; or of a text encoder, behind ``text:``.
        threads: of the CNN; 0 takes all cores.

    Raises:
        BadInput: there is no such catalogue or backbone, or the store holds photos and these are texts.
        StoreError: the store cannot be opened.
    """

    def __init__(self, store: str | Path, photos: PhotoSource, backbone: str, threads: int = 0):
        self._began, self._limits, self._threads = time.monotonic(), photos.limits, threads
        self.catalogue = photos.open()
        if backbone.startswith(TEXT) and isinstance(self.catalogue, TextCatalogue):
            from crossmedia.imgserver.vision.text_backbones import own_encoder  # and scipy, for texts alone

            backbone = own_encoder(Path(store), self.catalogue, backbone.removeprefix(TEXT))
        self.backbone = any_backbone(backbone, Path(store))
        self.store = Store(store)
        try:
            check_kind(self.store, self.backbone.space)
        except BaseException:
            self.store.close()
            raise

    def __enter__(self) -> StoreEmbedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    @cached_property
    def engine(self) -> Engine:
        """What runs the CNN; making it takes a while."""
        return make_engine(self.backbone, self.store.folder / "engine", self._threads)

    def plan(self, config: PrecomputeConfig) -> Plan:
        """See what is to be done; raises as ``make_plan`` does."""
        return make_plan(self.store, self.catalogue, self.backbone, config)

    def images_per_s(self, plan: Plan) -> float:
        """Photos or texts a second that this machine embeds, from one batch of those at hand."""
        ids, backbone = plan.to_embed, self.backbone
        sample = ids[np.linspace(0, len(ids) - 1, min(len(ids), MAX_BATCH), dtype=np.int64)]
        if isinstance(backbone, TextBackbone):
            return texts_per_s(self.catalogue, backbone, self.engine, sample)
        how = backbone.preprocessing
        # The first run of a shape sets things up.
        self.engine.run(np.zeros((len(sample), how.size, how.size, 3), dtype=np.uint8))
        with Decoders(self._limits, workers=1) as decoders:
            read_photo(self.catalogue, int(sample[0]), how, decoders)  # starts the process
            started = time.perf_counter()
            photos = [read_photo(self.catalogue, int(i), how, decoders) for i in sample]
        if pixels := [photo.pixels for photo in photos if photo.pixels is not None]:
            self.engine.run(np.stack(pixels))
        return len(sample) / (time.perf_counter() - started)

    def run(self, plan: Plan, progress: Callable[[int], None] = lambda done: None) -> PrecomputeResult:
        """Do what ``plan`` says; ``progress`` is told how many photos were just dealt with.

        Raises:
            NothingEmbedded: not one photo could be embedded, now or before.
            BadInput: too few photos for a PCA of this dim, or too little room on the disk.
            StoreError: the store cannot be written.
        """
        ready, store, config = time.monotonic(), self.store, plan.config
        if (free := store.free_bytes()) < (need := plan.disk_bytes(self.backbone.feature_dim)):
            raise BadInput(f"The run needs {need} bytes on the disk of {store.folder}; {free} are free.")
        if plan.names is not None:
            plan.names.keep(store.folder)
        else:
            ImageNames.forget(store.folder, self.catalogue.ids())
        space = own_space(store, self.backbone.space)
        result, reasons = PrecomputeResult(plan.found, skipped=plan.skipped), dict[int, str]()
        with Decoders(self._limits) as decoders, ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:
            committed: Future[None] | None = None
            for batch in self._batches(plan.to_embed, decoders):
                commit = self._embed(space, batch, result, reasons)
                if committed is not None:
                    committed.result()  # one batch is written while the next goes through the CNN
                committed = writer.submit(commit)
                progress(len(batch))
            if committed is not None:
                committed.result()
        result.rejected, result.rejects_file = write_rejects(store, space, reasons, plan.only, self.catalogue)
        result.version = make_vectors(store, space, config.dim, new_head=config.new_head)
        result.note = few_numbers(store, space, result.version, config.dim)
        result.reasons = dict(Counter(reason.partition(":")[0] for reason in reasons.values()))
        result.start_s, result.seconds = ready - self._began, time.monotonic() - self._began
        return result

    def _batches(self, ids: Ids, decoders: Decoders) -> Iterator[list[Photo]]:
        """What is embedded and committed together."""
        if isinstance(self.backbone, TextBackbone):
            return text_batches(self.catalogue, self.backbone, ids)
        return batched(decoded(self.catalogue, self.backbone, decoders, ids), COMMIT_PHOTOS)

    def _embed(
        self, space: Space, photos: list[Photo], result: PrecomputeResult, reasons: dict[int, str]
    ) -> Callable[[], None]:
        """Embed one batch; return what commits it. A photo that was only touched, with the content it had, stays."""
        reasons.update(reasons_of(photos))
        ids = np.array([photo.image_id for photo in photos], dtype=np.int64)
        before, same = self.store.index.get(space.name, ids)
        same &= before["content"] == np.array([photo.source.content for photo in photos], dtype=np.uint64)
        same &= before["status"] == np.array([photo.status for photo in photos], dtype=np.uint8)
        if same.any():
            sources = np.array([photo.source for photo in photos], dtype=SOURCE)
            self.store.index.restamp(space.name, ids[same], sources[same])
            result.skipped += int(same.sum())
        todo = [photo for photo, known in zip(photos, same.tolist(), strict=True) if not known]
        rows, failed = embedded(self.engine, todo, space)
        reasons.update(failed)
        result.embedded += int(is_ok(rows.status).sum())
        return lambda: self.store.put(rows) if len(rows) else None
