"""The second stage: one CNN batch of whatever waits."""

from __future__ import annotations

import time

from crossmedia.imgserver.serving.miss import Miss
from crossmedia.imgserver.serving.stage import Stage
from crossmedia.imgserver.serving.under_way import UnderWay
from crossmedia.imgserver.serving.write_stage import WriteStage
from crossmedia.imgserver.vision.embedding import embed
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.service.fair import FairQueue
from crossmedia.status import Status

DECODED = 4  # batches of pixels that wait in memory; decoding is faster than any CNN on a CPU


class Lanes:
    """What a lookup waits for goes before what may take its time; within each, callers take turns."""

    def __init__(self) -> None:
        self._lookups, self._brought = FairQueue[Miss](), FairQueue[Miss]()

    def __len__(self) -> int:
        return len(self._lookups) + len(self._brought)

    def lane_of(self, miss: Miss) -> FairQueue[Miss]:
        """Where an image waits."""
        return self._brought if miss.brought else self._lookups

    def pop(self) -> Miss:
        """The next image."""
        return (self._lookups or self._brought).pop()


class EmbedStage(Stage[Miss]):
    """The CNN's threads. There is no linger: an idle CNN takes a single image at once.

    A CPU has one thread, for what is computed then takes all of it. GPUs have several, so that one batch is copied
    while another is computed.

    Args:
        writing: the next stage.
        under_way: where images end.
        machine: says how large a batch is.
    """

    fault = "the CNN failed"

    def __init__(self, writing: WriteStage, under_way: UnderWay, machine: Machine):
        super().__init__("cnn", under_way, machine.in_flight if machine.gpus else 1)
        self._writing, self._batch, self.most = writing, machine.batch, DECODED * machine.batch
        self.waiting: Lanes = Lanes()

    def append(self, item: Miss) -> None:
        """Let an image wait."""
        item.wait_in(self.waiting.lane_of(item))

    def take(self) -> list[Miss]:
        """What waits, of one version, and an image once."""
        batch: dict[int, Miss] = {}
        others = []
        while self.waiting and len(batch) < self._batch:
            miss = self.waiting.pop()
            if miss.image_id in batch or any(other.maker is not miss.maker for other in batch.values()):
                others.append(miss)
            else:
                batch[miss.image_id] = miss
        for miss in reversed(others):  # callers of two versions take turns by batches, not by images
            self.waiting.lane_of(miss).push(miss.callers[0].name, miss)
        return list(batch.values())

    def work(self, misses: list[Miss]) -> None:
        """Give features to those images that have none yet; what nobody waits for any more costs nothing."""
        wanted = [miss for miss in misses if miss.wanted]
        self._under_way.end([miss for miss in misses if miss not in wanted], Status.TIMED_OUT)
        for miss in wanted:
            miss.started_ns = time.perf_counter_ns()
        if seen := [miss for miss in wanted if miss.decoded]:
            self._embed(seen)
        if wanted:
            self._writing.put(wanted)

    def _embed(self, seen: list[Miss]) -> None:
        maker = seen[0].maker
        photos, features = embed(maker.embedder.engine, [miss.photo for miss in seen if miss.photo], maker.features.dim)
        for miss, photo in zip(seen, photos, strict=True):
            miss.photo = photo
        for miss, feature in zip([miss for miss in seen if miss.photo and miss.photo.ok], features, strict=True):
            miss.feature = feature
        self._under_way.note_batch(seen)
