"""How much work is taken on: one rule for a call with one id and with ten thousand, counted in ids and in bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from imgserver.errors import Overloaded

FIRST_RATE = 100.0  # images a second that even a slow machine computes
MAX_HINT_S = 5.0


class Admission:
    """Counts what is under way: images that wait for the CNN, and bytes of photos brought and of replies.

    Args:
        max_ids: most images waiting.
        max_bytes: most bytes held.
    """

    def __init__(self, max_ids: int, max_bytes: int):
        self._max_ids, self._max_bytes = max_ids, max_bytes
        self._lock = threading.Lock()
        self.ids = self.bytes = self.refused = 0
        self._rate = FIRST_RATE
        self._ended_at = 0.0

    def take(self, ids: int, size: int) -> None:
        """Take on ``ids`` images and ``size`` bytes, or nothing.

        Raises:
            Overloaded: it would be more than is admitted; with the time after which a try may go better.
        """
        with self._lock:
            if self.ids + ids <= self._max_ids and self.bytes + size <= self._max_bytes:
                self.ids += ids
                self.bytes += size
                return
            self.refused += 1
            hint = min(MAX_HINT_S, max(0.1, self.ids / self._rate))
            too_many = self.ids + ids > self._max_ids
            raise Overloaded(
                f"{self.ids} images wait for the CNN and {self.bytes >> 20} MiB are under way; {ids} images and "
                f"{size >> 20} MiB more would exceed the limit of {self._max_ids} images or "
                f"{self._max_bytes >> 20} MiB. Try again in {hint:.1f} s"
                f"{', or embed the catalogue before, by imgserver precompute' if too_many else ''}.",
                retry_after_s=hint,
            )

    def give_back(self, ids: int, size: int) -> None:
        """The work has ended."""
        with self._lock:
            self.ids -= ids
            self.bytes -= size

    def note_rate(self, images: int) -> None:
        """So many images left the CNN just now: what the retry hint is reckoned from."""
        now = time.monotonic()
        took = now - self._ended_at
        if 0 < took < 1.0:  # after a pause the time says nothing
            self._rate += 0.1 * (images / took - self._rate)
        self._ended_at = now

    @contextmanager
    def held(self, ids: int, size: int) -> Iterator[None]:
        """Take on work for the time of a block.

        Raises:
            Overloaded: as ``take``.
        """
        self.take(ids, size)
        try:
            yield
        finally:
            self.give_back(ids, size)
