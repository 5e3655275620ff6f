"""Embed a whole catalogue: features, then a PCA head fitted on a sample, then vectors, then activate.

May run while the daemon serves the store; the daemon sees the result. Every batch is committed, so a run that was
killed goes on where it stopped. Photos that changed since they were embedded are noticed and embedded anew.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from crossmedia.v1 import image_server_pb2 as pb

from imgserver.client.results import Status
from imgserver.errors import BadInput, NothingEmbedded
from imgserver.head import Head, fit_pca
from imgserver.offline.head_vectors import store_vectors
from imgserver.storage.catalog import Catalog
from imgserver.storage.index import Ids, Space
from imgserver.storage.store import Store
from imgserver.storage.table import leave_snapshot
from imgserver.storage.versions import feature_space, is_imported, load_head, save_head, split_version, vector_space
from imgserver.vision.backbone import Backbone
from imgserver.vision.decode import ImageLimits
from imgserver.vision.engines import MAX_BATCH, Engine, run_all
from imgserver.vision.photos import Photo, read_photo, sources_of

OK = pb.VECTOR_STATUS_OK
COMMIT_PHOTOS = 256
PCA_SAMPLE = 20_000
DEFAULT_DIM = 64
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
    """

    found: int
    skipped: int
    to_embed: Ids

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
        seconds: of the whole run.
        rejects_file: lists each rejected id with its reason, or None.
    """

    found: int
    embedded: int = 0
    skipped: int = 0
    rejected: int = 0
    version: str = ""
    seconds: float = 0.0
    rejects_file: str | None = None
    reasons: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def read_ids(path: Path) -> Ids:
    """Image ids from a text file, one a line; empty lines are skipped.

    Raises:
        BadInput: the file does not exist or a line is no image id.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The file of image ids {path} cannot be read: {error}.") from error
    ids = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if not (text.isascii() and text.isdigit()):
            raise BadInput(f"Line {number} of {path} is {text!r}; each line must be one image id, a whole number.")
        ids.append(int(text))
    return np.unique(np.array(ids, dtype=np.int64))


def make_plan(store: Store, catalog: Catalog, backbone: Backbone, config: PrecomputeConfig) -> Plan:
    """See what is to be done.

    Raises:
        BadInput: an id of ``config.only`` is not in the catalogue.
        NothingEmbedded: the catalogue has no photo.
    """
    ids = catalog.ids()
    if config.only is not None:
        absent = np.setdiff1d(config.only, ids)
        if len(absent):
            raise BadInput(
                f"{len(absent)} of the {len(config.only)} image ids asked for are not in {catalog.where}; "
                f"the first is {absent[0]}."
            )
        ids = config.only
    if not len(ids):
        raise NothingEmbedded(
            f"No photo was found in {catalog.where}. Photos are files named <image id>.jpg (or .png, .webp, …), "
            f"alone or in tars, or rows of Parquet files."
        )
    space = feature_space(store, backbone.version, backbone.feature_dim, backbone.recipe)
    entries, known = store.index.get(space.name, ids)
    found = catalog.fingerprints(ids[known])
    unchanged = np.zeros(len(ids), dtype=np.bool_)
    unchanged[known] = found.there & (found.size == entries["size"][known]) & (found.stamp == entries["stamp"][known])
    return Plan(len(ids), int(unchanged.sum()), catalog.reading_order(ids[~unchanged]))


def measure_rate(catalog: Catalog, backbone: Backbone, engine: Engine, config: PrecomputeConfig, ids: Ids) -> float:
    """Images a second that this machine embeds, from one batch of the photos at hand."""
    sample = ids[np.linspace(0, len(ids) - 1, min(len(ids), MAX_BATCH), dtype=np.int64)]
    size = backbone.preprocessing.size
    engine.run(np.zeros((len(sample), size, size, 3), dtype=np.uint8))  # the first run of a shape sets things up
    started = time.perf_counter()
    photos = [read_photo(catalog, int(i), backbone.preprocessing, config.limits) for i in sample]
    if pixels := [photo.pixels for photo in photos if photo.pixels is not None]:
        engine.run(np.stack(pixels))
    return len(sample) / (time.perf_counter() - started)


