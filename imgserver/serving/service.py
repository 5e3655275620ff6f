"""The service without the wire: requests in, replies out, errors of ``crossmedia.errors``.

The daemon puts gRPC around it; ``LocalTransport`` calls it in the same process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import DTypeLike

from crossmedia.allocator import give_back_freed_memory
from crossmedia.errors import CrossMediaError, InvalidRequest, StoreError
from crossmedia.imgserver import wire
from crossmedia.imgserver.head_files import load_card
from crossmedia.imgserver.places import own_folder
from crossmedia.imgserver.serve_config import ServeConfig
from crossmedia.imgserver.serving.heads import KEPT_PER_RUN, MAX_HEAD_BYTES
from crossmedia.imgserver.serving.known_failures import KnownFailures
from crossmedia.imgserver.serving.listing import Listing
from crossmedia.imgserver.serving.live_heads import LiveHeads
from crossmedia.imgserver.serving.lookup import Lookup
from crossmedia.imgserver.serving.metrics import ImageMetrics
from crossmedia.imgserver.serving.misses import Misses
from crossmedia.imgserver.serving.open_versions import OpenVersions
from crossmedia.imgserver.serving.photo_reader import PhotoReader
from crossmedia.imgserver.serving.putting import Putting
from crossmedia.imgserver.serving.requests import ids_of
from crossmedia.imgserver.serving.searching import MAX_NEIGHBOURS, MAX_QUERIES, Searching
from crossmedia.imgserver.serving.thumbnails import MAX_THUMBNAILS, Thumbnails
from crossmedia.imgserver.serving.words import Words
from crossmedia.imgserver.shards import Ownership
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.opening import open_store
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.imgserver.wire import DTYPES, Method, Reply, VectorsReply
from crossmedia.names import changed_at, digests_of_store
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller, OnEnd
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version

log = logging.getLogger(__name__)

REFRESH_S = 1.0
FEATURE_BYTES = 6  # of each number of a feature that a head is applied to: stored as fp16, computed with as fp32
REPLY_COPIES = 2  # of a reply: the message, and what gRPC sends of it
MESSAGE_REST = 1024  # of a message, beside its blocks


@dataclass(frozen=True)
class ServiceConfig:
    """How a store is served.

    Attributes:
        store: folder of features and vectors, or ``redis://host:port,…``.
        photos: how they are read; without a catalogue, ids that are not stored are NOT_FOUND.
        max_ids_per_call: most ids in one call.
        max_message_bytes: largest message taken or sent.
        max_pending_ids: most images waiting for the CNN at once; a call never takes more ids than one caller's share.
        max_pending_bytes: most bytes of replies under way, and of photos brought and waiting.
        negative_ttl_s: seconds that an image's failure is remembered before its photo is looked at again.
        machine: what embedding takes of this machine.
        folder: of a server of redis://, for what is its own; None: a folder of the user's cache.
        ownership: which images it answers for; None: all.
    """

    store: Path | str
    photos: PhotoSource = PhotoSource()
    max_ids_per_call: int = 100_000
    max_message_bytes: int = 64 << 20
    max_pending_ids: int = ServeConfig.max_pending_ids
    max_pending_bytes: int = 1 << 30
    negative_ttl_s: float = ServeConfig.negative_ttl_s
    machine: Machine = Machine()
    ownership: Ownership | None = None
    folder: Path | None = None
    guarded: bool = False

    @property
    def own_folder(self) -> Path:
        """Where a server keeps what is its own: its address, its log, the converted backbone."""
        return own_folder(self.store, self.folder)


class ImageService:
    """Serves the versions of a store and computes what is missing from a catalogue.

    Raises:
        BadInput: no such catalogue, or the backbone's files have gone.
        StoreError: the store cannot be opened.
    """

    def __init__(self, config: ServiceConfig):
        self.config = config
        self.photos = PhotoReader(config.photos, config.machine.decoders)
        self.store = open_store(config.store, config.folder)
        self.metrics = ImageMetrics()
        self.admission = Admission(
            config.max_pending_ids,
            config.max_pending_bytes,
            waiting="ids wait for the backbone",
            advice=", or embed the catalogue before, by imgserver precompute",
        )
        self.known_failures = KnownFailures(config.negative_ttl_s)
        self.misses = Misses(self.store, self.photos, self.admission, config.machine, self.metrics.batch_size.observe)
        self.lookup = Lookup(self.misses, self.known_failures, self.admission)
        self.served = OpenVersions(self.store, config.machine, computes=self.catalogue is not None)
        self.putting = Putting(self.served, self.misses, self.admission, config.ownership)
        self.live_heads = LiveHeads(self.served, self.lookup, self.admission)
        self.thumbnails = Thumbnails(self.admission, self.photos, config.ownership)
        words = Words(self.store.folder, config.machine)
        self.searching = Searching(self.served, self.lookup, self.photos, self.admission, config.ownership, words)
        self.listing = Listing(self.served, self.photos, self.admission, config.ownership, guarded=config.guarded)
        self._started = time.monotonic()
        self._release = package_version("crossmedia")
        self._closing = threading.Event()
        self._trouble = ""
        self._names: tuple[str, ...] = ()
        self._names_of = 0
        try:
            self.served.refresh()
            self._look_at_disk()
        except CrossMediaError:
            self.misses.close()
            self.store.close()
            raise
        with suppress(StoreError):  # a damaged index harms searches alone, and they say so
            self.searching.follow()
        self._refresher = threading.Thread(target=self._follow, name="follow-store", daemon=True)
        self._refresher.start()

    @property
    def catalogue(self) -> Catalogue | None:
        """Where photos come from; None when callers bring all of them."""
        return self.photos.catalogue

    def close(self) -> None:
        """Finish the misses under way, then close the store."""
        self._closing.set()
        self._refresher.join()
        self.misses.close()
        self.store.close()

    def _look_at_disk(self) -> None:
        """Note what ``get_info`` tells of files, because it must answer when no file can be opened any more."""
        self._store_bytes = self.store.used_bytes(), self.store.free_bytes()
        if (changed := changed_at(self.store.folder)) != self._names_of:
            self._names, self._names_of = digests_of_store(self.store.folder), changed

    def _follow(self) -> None:
        while True:
            try:
                self.live_heads.forget()
                if self.admission.burst_is_over:
                    give_back_freed_memory()
                self.served.refresh()
                self.served.load()
                if self.photos.list_again():
                    self.known_failures.forget()
                    log.info("the catalogue was listed again: %d images", len(self.catalogue or ()))
                self._look_at_disk()
                self.searching.follow()  # last: where it is damaged, the rest goes on
                self._trouble = ""
            except Exception as error:  # whatever it is, the store is followed again when it has passed
                trouble = f"{type(error).__name__}: {error}"
                if trouble != self._trouble:  # once, not every second
                    trace = None if isinstance(error, CrossMediaError) else error
                    log.error("the store could not be followed: %s", error, exc_info=trace)
                self._trouble = trouble
            if self._closing.wait(REFRESH_S):
                return

    def answer(self, method: Method[Reply], request: Message, deadline: float, on_end: OnEnd | None = None) -> Reply:
        """The reply to any call but ``GetVectors``.

        Args:
            method: of the contract.
            request: a message of that method.
            deadline: on the monotonic clock.
            on_end: see ``OnEnd``.

        Raises:
            CrossMediaError: as the methods that do it.
        """
        answers: dict[str, Callable[[Any, Caller], Any]] = {
            wire.GET_INFO.name: lambda request, caller: self.get_info(),
            wire.PUT_IMAGES.name: self.putting.put,
            wire.PUT_HEAD.name: self.live_heads.put,
            wire.GET_HEAD_GRADIENT.name: self._head_gradient,
            wire.SEARCH.name: lambda *call: pb.SearchResponse.FromString(self.searching.search(*call)),
            wire.GET_THUMBNAILS.name: self.thumbnails.draw,
            wire.GET_CONCEPTS.name: self._concepts,
            wire.LIST_IMAGES.name: lambda request, caller: self.listing.images(request, caller, self._max_ids_per_call),
            wire.LIST_VERSIONS.name: self.listing.versions,
            wire.ACTIVATE_VERSION.name: self.listing.activate,
        }
        reply: Reply = answers[method.name](request, Caller(deadline, on_end))
        return reply

    def _concepts(self, request: pb.GetConceptsRequest, caller: Caller) -> pb.GetConceptsResponse:
        """The card of a version, as the store has it now."""
        version = self.served.of(request.version).version
        return pb.GetConceptsResponse(version=version, card=load_card(self.store, version).to_bytes())

    def search(self, request: pb.SearchRequest, deadline: float, on_end: OnEnd | None = None) -> bytes:
        """The reply to ``Search`` on the wire; see ``answer``."""
        return self.searching.search(request, Caller(deadline, on_end))

    def get_info(self) -> pb.GetInfoResponse:
        """What is served, in parts."""
        serving, ownership = self.served.active, self.config.ownership
        maker = serving.maker if serving else None
        told = pb.GetInfoResponse(
            server_version=self._release,
            stored_dtype=pb.DTYPE_FLOAT16,
            generation=self.store.index.generation,
            versions=[space.name for space in self.store.index.spaces("vector")],
            engine=maker.embedder.engine_name if maker else "none",
            feature_dim=maker.features.dim if maker else 0,
            uptime_s=time.monotonic() - self._started,
            limits=self._limits(maker.features.dim * FEATURE_BYTES if maker else 1),
            contents=pb.Contents(
                images_in_catalogue=len(self.catalogue) if self.catalogue else 0,
                images_stored=len(serving.table) if serving else 0,
                store_used_bytes=self._store_bytes[0],
                store_free_bytes=self._store_bytes[1],
                heads_held=len(self.live_heads.heads),
                image_names=self._names,
            ),
            counters=self.lookup.told(),
            similarity=self.searching.told,
            durations=self.metrics.lookup_durations(),
        )
        told.counters.rows_damaged = self.store.damaged
        if serving is not None:
            told.version, told.dim = serving.version, serving.table.space.dim
            told.backbone = Version.parse(serving.version).backbone
        if ownership is not None:
            told.ownership.servers[:], told.ownership.server_name = ownership.servers, ownership.me
        return told

    def _limits(self, most_bytes: int) -> pb.Limits:
        """The limits; an idle server admits a call of the costliest kind, a head's vectors: ``most_bytes`` an image."""
        config = self.config
        return pb.Limits(
            max_ids_per_call=max(1, min(self._max_ids_per_call, self.admission.share // most_bytes)),
            max_thumbnails_per_call=MAX_THUMBNAILS,
            max_put_per_call=self.putting.most,
            max_queries_per_search=MAX_QUERIES,
            max_neighbours=MAX_NEIGHBOURS,
            max_message_bytes=config.max_message_bytes,
            max_image_bytes=config.photos.limits.max_bytes,
            max_image_pixels=config.photos.limits.max_pixels,
            max_pending_ids=config.max_pending_ids,
            max_pending_bytes=config.max_pending_bytes,
            max_heads_per_run=KEPT_PER_RUN,
            max_head_bytes=min(MAX_HEAD_BYTES, config.max_message_bytes - 4096),
            negative_ttl_s=config.negative_ttl_s,
        )

    @property
    def _max_ids_per_call(self) -> int:
        # A call for images none of which is stored must be admitted by an idle server.
        return min(self.config.max_ids_per_call, self.admission.share_of_items)

    def get_vectors(self, request: pb.GetVectorsRequest, deadline: float, on_end: OnEnd | None = None) -> VectorsReply:
        """Vectors of the ids, in their order; what the table lacks is computed until ``deadline`` (monotonic clock).

        Args:
            request: what is asked for.
            deadline: on the monotonic clock.
            on_end: see ``OnEnd``.

        Raises:
            InvalidRequest: a broken id block, too many ids, an unknown dtype, or a reply larger than a message.
            NotReady: nothing was precomputed yet.
            VersionMismatch: a version was asked for that the store does not hold.
            WrongShard: another server owns one of the images.
            Overloaded: too many images wait for the CNN, or too much is under way.
            DeadlineExceeded: a head's vectors took too long.
        """
        started = time.perf_counter_ns()
        ids = ids_of(request.image_ids, self._max_ids_per_call, self.config.ownership)
        dtype = DTYPES.get(request.dtype or pb.DTYPE_FLOAT16)
        if dtype is None:
            raise InvalidRequest(f"dtype {request.dtype} is unknown; this server knows float16 and float32.")
        caller = Caller(deadline, on_end)
        head = self.live_heads.heads.get(request.version)
        # A generation is read before what is told of it: whoever keeps a reply must not take old rows for newer ones.
        if head is not None:
            version = request.version
            generation = self.served.of(Version.parse(version).backbone).table.generation
            with self._reply(len(ids), head.spec.dim, np.float32, dtype, caller):
                values, status, computed = self.live_heads.vectors(version, head, request.image_ids, ids, caller)
        else:
            serving = self.served.of(request.version)
            version, space = serving.version, serving.table.space
            generation = serving.table.generation
            with self._reply(len(ids), space.dim, space.value_dtype, dtype, caller):
                values, status, computed = self.lookup.rows(serving, ids, caller)
        return VectorsReply(
            version,
            generation,
            values.astype(dtype, copy=False),
            status,
            computed,
            time.perf_counter_ns() - started,
            caller.queue_time_ns,
            caller.compute_time_ns,
        )

    def _reply(
        self, images: int, dim: int, made_as: DTypeLike, sent_as: np.dtype[Any], caller: Caller
    ) -> AbstractContextManager[None]:
        """Hold what a reply of vectors costs, until it was sent; one that is larger than a message is refused."""
        if (size := images * (dim * sent_as.itemsize + 1) + MESSAGE_REST) > self.config.max_message_bytes:
            raise InvalidRequest(
                f"{images} vectors of {dim} numbers take {size} bytes, and a message has at most "
                f"{self.config.max_message_bytes}. Ask for fewer in a call."
            )
        cost = Cost(size=images * dim * (np.dtype(made_as).itemsize + REPLY_COPIES * sent_as.itemsize))
        return self.admission.held_until_sent(cost, caller)

    def _head_gradient(self, request: pb.GetHeadGradientRequest, caller: Caller) -> pb.GetHeadGradientResponse:
        ids = ids_of(request.image_ids, self._max_ids_per_call, self.config.ownership)
        return self.live_heads.gradient(request, ids, caller)
