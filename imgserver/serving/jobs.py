"""One image under way, and the calls that wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from imgserver.errors import DeadlineExceeded
from imgserver.head import Head
from imgserver.logs import request_id
from imgserver.storage.records import Space
from imgserver.storage.stores import Lookups
from imgserver.vision.embedder import Embedder
from imgserver.vision.photos import Photo

NOT_YET = 0
MOST_NAMED = 10  # calls in a line of the log
# Takes a function to be called when a call has ended, the reply sent or the caller gone; False: it has ended already.
OnEnd = Callable[[Callable[[], None]], bool]
caller_name: ContextVar[str] = ContextVar("caller_name", default="")  # of a call: by its token, else by its host


@dataclass(frozen=True)
class Model:
    """What makes more vectors of a version; imported vectors have none.

    Attributes:
        embedder: makes features.
        head: makes vectors of them; None: the version is the backbone's, and its vectors are the features.
        features: where they are kept.
    """

    embedder: Embedder
    head: Head | None
    features: Space


@dataclass(frozen=True)
class Serving:
    """A version that is served; replaced as a whole, so no reply mixes two versions."""

    version: str
    table: Lookups
    model: Model | None


class Caller:
    """A call: who makes it, until when, and whether it went away meanwhile.

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
        """Look up between two pieces of work.

        Raises:
            DeadlineExceeded: nobody waits for the rest any more.
        """
        if self._gone:
            raise DeadlineExceeded("The caller has gone, so that the rest was not done.")
        if time.monotonic() >= self.deadline:
            raise DeadlineExceeded("The deadline was over before all was done. Allow more time, or ask for less.")

    def at_end(self, function: Callable[[], None]) -> bool:
        """Have a function called when the call has ended; False, and it is not: there is no end to wait for."""
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
        """The images are not waited for any more."""
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    def expect(self, images: int) -> None:
        """So many images are waited for; called before any of them can end."""
        self._left, self._woken = images, threading.Event()
        if not images or self._gone:  # it may have gone before there was anything to wake
            self._wake()

    def one_ended(self, started_ns: int) -> None:
        """An image ended, with success or not; ``started_ns`` is when it left the queue, 0 if it never did."""
        with self._lock:
            self._left -= 1
            if started_ns:
                self.queue_time_ns = max(self.queue_time_ns, started_ns - self._began)
                self.compute_time_ns = max(self.compute_time_ns, time.perf_counter_ns() - started_ns)
            if self._left <= 0:
                self._wake()

    def wait(self) -> None:
        """Until all images ended, the call was given up, or shortly before the deadline, so that an answer comes."""
        if self._woken is not None:
            self._woken.wait(max(0.0, self.deadline - time.monotonic() - 0.05))


@dataclass(eq=False)
class Job:
    """One image under way, for all calls that wait for it."""

    image_id: int
    serving: Serving
    model: Model
    data: bytes | None = None  # brought by a caller; else the catalogue's
    content: int = 0  # hash of ``data``
    name: str = ""  # of the caller who asked first, of whose share it is
    probe: bool = False  # goes all the way in the lane of lookups, and is not stored
    callers: list[Caller] = field(default_factory=list)
    status: int = NOT_YET
    photo: Photo | None = None
    feature: npt.NDArray[Any] | None = None
    vector: npt.NDArray[Any] | None = None
    started_ns: int = 0

    @property
    def key(self) -> tuple[str, int, int]:
        """What one computation is enough for."""
        return self.serving.version, self.image_id, self.content

    @property
    def brought(self) -> bool:
        """Whether a caller brought the photo, who may be asked to wait longer."""
        return self.data is not None and not self.probe

    @property
    def wanted(self) -> bool:
        """Whether any caller still waits."""
        return any(caller.waits for caller in self.callers)


@contextmanager
def for_callers(jobs: list[Job]) -> Iterator[None]:
    """Lines that are logged meanwhile have the ids of the calls that wait for these images."""
    waiting = dict.fromkeys(caller.request for job in jobs for caller in job.callers if caller.request)
    token = request_id.set(",".join(islice(waiting, MOST_NAMED)))
    try:
        yield
    finally:
        request_id.reset(token)


def features_of(jobs: list[Job]) -> npt.NDArray[Any] | None:
    """Features of jobs that have one, shape (n, F); None when there is no job."""
    return np.stack([job.feature for job in jobs if job.feature is not None]) if jobs else None
