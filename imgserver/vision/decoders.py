"""Processes that decode photos, so that one photo costs no more than a stated time and memory, and others nothing.

    caller's thread ── photo ──> worker ── pixels, or why there are none ──> caller's thread

A worker that takes too long, or that a photo kills, is replaced. What it answers is bytes of a known length and never
anything that could run here.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from functools import lru_cache

import numpy as np

from crossmedia.errors import ServerFault
from crossmedia.imgserver.vision.decode import ImageLimits, Pixels, Preprocessing
from crossmedia.imgserver.vision.decode_worker import CORRUPT, DONE, REPLY, REQUEST, TOO_LARGE
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge
from crossmedia.imgserver.vision.machine import Machine

MAX_ANSWER_S = 60  # by the clock, for a worker that sleeps; one that works ends by its processor time
ENDING_S = 5.0  # from the end of its socket to its exit code, on a busy machine
WORKER = "crossmedia.imgserver.vision.decode_worker"
PROCESS_CLOCK = 2  # of Linux, below ~pid << 3: clock_getcpuclockid(3), which Python has for threads alone
SPARE, SPARE_SHARE = 2, 4  # threads beside those that wait for a process: two, or one for so many processes
TRIES = 2  # of a photo whose worker was ended by somebody else
MAX_ANSWER = 16 << 20  # bytes; pixels of 224 x 224 are 150 KB
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS}
# Of the environment; what else is there, such as keys of an object store, is not for who decodes photos of strangers.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME")
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy computes next to nothing there
    # Of glibc: memory of small pictures is kept for the next one, which saves 100 page faults; that of large ones not.
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
}


class DecodingFailed(Exception):
    """A photo could not be decoded, and that is not its fault."""


class Decoders:
    """Decodes in processes that are started when they are needed.

    Args:
        limits: of a photo, its time and memory among them.
        workers: processes at most; None: as ``Machine.decoders`` has them.
    """

    def __init__(self, limits: ImageLimits, workers: int | None = None):
        self.limits = limits
        self.workers = workers or Machine().decoders
        self._pid = os.getpid()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._starting = 0
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; a photo that one of them is at has failed."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            for worker in self._all:
                worker.kill()  # who waits for one ends it, when it sees that it is dead
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for worker in idle:
            worker.end()

    @property
    def threads(self) -> int:
        """Threads that keep all processes at work: some read a photo, or hand one over, while others wait for one."""
        return self.workers + max(SPARE, self.workers // SPARE_SHARE)

    def pixels(self, data: bytes, preprocessing: Preprocessing) -> Pixels:
        """As ``decode``.

        Raises:
            ImageTooLarge: more bytes, pixels, parts, time or memory than is accepted.
            CorruptImage: the bytes are no picture.
            DecodingFailed: the worker was ended, does not answer, or these decoders were closed.
            ServerFault: no worker can be started.
        """
        shape = preprocessing.size, preprocessing.size, 3
        answer = self._ask(_task(preprocessing), data)
        if len(answer) != math.prod(shape):
            raise DecodingFailed(f"{len(answer)} bytes came as pixels, and not {math.prod(shape)}")
        return np.frombuffer(answer, np.uint8).reshape(shape)

    def cpu_s(self) -> float:
        """Seconds of a core that the processes which run now have taken since each was started."""
        with self._changed:
            return sum(worker.cpu_s() for worker in self._all)

    def thumbnail(self, data: bytes, max_side: int) -> bytes:
        """As ``decode.thumbnail``; raises as ``pixels``."""
        return bytes(self._ask(_task(max_side), data))

    def _ask(self, task: bytes, data: bytes) -> bytearray:
        self.limits.check(data)
        for _ in range(TRIES):
            worker = self._borrow()
            try:
                kind, answer = worker.ask(task, data)
            except OSError:
                self._drop(worker)
                self._blame(worker.end())
                continue
            self._give_back(worker)
            if kind == DONE:
                return answer
            raise (ImageTooLarge if kind == TOO_LARGE else CorruptImage)(answer.decode(errors="replace"))
        raise DecodingFailed("the process that decoded it was ended from outside")

    def _blame(self, code: int) -> None:
        """Say why a worker ended, where that was the photo's doing, or a worker that only sleeps."""
        if code == -signal.SIGIO:  # it was still there
            raise DecodingFailed(f"no answer came within {MAX_ANSWER_S} s") from None
        if code == -signal.SIGPROF:
            raise ImageTooLarge(f"it takes more than {self.limits.decode_s:.0f} s to decode") from None
        if -code in CRASHES:
            raise CorruptImage(f"its decoder crashed ({signal.Signals(-code).name})") from None

    def _borrow(self) -> _Worker:
        if os.getpid() != self._pid:
            raise ServerFault(f"Process {os.getpid()} was forked from {self._pid}, whose decoders it cannot use.")
        with self._changed:
            while not self._closed:
                while self._idle:
                    worker = self._idle.pop()
                    if worker.alive:
                        return worker
                    self._all.discard(worker)
                    worker.end()
                if len(self._all) + self._starting < self.workers:
                    break
                self._changed.wait()
            if self._closed:
                raise DecodingFailed("photos are not decoded any more, for the server ends")
            self._starting += 1
        try:
            worker = _Worker(self.limits)
            with self._changed:
                self._all.add(worker)
                if self._closed:
                    worker.kill()
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify()
        return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._changed:
            if not self._closed:
                self._idle.append(worker)
                self._changed.notify()
                return
        worker.end()

    def _drop(self, worker: _Worker) -> None:
        with self._changed:
            self._all.discard(worker)
            self._changed.notify()