def precompute(
    store: Store,
    catalog: Catalog,
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
    if (free := shutil.disk_usage(store.folder).free) < (need := plan.disk_bytes(backbone.feature_dim, config.dim)):
        raise BadInput(f"The run needs {need} bytes on the disk of {store.folder}; {free} are free.")
    result = PrecomputeResult(plan.found, skipped=plan.skipped)
    space = feature_space(store, backbone.version, backbone.feature_dim, backbone.recipe)
    reasons: dict[int, str] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:
        committed: Future[None] | None = None
        for batch in batched(_decoded(catalog, backbone, config, plan.to_embed), COMMIT_PHOTOS):
            for photo in batch:
                if photo.status != OK:
                    reasons[photo.image_id] = f"{Status(photo.status).name}: {photo.reason}"
            commit = _embed(store, space, engine, batch, result)
            if committed is not None:
                committed.result()  # one batch is written while the next goes through the CNN
            committed = writer.submit(commit)
            progress(len(batch))
        if committed is not None:
            committed.result()

    head = _head(store, space, config)
    result.version = head.version(backbone.version)
    save_head(store, head)
    vectors = vector_space(store, result.version, head.spec.dim)
    store_vectors(store, space, vectors, head)
    leave_snapshot(store, vectors)
    store.index.activate(result.version)
    result.rejected, result.rejects_file = _write_rejects(store, space, reasons, config.only)
    for reason in reasons.values():
        name = reason.partition(":")[0]
        result.reasons[name] = result.reasons.get(name, 0) + 1
    result.seconds = time.monotonic() - started
    return result


def _decoded(catalog: Catalog, backbone: Backbone, config: PrecomputeConfig, ids: Ids) -> Iterator[Photo]:
    """Photos in the order of ``ids``, read and decoded ahead in threads, a bounded number at a time."""
    with ThreadPoolExecutor(catalog.readers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Photo]] = deque()
        try:
            for image_id in ids.tolist():
                ahead.append(pool.submit(read_photo, catalog, image_id, backbone.preprocessing, config.limits))
                if len(ahead) > 2 * MAX_BATCH:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def batched(photos: Iterator[Photo], size: int) -> Iterator[list[Photo]]:
    """Lists of ``size`` photos; the last may be shorter."""
    while batch := list(islice(photos, size)):
        yield batch


def _embed(
    store: Store, space: Space, engine: Engine, photos: list[Photo], result: PrecomputeResult
) -> Callable[[], None]:
    """Embed one batch; return what commits it. A photo that was only touched, with the content it had, stays."""
    photos = [photo for photo in photos if photo.status not in (pb.VECTOR_STATUS_NOT_FOUND, pb.VECTOR_STATUS_FAILED)]
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
    pixels, features = [p.pixels for p in photos if p.pixels is not None], np.zeros((0, space.dim), space.dtype)
    if pixels:
        features = run_all(engine, pixels).astype(space.dtype)
    status = np.array([photo.status for photo in photos], dtype=np.uint8)
    result.embedded += len(pixels)
    return lambda: store.put(space, ids[~same], features, status, sources_of(photos), OK)


def _head(store: Store, space: Space, config: PrecomputeConfig) -> Head:
    """The head of the active version, if it fits; else a PCA of a sample of the stored features."""
    active = store.index.active
    if active and not config.new_head and split_version(active)[0] == space.name and not is_imported(active):
        head = load_head(store, active)
        if config.dim in (None, head.spec.dim):
            return head
    _, entries, _ = store.index.load(space.name)
    entries = entries[entries["status"] == OK]
    if not len(entries):
        raise NothingEmbedded(
            f"Not one photo could be embedded. The reasons are in {store.folder / REJECTS_FILE} if there are any."
        )
    if len(entries) > PCA_SAMPLE:
        chosen = np.random.default_rng(config.seed).choice(len(entries), PCA_SAMPLE, replace=False)
        entries = entries[np.sort(chosen)]
    return fit_pca(store.read(space, entries), config.dim or DEFAULT_DIM)


REJECTS_FILE = "rejects.csv"


def _write_rejects(store: Store, space: Space, reasons: dict[int, str], only: Ids | None) -> tuple[int, str | None]:
    """Write every rejected id with its reason; of earlier runs only the status is known."""
    ids, entries, _ = store.index.load(space.name)
    bad = entries["status"] != OK
    for image_id, status in zip(ids[bad].tolist(), entries["status"][bad].tolist(), strict=True):
        reasons.setdefault(image_id, f"{Status(status).name}: found in an earlier run")
    chosen = set(only.tolist()) if only is not None else None
    rows = [(i, reason) for i, reason in sorted(reasons.items()) if chosen is None or i in chosen]
    path = store.folder / REJECTS_FILE
    if not rows:
        path.unlink(missing_ok=True)
        return 0, None
    part = path.with_suffix(f".{os.getpid()}")
    lines = [f'{image_id},"{reason.replace(chr(34), chr(39))}"' for image_id, reason in rows]
    part.write_text("image_id,reason\n" + "\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, path)
    return len(rows), str(path)
