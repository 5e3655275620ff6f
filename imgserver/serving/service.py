"""The service without the wire: requests in, replies out, errors of ``imgserver.errors``.

The daemon puts gRPC around it; ``LocalTransport`` calls it in the same process.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np
from crossmedia.v1 import image_server_pb2 as pb

from imgserver.errors import CrossMediaError, InvalidRequest, NotReady, StoreError, VersionMismatch
from imgserver.serving.misses import Misses, Model, Serving
from imgserver.storage.catalog import READ_TIMEOUT_S, open_catalog
from imgserver.storage.index import Ids
from imgserver.storage.store import Store
from imgserver.storage.table import Table
from imgserver.storage.versions import is_imported, load_head, split_version
from imgserver.vision.decode import CorruptImage, ImageLimits, ImageTooLarge, thumbnail
from imgserver.vision.embedder import Embedder

log = logging.getLogger(__name__)

OK = pb.VECTOR_STATUS_OK
DTYPES = {pb.DTYPE_UNSPECIFIED: "<f2", pb.DTYPE_FLOAT16: "<f2", pb.DTYPE_FLOAT32: "<f4"}
MAX_THUMBNAILS = 256
MAX_PUT = 256
MAX_THUMBNAIL_SIDE = 512
DEFAULT_THUMBNAIL_SIDE = 128
REFRESH_S = 1.0


@dataclass(frozen=True)
class ServiceConfig:
    """How a store is served.

    Attributes:
        store: folder of features and vectors.
        catalogue: path or URL of photos; without one, ids that are not stored are NOT_FOUND.
        max_ids_per_call: most ids in one call.
        max_message_bytes: largest message taken or sent.
        max_pending_ids: most images waiting for the CNN at once.
        limits: of a photo.
        read_timeout_s: for one read of a photo behind a URL.
        threads: of the CNN; 0 takes all cores.
    """

    store: Path
    catalogue: str | None = None
    max_ids_per_call: int = 100_000
    max_message_bytes: int = 64 << 20
    max_pending_ids: int = 20_000
    limits: ImageLimits = ImageLimits()
    read_timeout_s: float = READ_TIMEOUT_S
    threads: int = 0


class ImageService:
    """Serves the active version of a store and computes what is missing from a catalogue.

    Raises:
        BadInput: no such catalogue, or the backbone's files have gone.
        StoreError: the store cannot be opened.
    """

    def __init__(self, config: ServiceConfig):
        self.config = config
        self.catalog = open_catalog(config.catalogue, config.read_timeout_s) if config.catalogue else None
        self.store = Store(config.store)
        self.misses = Misses(self.store, self.catalog, config.limits, config.max_pending_ids)
        self._serving: Serving | None = None
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._ids_requested = self._ids_from_table = 0
        self._closing = threading.Event()
        self._trouble = ""
        try:
            self.refresh()
        except CrossMediaError:
            self.misses.close()
            self.store.close()
            raise
        self._refresher = threading.Thread(target=self._follow, name="follow-store", daemon=True)
        self._refresher.start()

    def close(self) -> None:
        """Finish the misses under way, then close the store."""
        self._closing.set()
        self._refresher.join()
        self.misses.close()
        self.store.close()

    @property
    def serving(self) -> Serving | None:
        """What is served now; None before the first precompute."""
        return self._serving

    def refresh(self) -> None:
        """Take over what other processes committed: another active version, or more vectors of this one."""
        active = self.store.index.active
        serving = self._serving
        if active and (serving is None or serving.version != active):
            space = self.store.index.space(active)
            if space is None:
                raise StoreError(f"The store names {active} as active and does not hold it.")
            self._serving = Serving(active, Table(self.store, space), self._model(active))
            log.info("serving %s: %d vectors", active, len(self._serving.table))
        elif serving is not None and (added := serving.table.refresh()):
            log.info("%d ids were added or changed in the store", added)

    def _model(self, version: str) -> Model | None:
        """What makes more vectors of a version; the former one's embedder, if that is the same."""
        if is_imported(version):
            return None
        name = split_version(version)[0]
        features = self.store.index.space(name)
        if features is None:
            raise StoreError(f"The store holds {version} and not the features of {name}.")
        former = self._serving.model if self._serving else None
        if former is not None and former.features.name == name:
            embedder = former.embedder
        else:
            embedder = Embedder(features.recipe, name, self.config.store / "engine", self.config.threads)
            if self.catalog is not None:
                _ = embedder.engine  # now, and not when the first caller waits
        return Model(embedder, load_head(self.store, version), features)

    def _follow(self) -> None:
        while not self._closing.wait(REFRESH_S):
            try:
                self.refresh()
                if self.catalog is not None and self.catalog.changed():
                    self.catalog = self.misses.catalog = open_catalog(self.catalog.where, self.config.read_timeout_s)
                    log.info("the catalogue was listed again: %d images", len(self.catalog))
                self._trouble = ""
            except CrossMediaError as error:
                if str(error) != self._trouble:  # once, not every second
                    log.error("the store could not be followed: %s", error)
                self._trouble = str(error)

    def get_info(self) -> pb.GetInfoResponse:
        """Version, limits and counters."""
        serving, config, counters = self._serving, self.config, self.misses.counters
        model = serving.model if serving else None
        return pb.GetInfoResponse(
            server_version=package_version("crossmedia"),
            version=serving.version if serving else "",
            backbone=split_version(serving.version)[0] if serving else "",
            dim=serving.table.space.dim if serving else 0,
            stored_dtype=pb.DTYPE_FLOAT16,
            generation=self.store.index.generation,
            versions=[space.name for space in self.store.index.spaces("vector")],
            max_ids_per_call=config.max_ids_per_call,
            max_thumbnails_per_call=MAX_THUMBNAILS,
            max_put_per_call=MAX_PUT,
            max_message_bytes=config.max_message_bytes,
            max_pending_ids=config.max_pending_ids,
            max_image_bytes=config.limits.max_bytes,
            max_image_pixels=config.limits.max_pixels,
            images_in_catalogue=len(self.catalog) if self.catalog else 0,
            images_stored=len(serving.table) if serving else 0,
            computed_on_demand=counters.computed,
            cnn_passes_on_demand=counters.cnn_passes,
            cnn_batches_on_demand=counters.cnn_batches,
            ids_requested=self._ids_requested,
            ids_from_table=self._ids_from_table,
            uptime_s=time.monotonic() - self._started,
            engine=model.embedder.engine_name if model else "none",
        )

    def get_vectors(self, request: pb.GetVectorsRequest, deadline: float) -> pb.GetVectorsResponse:
        """Vectors of the ids, in their order; what the table lacks is computed until ``deadline`` (monotonic clock).

        Raises:
            InvalidRequest: a broken id block, too many ids, or an unknown dtype.
            NotReady: nothing was precomputed yet.
            VersionMismatch: another version was asked for.
            Overloaded: too many images wait for the CNN.
        """
        started = time.perf_counter_ns()
        ids = _ids(request.image_ids, self.config.max_ids_per_call)
        if request.dtype not in DTYPES:
            raise InvalidRequest(f"dtype {request.dtype} is unknown; this server knows float16 and float32.")
        serving = self._serving_of(request.version)
        values, status, known = serving.table.get(ids, OK)
        computed = 0
        if not known.all():
            computed = self._fill(serving, ids, values, status, known, deadline)
        with self._lock:
            self._ids_requested += len(ids)
            self._ids_from_table += int(known.sum())
        return pb.GetVectorsResponse(
            version=serving.version,
            generation=self.store.index.generation,
            dim=serving.table.space.dim,
            dtype=request.dtype or pb.DTYPE_FLOAT16,
            vectors=values.astype(DTYPES[request.dtype], copy=False).tobytes(),
            status=status.tobytes(),
            computed=computed,
            server_time_ns=time.perf_counter_ns() - started,
        )

    def _serving_of(self, version: str) -> Serving:
        """What is served, if it is the version that the caller wants; an empty one takes any."""
        serving = self._serving
        if serving is None:
            self.refresh()
            if (serving := self._serving) is None:
                raise NotReady(
                    f"The image server has no vectors yet. Run 'imgserver precompute --store {self.config.store} "
                    f"--catalogue FOLDER' first; this server will see the result."
                )
        if version and version != serving.version:
            raise VersionMismatch(
                f"Vectors of {version} were asked for; this server serves {serving.version}. "
                f"Activate the version that the run began with, or start a new run."
            )
        return serving

    def put_images(self, request: pb.PutImagesRequest, deadline: float) -> pb.PutImagesResponse:
        """Embed photos that the caller brings; the next ``get_vectors`` serves them.

        Raises:
            InvalidRequest: too many photos, a negative id, or an id twice.
            NotReady: nothing was precomputed yet, so there is no head.
            VersionMismatch: the vectors served were imported; there is no CNN behind them.
            Overloaded: too many images wait for the CNN.
        """
        photos = [(photo.image_id, photo.data) for photo in request.images]
        ids = [image_id for image_id, _ in photos]
        if len(photos) > MAX_PUT:
            raise InvalidRequest(f"{len(photos)} photos came in one call; the limit is {MAX_PUT} (see GetInfo).")
        if ids and min(ids) < 0:
            raise InvalidRequest(f"Image id {min(ids)} is negative; ids are 0 or more.")
        if len(set(ids)) < len(ids):
            raise InvalidRequest("An image id is there twice in one call; which photo should count?")
        serving = self._serving_of("")
        if serving.model is None:
            raise VersionMismatch(
                f"The vectors of {serving.version} were imported, so this server cannot make one. Import them again "
                f"with the new images, or activate a version that has a backbone."
            )
        status = self.misses.put(serving, serving.model, photos, deadline)
        return pb.PutImagesResponse(
            version=serving.version, generation=self.store.index.generation, status=status.tobytes()
        )

    def _fill(
        self,
        serving: Serving,
        ids: Ids,
        values: np.ndarray[tuple[int, int], np.dtype[np.float16]],
        status: np.ndarray[tuple[int], np.dtype[np.uint8]],
        known: np.ndarray[tuple[int], np.dtype[np.bool_]],
        deadline: float,
    ) -> int:
        """Compute the rows that the table did not know, in place; return how many ids got a vector."""
        if self.catalog is None or serving.model is None:
            status[~known] = pb.VECTOR_STATUS_NOT_FOUND
            return 0
        unique, inverse = np.unique(ids[~known], return_inverse=True)
        outcome = self.misses.resolve(serving, serving.model, unique, deadline)
        fresh, fresh_status, there = serving.table.get(unique, OK)
        values[~known] = fresh[inverse]
        status[~known] = np.where(there, fresh_status, outcome)[inverse]
        return int((outcome == OK).sum())

    def get_thumbnails(self, request: pb.GetThumbnailsRequest) -> pb.GetThumbnailsResponse:
        """Small JPEGs; empty where there is no photo that can be decoded.

        Raises:
            InvalidRequest: a broken id block, too many ids, or too large a side.
        """
        ids = _ids(request.image_ids, MAX_THUMBNAILS)
        side = request.max_side or DEFAULT_THUMBNAIL_SIDE
        if side > MAX_THUMBNAIL_SIDE:
            raise InvalidRequest(f"max_side is {side}; thumbnails have at most {MAX_THUMBNAIL_SIDE} pixels a side.")
        return pb.GetThumbnailsResponse(jpegs=[self._thumbnail(image_id, side) for image_id in ids.tolist()])

    def _thumbnail(self, image_id: int, side: int) -> bytes:
        limits = self.config.limits
        try:
            data = self.catalog.read(image_id, limits.max_bytes) if self.catalog else None
            return thumbnail(data, side, limits) if data else b""
        except (CorruptImage, ImageTooLarge, OSError):
            return b""


def _ids(block: bytes, most: int) -> Ids:
    if len(block) % 8:
        raise InvalidRequest(f"image_ids has {len(block)} bytes; it must be int64 numbers of 8 bytes each.")
    ids = np.frombuffer(block, dtype="<i8").astype(np.int64, copy=False)
    if len(ids) > most:
        raise InvalidRequest(f"{len(ids)} ids were asked for in one call; the limit is {most} (see GetInfo).")
    if len(ids) and ids.min() < 0:
        raise InvalidRequest(f"Image id {ids.min()} is negative; the null image is never sent.")
    return ids
