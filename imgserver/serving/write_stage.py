"""The last stage: head, rows and index in one transaction, table; then callers wake."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.serving.miss import Miss
from crossmedia.imgserver.serving.stage import Stage
from crossmedia.imgserver.serving.under_way import UnderWay
from crossmedia.imgserver.storage.records import Rows, Space
from crossmedia.imgserver.storage.stores import ServedStore
from crossmedia.imgserver.storage.versions import VECTOR_DTYPE
from crossmedia.imgserver.vision.photos import rows_of
from crossmedia.status import NOT_YET, Status

log = logging.getLogger(__name__)

MAX_UNWRITTEN = 4  # batches between CNN and writer


class WriteStage(Stage[list[Miss]]):
    """The writer's thread: one transaction for all that the CNN made while the last one was written.

    Args:
        store: where results go.
        under_way: where images end.
    """

    most = MAX_UNWRITTEN
    fault = "writing failed"

    def __init__(self, store: ServedStore, under_way: UnderWay):
        super().__init__("writer", under_way)
        self._store = store
        self.waiting: deque[list[Miss]] = deque()

    def append(self, item: list[Miss]) -> None:
        """Let a batch wait."""
        self.waiting.append(item)

    def take(self) -> list[Miss]:
        """The batches that wait, of one version; two contents of one image are stored one after the other."""
        batch = self.waiting.popleft()
        ids = {miss.image_id for miss in batch}
        while self.waiting and self.waiting[0][0].maker is batch[0].maker:
            more = {miss.image_id for miss in self.waiting[0]}
            if more & ids:
                break
            ids |= more
            batch = batch + self.waiting.popleft()
        return batch

    def work(self, misses: list[Miss]) -> None:
        """Store what came of some images, and end them."""
        asked = [miss for miss in misses if not miss.probe]
        replaced = self._keep(asked) if asked else set()
        for miss in misses:
            status = miss.photo.status if miss.photo else Status.OK
            # Who brings a photo is told that it is not kept; who looks one up has got the vector all the same.
            in_vain = miss.brought and miss.image_id in replaced
            self._under_way.end([miss], Status.TIMED_OUT if in_vain else status)

    def _keep(self, misses: list[Miss]) -> set[int]:
        """Head, rows and index, table: in this order. Returns ids of photos that others replaced meanwhile."""
        maker = misses[0].maker
        failed = [
            miss for miss in misses if miss.photo is not None and not miss.photo.ok and not self._has_better(miss)
        ]
        done = [miss for miss in misses if miss.feature is not None]
        features = vectors = np.stack([miss.feature for miss in done if miss.feature is not None]) if done else None
        if maker.head is not None and features is not None:
            vectors = maker.head.apply_numpy(features)
            fits = _fits(vectors)
            if not fits.all():
                self._give_up([miss for miss, fine in zip(done, fits.tolist(), strict=True) if not fine])
                done, features, vectors = (
                    [miss for miss in done if miss.status == NOT_YET],
                    features[fits],
                    vectors[fits],
                )
        parts = []
        seen = [miss.decoded for miss in done]
        if any(seen) or failed:
            new = None if features is None else features[seen]
            parts.append(_rows(maker.features, [miss for miss in done if miss.decoded] + failed, new))
        if maker.head is not None and done + failed:
            parts.append(_rows(maker.table.space, done + failed, vectors))
        if vectors is not None:
            # As they are stored, as whoever asks next will get them.
            for miss, vector in zip(done, self._store.as_stored(maker.table.space, vectors), strict=True):
                miss.vector = vector
        replaced = set(self._store.put_all(parts).tolist()) if parts else set()
        maker.table.refresh()
        self._under_way.counters.computed += len(done)
        return replaced

    def _give_up(self, wrong: list[Miss]) -> None:
        log.error(
            "the head of %s is not fit for %d images, such as %d: float16 cannot hold their vectors",
            wrong[0].maker.table.space.name, len(wrong), wrong[0].image_id,
        )  # fmt: skip
        self._under_way.end(wrong, Status.FAILED)

    def _has_better(self, miss: Miss) -> bool:
        """Whether a photo that a caller brings and that is refused would replace a row or a feature of a good one."""
        spaces = (miss.maker.table.space, miss.maker.features) if miss.brought else ()
        stored = [self._store.fetch(space, miss.image_id) for space in spaces]
        return any(known is not None and known.entry["status"] == Status.OK for known in stored)


def _rows(space: Space, misses: list[Miss], values: npt.NDArray[Any] | None) -> Rows:
    return rows_of(space, [miss.photo for miss in misses if miss.photo is not None], values)


def _fits(vectors: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of some vectors, shape (n, D), are finite as they are stored, shape (n,)."""
    with np.errstate(over="ignore"):
        fits: npt.NDArray[np.bool_] = np.isfinite(vectors.astype(VECTOR_DTYPE)).all(axis=1)
    return fits
