"""Images under way: each is computed once, however many callers wait for it, and counted as it ends."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from crossmedia.imgserver.serving.miss import Miss
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller
from crossmedia.status import NOT_YET, Status


@dataclass
class MissCounters:
    """Totals since the start: images whose vector was made, through the CNN, batches of it, and failures by status."""

    computed: int = 0
    cnn_passes: int = 0
    cnn_batches: int = 0
    failed: Counter[int] = field(default_factory=Counter)


class UnderWay:
    """From the admission of an image to its end.

    Args:
        admission: counts the images under way.
        on_batch: told the size of each CNN batch.
    """

    def __init__(self, admission: Admission, on_batch: Callable[[int], None]):
        self._admission, self._on_batch = admission, on_batch
        self.counters = MissCounters()
        self.last_batch_at = time.monotonic()
        self.lock = threading.Lock()
        self._misses: dict[tuple[str, int, int], Miss] = {}

    def __len__(self) -> int:
        return len(self._misses)

    def admit(self, wanted: list[Miss], caller: Caller) -> tuple[list[Miss], list[Miss]]:
        """Let a caller wait for images; called under the lock, until those that are new wait in a stage.

        Args:
            wanted: each once.
            caller: who waits.

        Returns:
            the images to wait for, those that were under way already among them, and those that are new.

        Raises:
            Overloaded: more images would be under way than are admitted; nothing was begun.
        """
        new = [miss for miss in wanted if miss.key not in self._misses]
        asked = [miss for miss in new if not miss.probe]
        permits = self._admission.permits(Cost(items=1), len(asked), caller.name)
        for miss, permit in zip(asked, permits, strict=True):
            miss.permit = permit
        self._misses.update((miss.key, miss) for miss in new)
        misses = [self._misses[miss.key] for miss in wanted]
        caller.expect(len(misses))
        for miss in misses:
            miss.callers.append(caller)
        return misses, new

    def note_batch(self, misses: list[Miss]) -> None:
        """Count images that went through the CNN just now."""
        self.last_batch_at = time.monotonic()
        if asked := sum(not miss.probe for miss in misses):
            with self.lock:
                self.counters.cnn_passes += asked
                self.counters.cnn_batches += 1
            self._on_batch(asked)
            self._admission.note_rate(asked)

    def note_failed(self, images: int, status: int) -> None:
        """Count images that failed without having been under way."""
        if images:
            with self.lock:
                self.counters.failed[status] += images

    def end(self, misses: list[Miss], status: int) -> None:
        """Give images their status and wake who waits; one that has ended already stays as it is."""
        misses = [miss for miss in misses if miss.status == NOT_YET]
        if not misses:
            return
        with self.lock:
            for miss in misses:
                self._misses.pop(miss.key, None)
            if status != Status.OK:
                self.counters.failed[status] += sum(not miss.probe for miss in misses)
        for miss in misses:
            miss.end(status)
