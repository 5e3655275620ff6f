"""Vectors that are not there yet: decode in processes, one CNN batch of whatever waits, one writer.

    admitted ──> decode threads ──> CNN ──> writer: rows and index in one transaction, table ──> callers wake

An image is computed once, however many callers wait for it; a failure is that image's alone; an image that nobody
waits for any more is dropped before it costs anything. There is no linger: an idle CNN takes a single image at once,
and the writer commits what came while it wrote. Lookups go before photos that are brought, and neither waits for a
decoder of the other; within each, callers take turns.

Each stage has its file: ``decode_stage``, ``embed_stage``, ``write_stage``; ``under_way`` admits images and ends them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import StoreError
from crossmedia.imgserver.serving.decode_stage import DecodeStage
from crossmedia.imgserver.serving.embed_stage import EmbedStage
from crossmedia.imgserver.serving.miss import Miss
from crossmedia.imgserver.serving.open_versions import VectorMaker
from crossmedia.imgserver.serving.photo_reader import PhotoReader
from crossmedia.imgserver.serving.under_way import UnderWay
from crossmedia.imgserver.serving.write_stage import WriteStage
from crossmedia.imgserver.storage.records import Ids, content_hash
from crossmedia.imgserver.storage.stores import ServedStore
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.service.admission import Admission
from crossmedia.service.callers import Caller
from crossmedia.status import Status

CLOSE_S = 2.0  # for what is being decoded when the service ends
PROBE_ID = -1  # of no image


class Misses:
    """Computes the vectors of images that the table does not know, and of images that callers bring.

    Args:
        store: where results go.
        photos: reads them.
        admission: counts the images under way.
        machine: says how large a batch of the CNN is, and how many are under way.
        on_batch: told the size of each CNN batch.

    Attributes:
        counters: totals since the start.
    """

    def __init__(
        self,
        store: ServedStore,
        photos: PhotoReader,
        admission: Admission,
        machine: Machine,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self._store, self.photos = store, photos
        self._under_way = UnderWay(admission, on_batch)
        self.counters = self._under_way.counters
        writing = WriteStage(store, self._under_way)
        self._embedding = EmbedStage(writing, self._under_way, machine)
        self._lookups = DecodeStage(store, photos, self._embedding, self._under_way, brought=False)
        self._brought = DecodeStage(store, photos, self._embedding, self._under_way, brought=True)
        self._stages = self._lookups, self._brought, self._embedding, writing
        for stage in self._stages:
            stage.start()

    @property
    def last_batch_at(self) -> float:
        """When the CNN was through with a batch, on the monotonic clock."""
        return self._under_way.last_batch_at

    @property
    def alive(self) -> bool:
        """Whether every thread that an image passes through is there."""
        return all(stage.alive for stage in self._stages)

    @property
    def waiting(self) -> int:
        """Images under way."""
        return len(self._under_way)

    def close(self) -> None:
        """Finish what is under way, then stop; what is not decoded within ``CLOSE_S`` fails."""
        until = time.monotonic() + CLOSE_S
        decoding = self._lookups, self._brought
        for stage in decoding:
            stage.close()
        for stage in decoding:
            stage.join(until)
        self.photos.close()
        for later in self._stages:  # in the order of the way, so that each gets the rest of the one before it
            later.close()
            later.join()

    def resolve(self, maker: VectorMaker, ids: Ids, caller: Caller) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Have the vectors of ``ids`` computed and stored; wait until they are, or as long as the caller does.

        Args:
            maker: of the version that is wanted.
            ids: shape (n,), each once; the table has no vector of them.
            caller: who waits.

        Returns:
            vectors as they are stored, shape (n, D), zeros where there is none; status, shape (n,). They come from the
            computation and not from the store, which may have lost them again.

        Raises:
            Overloaded: more images would be under way than are admitted; nothing was begun.
        """
        space = maker.table.space
        vectors = np.zeros((len(ids), space.dim), dtype=space.value_dtype)
        status = np.full(len(ids), Status.NOT_FOUND, dtype=np.uint8)
        rows = np.flatnonzero(~self._nowhere(maker, ids))
        self._under_way.note_failed(len(ids) - len(rows), Status.NOT_FOUND)
        # Somebody else's computation may have ended since the caller looked; each miss asks the store before it works.
        misses = self._admit([Miss(image_id, maker) for image_id in ids[rows].tolist()], self._lookups, caller)
        status[rows] = _ended(misses, caller)
        for row, miss in zip(rows.tolist(), misses, strict=True):
            if status[row] == Status.OK:
                vectors[row] = miss.vector
        return vectors, status

    def _nowhere(self, maker: VectorMaker, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which ids, shape (n,), have neither photo, row nor feature; there is nothing to do for them."""
        nowhere = np.zeros(len(ids), dtype=np.bool_)
        if self.photos.catalogue is None:
            return nowhere
        lacking = np.flatnonzero(self.photos.catalogue.lacks(ids))
        try:
            for kept in (maker.table.space, maker.features) if len(lacking) else ():
                lacking = lacking[~self._store.knows(kept, ids[lacking])]
        except StoreError:  # each image fails by itself
            return nowhere
        nowhere[lacking] = True
        return nowhere

    def put(self, maker: VectorMaker, photos: list[tuple[int, bytes]], caller: Caller) -> npt.NDArray[np.uint8]:
        """Have photos that a caller brings embedded and stored; one that is stored with the same bytes costs nothing.

        Args:
            maker: of the version that is wanted.
            photos: ids, each once, and bytes.
            caller: who waits.

        Returns:
            status, shape (n,): OK means that the table now holds the vector of these bytes. Of a photo that is
            refused nothing is stored if there is a vector already, which stays.

        Raises:
            Overloaded: more images would be under way than are admitted; nothing was begun.
        """
        wanted = [Miss(image_id, maker, data, content_hash(data)) for image_id, data in photos]
        return _ended(self._admit(wanted, self._brought, caller), caller)

    def probe(self, maker: VectorMaker, photo: bytes, deadline: float) -> int:
        """The status of a photo that goes the way of lookups, through decoders, CNN and writer, and is not stored."""
        caller = Caller(deadline)
        miss = Miss(PROBE_ID, maker, photo, content_hash(photo), probe=True)
        return int(_ended(self._admit([miss], self._lookups, caller), caller)[0])

    def _admit(self, wanted: list[Miss], decoding: DecodeStage, caller: Caller) -> list[Miss]:
        """The images to wait for, those that were under way already among them."""
        with self._under_way.lock:
            misses, new = self._under_way.admit(wanted, caller)
            decoding.put(*new)
            decoding.share(misses, caller.name)
        return misses


def _ended(misses: list[Miss], caller: Caller) -> npt.NDArray[np.uint8]:
    """The status of each image when all have ended, or the caller waits no longer."""
    try:
        caller.wait()
    finally:
        caller.leave()
    return np.array([miss.status or Status.TIMED_OUT for miss in misses], dtype=np.uint8)
