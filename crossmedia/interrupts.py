"""End a command at once on Ctrl-C and SIGTERM, no matter what it is doing, with one sentence and no trace.

Nothing is raised: an exception in the middle of anything may be swallowed, or end a C++ library that expects none. The
handler of the signal undoes what is under way and ends the process, without Python's own end, in which threads of such
libraries may crash. Where the main thread computes in C, and handlers have to wait for it, a thread beside does so,
which sees every signal too. What commands write stands any kill, and so it stands this one.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

GRACE_S = 2.0  # that the main thread has before the other one ends the process
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"  # which progress bars hide

_sentence = "Interrupted."
_undo: list[Callable[[], None]] = []
_ending = threading.Lock()


def end_on_signals() -> None:
    """Let signals end this process from now on; for the main thread."""
    if signal.getsignal(signal.SIGINT) is _on_signal:
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    _handle(_on_signal)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=as_usual)  # or both would hear each signal twice
    threading.Thread(target=_watch, args=(told,), name="interrupts", daemon=True).start()


def as_usual() -> None:
    """Let signals do what they do to any process."""
    signal.set_wakeup_fd(-1)
    _handle(signal.SIG_DFL)


def say_when_interrupted(sentence: str) -> None:
    """Set the sentence to print when a signal ends the process."""
    global _sentence
    _sentence = sentence


@contextmanager
def undone_if_interrupted(undo: Callable[[], None]) -> Iterator[None]:
    """Call ``undo`` if a signal ends the process within the block; it should remove what nobody else would remove."""
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


def _handle(handler: Any) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _end(number)


def _watch(told: int) -> None:
    """End the process if a signal comes and the main thread does not react; not for programs with own handlers."""
    while True:
        number = os.read(told, 1)[0]
        if number in SIGNALS and signal.getsignal(number) is _on_signal:
            select.select([told], [], [], GRACE_S)  # or until a second one
            _end(number)


def _end(number: int) -> NoReturn:
    if _ending.acquire(blocking=False):
        with suppress(OSError):  # nobody reads it any more
            cursor = SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{cursor}\n{_sentence}\n".encode())  # Python's own file may be in the middle of a line
        for child in multiprocessing.active_children():
            child.kill()
        for undo in reversed(_undo):
            with suppress(Exception):
                undo()
        with suppress(Exception):
            sys.stdout.flush()
    os._exit(128 + number)
