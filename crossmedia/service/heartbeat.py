"""Health that means something: work really goes through.

When no work went through for some seconds, a probe of it does. A probe that fails turns a daemon NOT_SERVING, and the
next good one turns it back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0


class Work(Protocol):
    """What a daemon is for, as its health sees it.

    Attributes:
        timeout_s: seconds that ``probe`` may take.
    """

    timeout_s: float

    @property
    def alive(self) -> bool:
        """Whether nothing has ended that work passes through; looked at each second."""
        ...

    @property
    def last_at(self) -> float:
        """When work went through last, on the monotonic clock."""
        ...

    def probe(self) -> None:
        """Have a piece of work go the way of all; an error of any kind says that it did not get through."""
        ...


class Heartbeat:
    """Watches work and reports through ``on_change(serving)``.

    Args:
        work: what is watched.
        on_change: called with True or False when the state changes, and once at the start.
        probe_after_s: seconds without work until a probe runs.
    """

    def __init__(self, work: Work, on_change: Callable[[bool], None], probe_after_s: float):
        self._work, self._on_change, self._probe_after_s = work, on_change, probe_after_s
        self._prober = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._stop = threading.Event()
        self._healthy: bool | None = None
        self._probed_at = -float("inf")
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Probe once, report, and go on watching."""
        self._report(self._probe())
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._prober.shutdown(wait=False)

    def _run(self) -> None:
        while not self._stop.wait(CHECK_EVERY_S):
            last = max(self._probed_at, self._work.last_at)
            if self._healthy and not self._work.alive:
                self._report(False)
            elif not self._healthy or time.monotonic() - last > self._probe_after_s:
                self._report(self._probe())

    def _report(self, healthy: bool) -> None:
        if healthy != self._healthy and not self._stop.is_set():
            self._healthy = healthy
            log.log(logging.INFO if healthy else logging.ERROR, "health: %s", "serving" if healthy else "not serving")
            self._on_change(healthy)

    def _probe(self) -> bool:
        try:
            self._prober.submit(self._work.probe).result(self._work.timeout_s + 1)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            if failure != self._said:  # once, not every second
                log.error("the health probe failed: %s", failure)
            self._said = failure
            return False
        self._said = ""
        self._probed_at = time.monotonic()
        return True
