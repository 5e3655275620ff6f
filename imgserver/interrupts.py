"""Ctrl-C and SIGTERM: a command ends within seconds, whatever it is doing, with a sentence and no trace.

A signal raises ``Interrupted`` in the main thread, so that files under way are removed and pools end. A library may
hold that up, or swallow it: a thread beside sees every signal too, and ends the process when the grace is over or a
second one comes. Either way the process ends without Python's own end, in which threads of C++ libraries may crash it.
What commands write stands any kill, and so it stands this one.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

GRACE_S = 5.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_sentence = "Interrupted."
_said = False


class Interrupted(BaseException):
    """A signal asked the command to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextmanager
def ending_in_time() -> Iterator[None]:
    """Let signals end what is done within, which must be all that the process does; needs the main thread."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    _handle(_raise)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_as_usual)  # or both would hear each signal twice
    threading.Thread(target=_watch, args=(told,), name="interrupts", daemon=True).start()
    try:
        yield
    except Interrupted as interrupted:
        _handle(signal.SIG_IGN)
        _end(interrupted.number)
    finally:
        _as_usual()


def say_when_interrupted(sentence: str) -> None:
    """What is to be said when a signal ends the process."""
    global _sentence
    _sentence = sentence


def _handle(handler: Any) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _as_usual() -> None:
    signal.set_wakeup_fd(-1)
    _handle(signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _watch(told: int) -> None:
    """End the process when a signal comes and it does not end by itself; not for who has handlers of its own."""
    while True:
        number = os.read(told, 1)[0]
        if number in SIGNALS and signal.getsignal(number) is _raise:
            select.select([told], [], [], GRACE_S)
            _end(number)


def _end(number: int) -> NoReturn:
    global _said
    for child in multiprocessing.active_children():
        child.kill()
    if not _said:
        _said = True
        with suppress(OSError, ValueError):  # nobody reads it any more
            print(f"\n{_sentence}", file=sys.stderr, flush=True)
            sys.stdout.flush()
    os._exit(128 + number)
