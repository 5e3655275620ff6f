"""A stage of the way of an image: threads that take what waits before them, until it is closed and nothing waits."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sized
from typing import Generic, TypeVar

from crossmedia.imgserver.serving.miss import Miss, say
from crossmedia.imgserver.serving.under_way import UnderWay
from crossmedia.status import Status

LOOK_S = 1.0  # for room in a stage whose thread may have ended

Item = TypeVar("Item")


class Stage(ABC, Generic[Item]):
    """A loop over a queue, in one or more threads. What goes wrong in it harms the images at hand alone.

    Args:
        name: of its threads, in what tools show of the process.
        under_way: where images end.
        threads: how many.

    Attributes:
        waiting: what waits for it.
        most: items that may wait; who brings one more waits until there is room. None: no limit.
        fault: what is logged when it fails.
    """

    waiting: Sized
    most: int | None = None
    fault = ""

    def __init__(self, name: str, under_way: UnderWay, threads: int = 1):
        self._under_way = under_way
        self._changed = threading.Condition()
        self._closed = False
        names = [f"{name}-{number}" for number in range(threads)] if threads > 1 else [name]
        self._threads = [threading.Thread(target=self._run, name=each, daemon=True) for each in names]

    @abstractmethod
    def append(self, item: Item) -> None:
        """Let an item wait; called under the lock."""

    @abstractmethod
    def take(self) -> list[Miss]:
        """What is to be done next, of what waits; called under the lock."""

    @abstractmethod
    def work(self, misses: list[Miss]) -> None:
        """Do it; called by a thread of this stage, without the lock."""

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether each thread is there."""
        return all(thread.is_alive() for thread in self._threads)

    def put(self, *items: Item) -> None:
        """Hand items to this stage, each as soon as there is room."""
        with self._changed:
            for item in items:
                while self.most is not None and len(self.waiting) >= self.most:
                    if not self.alive:  # nobody will make room, and whoever brings this must be able to end
                        raise RuntimeError(f"the thread {self._threads[0].name} has ended")
                    self._changed.wait(LOOK_S)
                self.append(item)
                self._changed.notify_all()

    def close(self) -> None:
        """Stop when nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, until: float | None = None) -> None:
        """Wait until it has stopped; ``until`` is on the monotonic clock."""
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self.waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                misses = self.take()
                self._changed.notify_all()
            try:
                self.work(misses)
            except Exception as error:
                say(error, self.fault, misses)
                self._under_way.end(misses, Status.FAILED)
