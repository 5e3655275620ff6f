"""A server that says nothing for long is said to: one thread watches the calls of all clients, while there are any."""

from __future__ import annotations

import logging
import os
import threading
import time
from itertools import count

log = logging.getLogger(__name__)

SILENT_S = 5.0  # after which it is said that nothing came
LOOKS = 4  # in that time
IDLE_S = 10.0  # after which the thread ends


class _Watch:
    """Calls under way, by number: when each began, whom it asked, and how long it may take."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._calls: dict[int, tuple[float, str, float]] = {}
        self._thread: threading.Thread | None = None
        self._numbers, self._latest = count(), 0.0

    def add(self, address: str, timeout_s: float) -> int:
        if self._pid != os.getpid():  # a fork has the lock as it was, and no thread
            self._begin()
        number, now = next(self._numbers), time.monotonic()
        with self._lock:
            self._calls[number], self._latest = (now, address, timeout_s), now
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="silence", daemon=True)
                self._thread.start()
        return number

    def remove(self, number: int) -> None:
        self._calls.pop(number, None)  # of a dict it is one step

    def _run(self) -> None:
        said: set[int] = set()
        while True:
            time.sleep(SILENT_S / LOOKS)
            now = time.monotonic()
            with self._lock:
                calls = dict(self._calls)
                if not calls and now - self._latest > IDLE_S:
                    self._thread = None
                    return
            said &= calls.keys()
            for number, (began, address, timeout_s) in calls.items():
                if now - began >= SILENT_S and number not in said:
                    said.add(number)
                    log.warning(
                        "The image server at %s has been silent for %.0f s: it computes images that are not stored, or "
                        "it hangs. Waiting for at most %.0f s more.",
                        *(address, now - began, max(0.0, timeout_s - (now - began))),
                    )


_watch = _Watch()


class Watched:
    """A block in which a call is waited for. It is a class, because every call passes through it.

    Args:
        address: that was asked.
        timeout_s: seconds that the call may take.
    """

    __slots__ = ("_call", "_number")

    def __init__(self, address: str, timeout_s: float):
        self._call = address, timeout_s

    def __enter__(self) -> None:
        self._number = _watch.add(*self._call)

    def __exit__(self, *_: object) -> None:
        _watch.remove(self._number)
