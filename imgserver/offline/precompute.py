"""Embed a whole catalogue: features, then a PCA head fitted on a sample, then vectors, then activate.

May run while the daemon serves the store; the daemon sees the result. Every batch is committed, so a run that was
killed goes on where it stopped. Photos that changed since they were embedded are noticed and embedded anew.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from crossmedia.arguments import check_places, check_whole, must
from crossmedia.errors import BadInput
from crossmedia.imgserver.offline.decoding import batched, decoded, in_order
from crossmedia.imgserver.offline.head_vectors import few_numbers, make_vectors
from crossmedia.imgserver.offline.own_nets import kept_recipe, own_recipe
from crossmedia.imgserver.offline.plan import Plan, PrecomputeConfig, make_plan
from crossmedia.imgserver.offline.rejects import write_rejects
from crossmedia.imgserver.offline.texts import check_kind, text_batches, texts_per_s
from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue
from crossmedia.imgserver.storage.records import SOURCE, Ids, Rows, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import own_space
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.imgserver.vision.backbones import any_backbone
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.embedding import embedded, reasons_of
from crossmedia.imgserver.vision.engines import Engine
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.imgserver.vision.photos import Photo, read_photo
from crossmedia.keys import column_of, full_image_ids
from crossmedia.names import ImageNames
from crossmedia.status import is_ok
from crossmedia.version import TEXT

SAMPLE = 32  # photos, for the estimate


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


def precompute(
    store: str | Path,
    catalogue: str | Path | PhotoSource,
    backbone: str | None = None,
    *,
    dim: int | None = None,
    ids: Collection[int] | None = None,
    new_head: bool = False,
    machine: Machine = Machine(),  # noqa: B008  frozen
    progress: Callable[[int], None] = lambda done: None,
) -> PrecomputeResult:
    """Embed a catalogue of photos into a store, and activate the vectors.

    Call it again after a kill, or when photos were added: what is there already is passed over.

    Args:
        store: folder of features and vectors; made if it is not there.
        catalogue: path or URL of the photos; or how they are read, where the limits are not the usual ones.
        backbone: the CNN that makes the features: ``efficientnet_lite0``, ``torchvision:<model>``, ``onnx:<file>``;
            None keeps that of the active version, and is ``efficientnet_lite0`` for a new store.
        dim: numbers in a vector; None keeps the head of the active version, and is 64 where there is none to keep.
        ids: embed just these image ids; None is the whole catalogue.
        new_head: fit the PCA anew on the photos that are there now, which makes another version.
        machine: what is taken of this machine: its GPUs or cores, how many photos are decoded at once.
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
    check_places(store=store, **({} if isinstance(catalogue, PhotoSource) else {"catalogue": catalogue}))
    if backbone is not None:
        must(isinstance(backbone, str), "backbone", backbone, "the name of a CNN, as a str")
    must(isinstance(machine, Machine), "machine", machine, "a Machine, such as Machine(threads=2)")
    if dim is not None:
        check_whole("dim", dim)
    if not os.fspath(store) or (not isinstance(catalogue, PhotoSource) and not os.fspath(catalogue)):
        raise BadInput("store and catalogue are named, not empty: the one is a folder, the other where the photos are.")
    photos = catalogue if isinstance(catalogue, PhotoSource) else PhotoSource(os.fspath(catalogue))
    only = None if ids is None else np.unique(full_image_ids(column_of(list(ids), "ids", "the call")))
    with StoreEmbedder(store, photos, backbone, machine) as embedder:
        plan = embedder.plan(PrecomputeConfig(dim, only, new_head=new_head))
        return embedder.run(plan, progress)


