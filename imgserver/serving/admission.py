"""How much work is taken on: one rule for every call, counted in what it will cost, before the work begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from imgserver.allocator import KEEP_BYTES
from imgserver.errors import InvalidRequest, Overloaded
from imgserver.serving.fair import FairQueue
from imgserver.serving.jobs import Caller

FIRST_RATE = 100.0  # images a second that even a slow machine computes
MAX_HINT_S = 5.0
MAX_SLOW = 48  # calls that take long: more are no faster, and each holds a thread and memory
SHARE = 0.75  # of anything, the most that one caller may hold: the rest is there for the others
LOOK_S = 0.2
BURST, AFTER_BURST_S = KEEP_BYTES, 5.0


@dataclass(frozen=True)
class Cost:
    """What a call takes while it is under way.

    Attributes:
        images: that wait for the CNN.
        size: bytes of memory: of the message, photos, features, what a head makes of them on the way, and the reply.
        slow: 1 for a call that computes, decodes or searches; 0 for a look into a table.
    """

    images: int = 0
    size: int = 0
    slow: int = 0


@dataclass
class _Held:
    """What one caller holds."""

    images: int = 0
    size: int = 0
    slow: int = 0


class Admission:
    """Counts what is under way, in all and of each caller.

    A caller without a name is the process itself, and has all there is.

    Args:
        max_images: most images waiting.
        max_size: most bytes held.
        max_slow: most calls that take long.
    """

    def __init__(self, max_images: int, max_size: int, max_slow: int = MAX_SLOW):
        self._max_images, self._max_size, self._max_slow = max_images, max_size, max_slow
        self._lock = threading.Lock()
        self.images = self.size = self.slow = self.refused = 0
        self._held: dict[str, _Held] = {}
        self._much_at = -AFTER_BURST_S
        self._rate = FIRST_RATE
        self._ended_at = 0.0

    @property
    def share(self) -> int:
        """Most bytes that one caller may hold, and so the most that a call may cost."""
        return _share(self._max_size)

    @property
    def share_of_images(self) -> int:
        """Most images that may wait for one caller, and so the most that a call may ask for."""
        return _share(self._max_images)

    def take(self, cost: Cost, name: str = "") -> None:
        """Take on all of a cost, or nothing.

        Args:
            cost: of the work.
            name: of the caller.

        Raises:
            InvalidRequest: not even an idle server would take it on.
            Overloaded: it would be more than is admitted; with the time after which a try may go better.
        """
        if cost.size > self.share:
            raise InvalidRequest(
                f"This call would take {_mib(cost.size)} of memory here, and one caller may hold {_mib(self.share)}. "
                f"Ask for fewer images in a call."
            )
        with self._lock:
            held = self._held.get(name) or _Held()
            if trouble := self._trouble(cost, name, held):
                self.refused += 1
                hint = min(MAX_HINT_S, max(0.1, self.images / self._rate))
                advice = ", or embed the catalogue before, by imgserver precompute" if cost.images else ""
                raise Overloaded(f"{trouble} Try again in {hint:.1f} s{advice}.", retry_after_s=hint)
            self.images += cost.images
            self.size += cost.size
            self.slow += cost.slow
            if cost != Cost():
                held.images += cost.images
                held.size += cost.size
                held.slow += cost.slow
                self._held[name] = held

    def _trouble(self, cost: Cost, name: str, held: _Held) -> str:
        """Why a cost is too much now; empty when it is not."""
        if self.images + cost.images > self._max_images:
            return (
                f"{self.images} images wait for the CNN; {cost.images} more would exceed the limit of "
                f"{self._max_images}."
            )
        for what, here, mine, more, most in (
            (_images, self.images, held.images, cost.images, self._max_images),
            (_mib, self.size, held.size, cost.size, self._max_size),
            (_calls, self.slow, held.slow, cost.slow, self._max_slow),
        ):
            if here + more > most:
                return f"{what(here)} are under way; {what(more)} more would exceed the limit of {what(most)}."
            if name and more and mine + more > _share(most):
                return (
                    f"{what(mine)} are under way for {name}; {what(more)} more would exceed the share of one caller, "
                    f"{what(_share(most))}."
                )
        return ""

    def give_back(self, cost: Cost, name: str = "") -> None:
        """The work has ended."""
        with self._lock:
            if self.size > BURST:
                self._much_at = time.monotonic()
            self.images -= cost.images
            self.size -= cost.size
            self.slow -= cost.slow
            if held := self._held.get(name):
                held.images -= cost.images
                held.size -= cost.size
                held.slow -= cost.slow
                if held == _Held():
                    del self._held[name]

    @property
    def burst_is_over(self) -> bool:
        """Whether much was held some seconds ago, and little is now."""
        with self._lock:
            return self.size < BURST // 4 and time.monotonic() - self._much_at < AFTER_BURST_S

    def note_rate(self, images: int) -> None:
        """So many images left the CNN just now: what the retry hint is reckoned from."""
        now = time.monotonic()
        took = now - self._ended_at
        if 0 < took < 1.0:  # after a pause the time says nothing
            self._rate += 0.1 * (images / took - self._rate)
        self._ended_at = now

    @contextmanager
    def held(self, cost: Cost, caller: Caller) -> Iterator[None]:
        """Take on work for the time of a block.

        Raises:
            InvalidRequest, Overloaded: as ``take``.
        """
        self.take(cost, caller.name)
        try:
            yield
        finally:
            self.give_back(cost, caller.name)

    @contextmanager
    def held_until_sent(self, cost: Cost, caller: Caller) -> Iterator[None]:
        """Take on what a reply costs: for the time of a block, and on until the caller has the reply or has gone.

        Raises:
            InvalidRequest, Overloaded: as ``take``.
        """
        self.take(cost, caller.name)
        sent = False
        try:
            yield
            sent = caller.at_end(lambda: self.give_back(cost, caller.name))
        finally:
            if not sent:
                self.give_back(cost, caller.name)


class Turns:
    """So many at a time; the others wait for their turn, as long as their callers do, and callers are served in turn.

    Args:
        at_once: how many.
    """

    def __init__(self, at_once: int):
        self._free = at_once
        self._lock = threading.Lock()
        self._waiting: FairQueue[threading.Event] = FairQueue()

    @contextmanager
    def one(self, caller: Caller) -> Iterator[None]:
        """Wait for a turn, and have it for the time of a block.

        Raises:
            DeadlineExceeded: the caller has gone, or its deadline is over.
        """
        caller.check()
        turn = threading.Event()
        with self._lock:
            self._waiting.append(caller.name, turn)
            self._give()
        try:
            while not turn.wait(min(LOOK_S, max(0.0, caller.deadline - time.monotonic()))):
                caller.check()
            yield
        finally:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._free += 1
                self._give()

    def _give(self) -> None:
        """Hand out the turns that are free, so that nobody who comes later takes them; called under the lock."""
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.pop().set()


def _share(most: int) -> int:
    return max(1, int(SHARE * most))


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"


def _images(count: int) -> str:
    return f"{count} images that wait for the CNN"


def _calls(count: int) -> str:
    return f"{count} calls that take long"