class _Worker:
    """One process, this end of its socket, and of the pipe whose end ends it.

    Raises:
        ServerFault: it cannot be started.
    """

    def __init__(self, limits: ImageLimits):
        self._socket, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", MAX_ANSWER_S, 0))
        lifeline, self._lifeline = os.pipe()
        own = {name: os.environ[name] for name in INHERITED if name in os.environ}
        own["PYTHONPATH"] = os.pathsep.join(part or os.getcwd() for part in sys.path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER, *map(str, (lifeline, limits.max_bytes, limits.max_pixels))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=[lifeline],
                env=own | SETTINGS,
                start_new_session=True,  # Ctrl-C in a terminal is for the parent
            )
        except OSError as error:
            self._close()
            raise ServerFault(f"A process that decodes photos cannot be started: {error}.") from error
        finally:
            theirs.close()
            os.close(lifeline)
        try:
            self._receive()
        except OSError:
            raise ServerFault(
                f"A process that decodes photos ended with code {self.end()} before it began. Does "
                f"'{sys.executable} -c \"import {WORKER}\"' run?"
            ) from None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """Seconds of a core that it has taken; 0 where it has ended."""
        try:
            return time.clock_gettime(~self._process.pid << 3 | PROCESS_CLOCK)
        except OSError:
            return 0.0

    def ask(self, task: bytes, data: bytes) -> tuple[int, bytearray]:
        """Send a photo, receive what became of it.

        Raises:
            OSError: it has ended, did not answer in time, or answered as no worker does.
        """
        self._socket.sendall(b"".join((REQUEST.pack(len(task), len(data)), task, data)))
        return self._receive()

    def _receive(self) -> tuple[int, bytearray]:
        kind, size = REPLY.unpack(self._exactly(REPLY.size))
        if kind not in (DONE, TOO_LARGE, CORRUPT) or size > MAX_ANSWER:
            raise OSError("this is no answer of a worker")
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray(size)
        if size and self._socket.recv_into(buffer, size, socket.MSG_WAITALL) < size:
            raise OSError("the worker has ended, or sleeps")
        return buffer

    def kill(self) -> None:
        """End it now, whatever it does; who waits for its answer sees that."""
        self._process.kill()

    def end(self) -> int:
        """Its exit code, or the negative number of the signal that ended it: SIGIO where it had not ended before."""
        self._close()
        try:
            return int(self._process.wait(ENDING_S))
        except subprocess.TimeoutExpired:  # somebody stopped it
            self._process.kill()
            self._process.wait()
            return -signal.SIGIO

    def _close(self) -> None:
        self._socket.close()
        os.close(self._lifeline)


@lru_cache
def _task(how: Preprocessing | int) -> bytes:
    return json.dumps(how if isinstance(how, int) else asdict(how)).encode()
