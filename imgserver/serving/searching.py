"""Which images are most alike: queries to vectors, vectors to the similarity index of the store."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from crossmedia.v1 import image_server_pb2 as pb

from imgserver.errors import InvalidRequest, NotReady, StoreError, VersionMismatch
from imgserver.serving.admission import Admission
from imgserver.serving.jobs import Caller, Serving
from imgserver.serving.lookup import OK, Lookup, OnCancel, Statuses
from imgserver.serving.requests import ids_of
from imgserver.serving.served import Served
from imgserver.shards import Ownership
from imgserver.storage.records import Ids
from imgserver.storage.similarity import SimilarityFiles, SimilarityIndex, SimilarityInfo
from imgserver.storage.stores import ServedStore
from imgserver.vision.decoders import Decoders
from imgserver.vision.embedding import embed
from imgserver.vision.photos import Source, photo_from_bytes

MAX_QUERIES, MAX_NEIGHBOURS = 256, 1000
ANSWER_BYTES = 12  # an id and a cosine


class Searching:
    """Answers ``Search``.

    Args:
        store: whose index.
        served: the versions that are open.
        lookup: brings vectors of images that are asked for by id.
        admission: counts what is under way.
        decoders: of photos that callers bring.
        ownership: which images may be asked for by id; None: all. A photo is compared with all that are here.
    """

    def __init__(
        self,
        store: ServedStore,
        served: Served,
        lookup: Lookup,
        admission: Admission,
        decoders: Decoders,
        ownership: Ownership | None,
    ):
        self.files = SimilarityFiles(store.folder)
        self._store, self._served, self._lookup = store, served, lookup
        self._admission, self._decoders, self._ownership = admission, decoders, ownership

    @property
    def info(self) -> SimilarityInfo | None:
        """The index that is in use; None without one, or with a damaged one, which harms searches alone."""
        try:
            return self.files.current()
        except StoreError:
            return None

    def search(
        self, request: pb.SearchRequest, deadline: float, on_cancel: OnCancel | None = None
    ) -> pb.SearchResponse:
        """Neighbours of each query.

        Args:
            request: what is asked for.
            deadline: on the monotonic clock.
            on_cancel: see ``Lookup.rows``.

        Raises:
            InvalidRequest: no queries, ids and photos together, too many of them, or k out of its limits.
            NotReady: no index was built yet.
            StoreError: the index is damaged.
            VersionMismatch: the index is of another version than is asked for, or than is served.
            WrongShard: another server owns one of the images.
            Overloaded: too much is under way.
        """
        started = time.perf_counter_ns()
        if bool(request.image_ids) == bool(request.photos):
            raise InvalidRequest("Give queries either as image_ids or as photos.")
        if not 1 <= request.k <= MAX_NEIGHBOURS:
            raise InvalidRequest(f"k is {request.k}; from 1 to {MAX_NEIGHBOURS} neighbours can be asked for.")
        if len(request.photos) > MAX_QUERIES:
            raise InvalidRequest(
                f"{len(request.photos)} photos came in one call; the limit is {MAX_QUERIES} (GetInfo)."
            )
        ids = ids_of(request.image_ids, MAX_QUERIES, self._ownership)
        info, index = self._index(request.version)
        serving = self._served.of(info.version)
        queries = len(ids) or len(request.photos)
        held = sum(map(len, request.photos)) + queries * (request.k + 1) * ANSWER_BYTES
        with self._admission.held(0, held):
            if request.photos:
                vectors, status = self._seen(serving, list(request.photos))
            else:
                vectors, status, _ = self._lookup.rows(serving, ids, Caller(deadline), on_cancel)
            near, cosines = _neighbours(serving, index, vectors, status, ids, request.k)
        return pb.SearchResponse(
            version=info.version,
            image_ids=near.astype("<i8").tobytes(),
            cosines=cosines.astype("<f4").tobytes(),
            status=status.tobytes(),
            images=info.images,
            server_time_ns=time.perf_counter_ns() - started,
        )

    def _index(self, wanted: str) -> tuple[SimilarityInfo, SimilarityIndex]:
        opened = self.files.open()
        if opened is None:
            raise NotReady(
                f"The store has no similarity index yet. {self._store.index_hint}; this server will see the result."
            )
        served = self._served.of("").version
        if opened[0].version != (wanted or served):
            raise VersionMismatch(
                f"The similarity index is of {opened[0].version}, and {wanted or served} was to be searched. "
                f"{self._store.index_hint} again."
            )
        return opened

    def _seen(self, serving: Serving, photos: list[bytes]) -> tuple[npt.NDArray[Any], Statuses]:
        """Vectors of photos that are not kept, shape (n, D), zeros where one is broken, and status, shape (n,)."""
        model = serving.model
        if model is None or model.head is None:
            raise VersionMismatch(
                f"The vectors of {serving.version} were imported: there is no CNN to see a photo with."
            )
        preprocessing = model.embedder.backbone.preprocessing
        decoded = [photo_from_bytes(0, data, Source(), preprocessing, self._decoders) for data in photos]
        decoded, features = embed(model.embedder.engine, decoded, model.features.dim)
        status = np.array([photo.status for photo in decoded], dtype=np.uint8)
        vectors = np.zeros((len(photos), serving.table.space.dim), dtype=np.float32)
        if len(features):
            vectors[status == OK] = model.head.apply_numpy(features)
        return vectors, status


def _neighbours(
    serving: Serving, index: SimilarityIndex, vectors: npt.NDArray[Any], status: Statuses, own: Ids, k: int
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Of each query, shape (n, k); ``own`` are the queries' ids, shape (n,), or empty."""
    found, cosines = index.search(
        vectors.astype(np.float32), k + bool(len(own)), lambda ids: serving.table.get(ids, OK)[0]
    )
    if len(own):
        last = np.argsort(found == own[:, None], axis=1, kind="stable")[:, :k]
        found, cosines = np.take_along_axis(found, last, axis=1), np.take_along_axis(cosines, last, axis=1)
    found[status != OK], cosines[status != OK] = -1, 0
    return found, cosines
