"""Which images are most alike: queries to vectors, vectors to the similarity index of the store."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import InvalidRequest, NotReady, StoreError, VersionMismatch
from crossmedia.imgserver.serving.lookup import Lookup, Statuses
from crossmedia.imgserver.serving.open_versions import OpenVersion, OpenVersions, VectorMaker
from crossmedia.imgserver.serving.photo_reader import PhotoReader
from crossmedia.imgserver.serving.requests import ids_of
from crossmedia.imgserver.serving.words import Words
from crossmedia.imgserver.shards import Ownership
from crossmedia.imgserver.similarity.index import NONE, SimilarityFiles, SimilarityIndex, SimilarityInfo
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.vision.embedding import embed
from crossmedia.imgserver.vision.machine import CPU_BATCH
from crossmedia.imgserver.wire import with_blocks
from crossmedia.service.admission import Admission, Cost, Turns
from crossmedia.service.callers import Caller
from crossmedia.status import is_ok
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version

MAX_QUERIES, MAX_NEIGHBOURS = 256, 1000
ANSWER_BYTES = 12  # an id and a cosine
REPLY_COPIES = 3
BLOCK_PRODUCTS = 4_000_000_000  # of an index that compares with all: some tenths of a second
BLOCK_BYTES = 64 << 20  # of candidates whose vectors are compared

Cosines = npt.NDArray[np.float32]


class Searching:
    """Answers ``Search``.

    Args:
        served: the versions that are open, of the store whose index is asked.
        lookup: brings vectors of images that are asked for by id.
        photos: decodes those that callers bring.
        admission: counts what is under way.
        ownership: which images may be asked for by id; None: all. A photo is compared with all that are here.
        words: finds the encoder of words.
    """

    def __init__(
        self,
        served: OpenVersions,
        lookup: Lookup,
        photos: PhotoReader,
        admission: Admission,
        ownership: Ownership | None,
        words: Words,
    ):
        self._words = words
        self._files = SimilarityFiles(served.store.folder)
        self._opened: tuple[SimilarityInfo, SimilarityIndex] | None = None
        self._damage: StoreError | None = None
        self._served, self._lookup, self._photos = served, lookup, photos
        self._admission, self._ownership, self._turns = admission, ownership, Turns(1)

    def follow(self) -> None:
        """Take a new build into use; calls open no file.

        Raises:
            StoreError: its files are damaged; searches say so too, and nothing else is harmed.
        """
        try:
            self._opened, self._damage = self._files.open(), None
        except StoreError as error:
            self._opened, self._damage = None, error
            raise

    @property
    def told(self) -> pb.Similarity:
        """What ``GetInfo`` says of the similarity index in use: no images where there is none, or a damaged one."""
        if (opened := self._opened) is None:
            return pb.Similarity()
        return pb.Similarity(images=opened[0].images, version=opened[0].version, kind=opened[0].kind)

    def search(self, request: pb.SearchRequest, caller: Caller) -> bytes:
        """Neighbours of each query, as ``SearchResponse`` on the wire.

        Args:
            request: what is asked for.
            caller: who waits.

        Raises:
            InvalidRequest: no queries, queries of two kinds, too many of them, or k out of its limits.
            NotReady: no index was built yet.
            StoreError: the index is damaged.
            VersionMismatch: the index is of another version than is asked for, or than is served; or words or photos
                cannot be compared with its vectors.
            WrongShard: another server owns one of the images.
            Overloaded: too much is under way.
            DeadlineExceeded: it took too long, or the caller has gone.
        """
        started = time.perf_counter_ns()
        if sum(map(bool, (request.image_ids, request.photos, request.texts))) != 1:
            raise InvalidRequest("Give queries either as image_ids, as photos or as texts.")
        if not 1 <= request.k <= MAX_NEIGHBOURS:
            raise InvalidRequest(f"k is {request.k}; from 1 to {MAX_NEIGHBOURS} neighbours can be asked for.")
        brought = list(request.photos) or [text.encode() for text in request.texts]
        if len(brought) > MAX_QUERIES:
            raise InvalidRequest(f"{len(brought)} queries came in one call; the limit is {MAX_QUERIES} (GetInfo).")
        ids = ids_of(request.image_ids, MAX_QUERIES, self._ownership)
        info, index = self._index(request.version)
        serving = self._served.of(info.version)
        queries = len(ids) or len(brought)
        reply = Cost(size=REPLY_COPIES * queries * (request.k + 1) * ANSWER_BYTES)
        cost = Cost(size=sum(map(len, brought)) + BLOCK_BYTES, slow=1)
        with self._admission.held_until_sent(reply, caller), self._admission.held(cost, caller):
            if brought:
                maker = self._words.maker(serving) if request.texts else _of_photos(serving)
                vectors, status = self._seen(serving, maker, brought, caller)
            else:
                vectors, status, _ = self._lookup.rows(serving, ids, caller)
            near, cosines = self._neighbours(serving, index, vectors, request.k, ids, caller)
            failed = ~is_ok(status)
            near[failed], cosines[failed] = NONE, 0
            took_ns = time.perf_counter_ns() - started
            small = pb.SearchResponse(version=info.version, images=info.images, server_time_ns=took_ns)
            return with_blocks(small, image_ids=near, cosines=cosines, status=status)

    def _index(self, wanted: str) -> tuple[SimilarityInfo, SimilarityIndex]:
        if self._opened is None and self._damage is None:
            self.follow()  # a build may have ended since the service looked last
        opened, damage = self._opened, self._damage
        if damage is not None:
            raise damage
        if opened is None:
            raise NotReady(
                f"The store has no similarity index yet. {self._served.store.similarity_advice}; this server will see "
                f"the result."
            )
        served = self._served.of("").version
        if opened[0].version != (wanted or served):
            raise VersionMismatch(
                f"The similarity index is of {opened[0].version}, and {wanted or served} was to be searched. "
                f"{self._served.store.similarity_advice} again."
            )
        return opened

    def _seen(
        self, serving: OpenVersion, maker: VectorMaker, photos: list[bytes], caller: Caller
    ) -> tuple[npt.NDArray[Any], Statuses]:
        """Vectors of photos or texts, not kept, shape (n, D), zeros where one is broken, and status, shape (n,)."""
        status = np.zeros(len(photos), dtype=np.uint8)
        vectors = np.zeros((len(photos), serving.table.space.dim), dtype=np.float32)
        for start in range(0, len(photos), CPU_BATCH):
            block = slice(start, start + CPU_BATCH)
            status[block], features = self._embedded(maker, photos[block], caller)
            if len(features):
                vectors[block][is_ok(status[block])] = maker.head.apply_numpy(features) if maker.head else features
        return vectors, status

    def _embedded(self, maker: VectorMaker, photos: list[bytes], caller: Caller) -> tuple[Statuses, npt.NDArray[Any]]:
        """Status of each photo, shape (n,), and the features of those that are OK."""
        preprocessing = maker.embedder.backbone.preprocessing
        decoded = [self._photos.query(data, preprocessing, caller) for data in photos]
        caller.check()
        decoded, features = embed(maker.embedder.engine, decoded, maker.features.dim)
        return np.array([photo.status for photo in decoded], dtype=np.uint8), features

    def _neighbours(
        self, serving: OpenVersion, index: SimilarityIndex, vectors: npt.NDArray[Any], k: int, own: Ids, caller: Caller
    ) -> tuple[Ids, Cosines]:
        """Of each query, shape (n, k), without its ``own`` id; those of photos have none.

        All of a block is done in one turn: many calls that copy at the same time would keep the others from running.
        """
        found = np.zeros((len(vectors), k), dtype="<i8")
        cosines = np.zeros((len(vectors), k), dtype="<f4")
        asked = k + bool(len(own))
        rows = index.queries_at_once(asked, BLOCK_PRODUCTS, BLOCK_BYTES)
        for start in range(0, len(vectors), rows):
            block = slice(start, start + rows)
            with self._turns.one(caller):
                near = index.search(vectors[block].astype(np.float32), asked, lambda ids: serving.table.get(ids)[0])
                found[block], cosines[block] = _of_others(own[block], *near) if len(own) else near
        return found, cosines


def _of_photos(serving: OpenVersion) -> VectorMaker:
    """What sees the photos that are compared with vectors of a version.

    Raises:
        VersionMismatch: nothing does.
    """
    if serving.maker is None:
        raise VersionMismatch(f"The vectors of {serving.version} were imported: there is no CNN to see a photo with.")
    if Version.parse(serving.version).of_texts:
        raise VersionMismatch(
            f"The vectors of {serving.version} are of texts: search with words, and not with a photo."
        )
    return serving.maker


def _of_others(own: Ids, found: Ids, cosines: Cosines) -> tuple[Ids, Cosines]:
    """Without each query's own id, shape (n,), or else its last neighbour: one neighbour fewer."""
    itself = found == own[:, None]
    behind = np.logical_or.accumulate(itself[:, :-1], axis=1)  # those move up by one
    return np.where(behind, found[:, 1:], found[:, :-1]), np.where(behind, cosines[:, 1:], cosines[:, :-1])
