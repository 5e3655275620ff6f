"""Turns for those alone who will be answered in time: nothing waits that will be late.

How long a call will wait is known before it waits: what stands before it, times what such work took lately. Whoever
would come too late is refused at once, with the time after which a try may go better, instead of taking the time of
those who would have been in time. Without this a server that is asked for more than it can do answers everybody late.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from crossmedia.errors import Overloaded
from crossmedia.service.admission import MAX_HINT_S, Turns
from crossmedia.service.callers import Caller

MEASURED, LEAST_MEASURED = 15, 8  # calls that an estimate is made of; the first of a process find nothing warm
LEAST_HINT_S = 0.05
# Of the time that a call has, this much is for waiting and work: all who wait stand near the limit when there is too
# much, so that with all of it a half of them would be late.
PART = 0.5


class TimelyTurns:
    """Gives turns, as ``Turns`` does, to calls that are expected to be in time; the others are refused.

    As many calls may wait as are worked on, whatever is expected: no core stands still between two calls, and what they
    take is measured, so that an estimate that was wrong is soon right again. Callers have their turns one after the
    other, so one who has little waiting is not refused for what another has.

    Args:
        at_once: calls that are worked on side by side.
        most_wait_s: seconds that a call may be expected to wait, if its own deadline is not sooner.

    Attributes:
        seconds_an_item: half of the items that were worked on lately took less, in one turn: a median, so that one call
            that had to wait for something else says little; 0 before any was measured.
        refused: calls that would have been late.
    """

    def __init__(self, at_once: int, most_wait_s: float):
        self._turns, self._at_once, self._most_wait_s = Turns(at_once), at_once, most_wait_s
        self._lock = threading.Lock()
        self._pending: dict[str, int] = {}  # items by caller, those that are worked on included
        self._calls = self._working = 0  # calls that wait or have a turn; items that are worked on
        self._took: deque[tuple[float, int]] = deque(maxlen=MEASURED)  # seconds an item, and items, of each call
        self.seconds_an_item, self.refused = 0.0, 0

    def check(self, name: str, deadline: float, items: int = 0) -> None:
        """Refuse a call that will be late.

        Args:
            name: of the caller.
            deadline: on the monotonic clock.
            items: pieces of work that it brings; 0 where that is not known yet.

        Raises:
            Overloaded: it will be late; with the time after which a try may go better.
        """
        with self._lock:
            self._check(name, deadline, items)

    def _check(self, name: str, deadline: float, items: int) -> None:
        if self._calls < 2 * self._at_once or len(self._took) < LEAST_MEASURED:
            return
        each = self.seconds_an_item
        ahead = min(sum(self._pending.values()), self._pending.get(name, 0) * len(self._pending) + self._working)
        wait = ahead * each / self._at_once
        left = deadline - time.monotonic()
        spare = min(self._most_wait_s, PART * left - items * each) - wait
        if spare >= 0:
            return
        self.refused += 1
        hint = min(MAX_HINT_S, max(LEAST_HINT_S, -spare))
        raise Overloaded(
            f"{ahead} items are before these, which would wait for about {wait:.2g} s and be late. Try again in "
            f"{hint:.2g} s.",
            retry_after_s=hint,
        )

    @contextmanager
    def one(self, caller: Caller, items: int) -> Iterator[None]:
        """Wait for a turn, and hold it for the time of a block, which is measured unless it fails.

        Raises:
            Overloaded: it would come too late.
            DeadlineExceeded: the caller has gone, or its deadline is over.
        """
        name = caller.name
        with self._lock:
            self._check(name, caller.deadline, items)
            self._calls += 1
            self._pending[name] = self._pending.get(name, 0) + items
        try:
            with self._turns.one(caller), self._measured(items):
                yield
        finally:
            with self._lock:
                self._calls -= 1
                self._pending[name] -= items
                if not self._pending[name]:
                    del self._pending[name]

    @contextmanager
    def own(self, seconds: float) -> Iterator[None]:
        """A turn of the process itself, which is as good as a caller, and neither refused nor counted.

        Args:
            seconds: that it waits at most.

        Raises:
            DeadlineExceeded: it did not have its turn by then.
        """
        caller = Caller(time.monotonic() + seconds)
        caller.name = ""
        with self._turns.one(caller):
            yield

    @contextmanager
    def _measured(self, items: int) -> Iterator[None]:
        with self._lock:
            self._working += items
        started = time.perf_counter()
        try:
            yield
            with self._lock:
                self._took.append(((time.perf_counter() - started) / items, items))
                self.seconds_an_item = _median(self._took)
        finally:
            with self._lock:
                self._working -= items


def _median(weighted: Iterable[tuple[float, int]]) -> float:
    """The least of some values that, with those below it, has half of the weight; each value stands with its weight."""
    ordered = sorted(weighted)
    left = sum(weight for _, weight in ordered) / 2
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    return 0.0