class StoreEmbedder:
    """A catalogue, a store, and the CNN or text encoder between them; ``with`` closes the store.

    Args:
        store: folder; made if it is not there.
        photos: how they are read; or texts, a ``TextSource``.
        backbone: name of the CNN, None for that of the active version; or of a text encoder, behind ``text:``.
        machine: what is taken of this machine.

    Raises:
        BadInput: there is no such catalogue or backbone, or the store holds photos and these are texts.
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        store: str | Path,
        photos: PhotoSource,
        backbone: str | None,
        machine: Machine = Machine(),  # noqa: B008  frozen
    ):
        self._began, self._limits, self._machine = time.monotonic(), photos.limits, machine
        self.catalogue = photos.open()
        backbone = kept_recipe(Path(store)) if backbone is None else backbone
        if backbone.startswith(TEXT) and isinstance(self.catalogue, TextCatalogue):
            from crossmedia.imgserver.vision.text_backbones import own_encoder  # and scipy, for texts alone

            backbone = own_encoder(Path(store), self.catalogue, backbone.removeprefix(TEXT))
        backbone = own_recipe(Path(store), self.catalogue, backbone, self._limits, machine.decoders)
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
        return make_engine(self.backbone, self.store.folder / "engine", self._machine)

    def plan(self, config: PrecomputeConfig) -> Plan:
        """See what is to be done; raises as ``make_plan`` does."""
        return make_plan(self.store, self.catalogue, self.backbone, config)

    def images_per_s(self, plan: Plan) -> float:
        """Photos or texts a second that this machine embeds, from one batch of those at hand."""
        ids, backbone = plan.to_embed, self.backbone
        sample = ids[np.linspace(0, len(ids) - 1, min(len(ids), SAMPLE), dtype=np.int64)]
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
            self.engine.run(pixels)
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
        with self._decoders() as decoders, ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:
            committed: Future[None] | None = None
            batches = self._batches(plan.to_embed, decoders)
            for some in _commits(self._embedded(space, batches), self._machine.commit):
                commit = self._commit(some, result, reasons)
                if committed is not None:
                    committed.result()  # some are written while the next go through the CNN
                committed = writer.submit(commit)
                progress(sum(one.photos for one in some))
            if committed is not None:
                committed.result()
        result.rejected, result.rejects_file = write_rejects(store, space, reasons, plan.only, self.catalogue)
        result.version = make_vectors(store, space, config.dim, new_head=config.new_head)
        result.note = few_numbers(store, space, result.version, config.dim)
        result.reasons = dict(Counter(reason.partition(":")[0] for reason in reasons.values()))
        result.start_s, result.seconds = ready - self._began, time.monotonic() - self._began
        return result

    def _decoders(self) -> Decoders:
        return Decoders(self._limits, self._machine.decoders)

    def _batches(self, ids: Ids, decoders: Decoders) -> Iterator[list[Photo]]:
        """What goes to the engine together: photos that were decoded, or texts that were read."""
        if isinstance(self.backbone, TextBackbone):
            return text_batches(self.catalogue, self.backbone, ids)
        return batched(decoded(self.catalogue, self.backbone, decoders, ids, self._machine.commit), self.engine.batch)

    def _embedded(self, space: Space, batches: Iterator[list[Photo]]) -> Iterator[_Embedded]:
        """Batches through the engine, in their order, as many at once as it likes."""
        engine = self.engine

        def embed(batch: list[Photo]) -> _Embedded:
            ids = np.array([photo.image_id for photo in batch], dtype=np.int64)
            before, same = self.store.index.get(space.name, ids)
            same &= before["content"] == np.array([photo.source.content for photo in batch], dtype=np.uint64)
            same &= before["status"] == np.array([photo.status for photo in batch], dtype=np.uint8)
            touched = [photo for photo, known in zip(batch, same.tolist(), strict=True) if known]
            rows, failed = embedded(
                engine, [p for p, known in zip(batch, same.tolist(), strict=True) if not known], space
            )
            return _Embedded(len(batch), rows, touched, reasons_of(batch) | failed)

        with ThreadPoolExecutor(engine.in_flight, thread_name_prefix="cnn") as pool:
            yield from in_order(pool, embed, batches, engine.in_flight)

    def _commit(self, some: list[_Embedded], result: PrecomputeResult, reasons: dict[int, str]) -> Callable[[], None]:
        """Note what became of photos; return what writes it. A photo that was only touched keeps what is stored."""
        for one in some:
            reasons.update(one.reasons)
        rows = Rows.joined([one.rows for one in some])
        result.embedded += int(is_ok(rows.status).sum())
        touched = [photo for one in some for photo in one.touched]
        result.skipped += len(touched)

        def commit() -> None:
            if touched:
                ids = np.array([photo.image_id for photo in touched], dtype=np.int64)
                sources = np.array([photo.source for photo in touched], dtype=SOURCE)
                self.store.index.restamp(some[0].rows.space.name, ids, sources)
            if len(rows):
                self.store.put(rows)

        return commit


@dataclass(frozen=True)
class _Embedded:
    """A batch behind the CNN: how many photos it was, their rows, those that were only touched, and why some failed."""

    photos: int
    rows: Rows
    touched: list[Photo]
    reasons: dict[int, str]


def _commits(batches: Iterable[_Embedded], least: int) -> Iterator[list[_Embedded]]:
    """Batches together that hold ``least`` photos; the last may hold fewer."""
    some: list[_Embedded] = []
    for batch in batches:
        some.append(batch)
        if sum(one.photos for one in some) >= least:
            yield some
            some = []
    if some:
        yield some
