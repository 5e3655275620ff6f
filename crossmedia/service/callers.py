"""Callers: who waits for an answer, until when, and whether they still wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

from crossmedia.errors import DeadlineExceeded
from crossmedia.logs import request_id

# Takes a function to be called when a call has ended, the reply sent or the caller gone; False: it has ended already.
OnEnd = Callable[[Callable[[], None]], bool]
caller_name: ContextVar[str] = ContextVar("caller_name", default="")  # of a call: by its token, else by its host


class Caller:
    """A call: who makes it, until when, and whether the caller has left meanwhile.

    Args:
        deadline: on the monotonic clock.
        on_end: tells when the call has ended; None: there is nobody who could go away.
    """

    def __init__(self, deadline: float, on_end: OnEnd | None = None):
        self.deadline = deadline
        self.name, self.request = caller_name.get(), request_id.get()
        self.queue_time_ns = self.compute_time_ns = 0
        self._began = time.perf_counter_ns()
        self._left = 0
        self._lock = threading.Lock()
        self._woken: threading.Event | None = None  # made where it waits: most calls never do
        self._at_end: list[Callable[[], None]] | None = None if on_end is None else []
        self._gone = False
        if on_end is not None and not on_end(self._end):
            self._end()

    @property
    def waits(self) -> bool:
        """Whether anybody still wants the answer."""
        woken = self._woken
        return not (self._gone or (woken and woken.is_set())) and time.monotonic() < self.deadline

    def check(self) -> None:
        """Raise if nobody waits any more; call this between two pieces of work.

        Raises:
            DeadlineExceeded: nobody waits for the rest any more.
        """
        if self._gone:
            raise DeadlineExceeded("The caller has gone, so the rest was not done.")
        if time.monotonic() >= self.deadline:
            raise DeadlineExceeded("The deadline was over before all was done. Allow more time, or ask for less.")

    def at_end(self, function: Callable[[], None]) -> bool:
        """Call a function when the call has ended; if there is no end to wait for, return False and never call it."""
        with self._lock:
            if self._at_end is None:
                return False
            self._at_end.append(function)
            return True

    def _end(self) -> None:
        self._gone = True
        self._wake()
        with self._lock:
            functions, self._at_end = self._at_end or [], None
        for function in functions:
            function()

    def leave(self) -> None:
        """Stop waiting for the items."""
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    def expect(self, items: int) -> None:
        """Wait for so many items; call this before any of them can end."""
        self._left, self._woken = items, threading.Event()
        if not items or self._gone:  # it may have gone before there was anything to wake
            self._wake()

    def one_ended(self, started_ns: int) -> None:
        """Note that an item ended, well or not; ``started_ns`` is when it left the queue, 0 if it never did."""
        with self._lock:
            self._left -= 1
            if started_ns:
                self.queue_time_ns = max(self.queue_time_ns, started_ns - self._began)
                self.compute_time_ns = max(self.compute_time_ns, time.perf_counter_ns() - started_ns)
            if self._left <= 0:
                self._wake()

    def wait(self) -> None:
        """Wait until all items ended or the call was given up, but answer shortly before the deadline."""
        if self._woken is not None:
            self._woken.wait(max(0.0, self.deadline - time.monotonic() - 0.05))
