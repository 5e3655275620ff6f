"""Limit the calls of one caller, the messages being read, and their time, which gRPC leaves to the application.

A call has a thread as soon as it comes, and its message is read in that thread: until then it lies with the caller, for
the connection takes no more than a window of it. So a caller who sends half a message, or none, holds threads of its
own share alone, and messages of one caller are read a few at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from crossmedia.errors import DeadlineExceeded, InvalidRequest, Overloaded
from crossmedia.service.admission import SHARE

MAX_CALLS = 512
MAX_CALL_S = 60.0  # of any call, its message and its reply included
READING = 8  # each message that is being read may take as much memory as a message can
LOOK_FOR_ENDED_S = 0.5
LOOK_FOR_GONE_S = 1.0  # hundreds of threads may wait: each look of theirs takes time from the others


class _Caller:
    """What a caller has under way; the lock of ``Calls`` protects it."""

    __slots__ = ("calls", "read", "reading")

    def __init__(self, lock: threading.Lock):
        self.calls = self.reading = 0
        self.read = threading.Condition(lock)


class Calls:
    """Counts each caller's calls that have a thread.

    Args:
        most: of all callers; gRPC itself refuses what is more.
        deadlines: ends what takes too long.
        reading: messages of one caller that are read at a time.
    """

    def __init__(self, most: int, deadlines: Deadlines, reading: int = READING):
        self.share, self._deadlines, self._reading = max(1, int(SHARE * most)), deadlines, reading
        self._lock = threading.Lock()
        self._callers: dict[str, _Caller] = {}

    @property
    def under_way(self) -> int:
        """Calls that have a thread now."""
        with self._lock:
            return sum(caller.calls for caller in self._callers.values())

    def one(self, name: str, context: Any, seconds: float) -> AbstractContextManager[None]:
        """Count a call for the time of a block.

        Args:
            name: of the caller.
            context: of the call; cancelled when its time is over, whatever it waits for then.
            seconds: that it may take in all.

        Raises:
            Overloaded: the caller has its share of calls.
        """
        return _Counted(self, name, context, seconds)

    def _begin(self, name: str, context: Any, seconds: float) -> None:
        with self._lock:
            caller = self._callers.get(name)
            if caller is None:
                caller = self._callers[name] = _Caller(self._lock)
            if caller.calls >= self.share:
                raise Overloaded(
                    f"{caller.calls} calls of {name} are under way, which is the share of one caller. Try again in "
                    f"0.5 s.",
                    retry_after_s=0.5,
                )
            caller.calls += 1
        self._deadlines.watch(context, seconds)

    def _end(self, name: str) -> None:
        with self._lock:
            caller = self._callers[name]
            caller.calls -= 1
            if not caller.calls:
                del self._callers[name]

    def read(self, name: str, requests: Iterator[bytes], context: Any) -> bytes:
        """Read the one message of a call that is counted.

        Raises:
            InvalidRequest: there is none.
            DeadlineExceeded: the call ended before it was its turn.
            grpc.RpcError: the call ended before all of it had come.
        """
        with self._lock:
            caller = self._callers[name]
            while caller.reading >= self._reading:
                if not caller.read.wait(LOOK_FOR_GONE_S) and not context.is_active():
                    raise DeadlineExceeded(f"Other messages of {name} were being read until the call ended.")
            caller.reading += 1
        try:
            message = next(requests, None)
        finally:
            with self._lock:
                caller.reading -= 1
                caller.read.notify()
        if message is None:
            raise InvalidRequest("The call ended without a message; it needs exactly one.")
        return message


class _Counted:
    """It is a class, not a generator, because every call passes through it, and a class is three times faster."""

    __slots__ = ("_call", "_calls")

    def __init__(self, calls: Calls, name: str, context: Any, seconds: float):
        self._calls, self._call = calls, (name, context, seconds)

    def __enter__(self) -> None:
        self._calls._begin(*self._call)

    def __exit__(self, *_: object) -> None:
        self._calls._end(self._call[0])


class Deadlines:
    """Ends calls whose time is over because a message does not come, or nobody reads the reply.

    gRPC does so by the deadline that the caller gave, if it gave one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[int, tuple[float, Any]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def watch(self, context: Any, seconds: float) -> None:
        """End a call after so many seconds, unless it has ended before."""
        if (context.time_remaining() or 0) <= seconds:
            return  # gRPC will
        with self._lock:
            self._until[id(context)] = time.monotonic() + seconds, context
        if not context.add_callback(lambda: self.release(context)):
            self.release(context)

    def release(self, context: Any) -> None:
        """Let the call take longer."""
        with self._lock:
            self._until.pop(id(context), None)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_FOR_ENDED_S):
            with self._lock:
                over = [context for until, context in self._until.values() if time.monotonic() > until]
            for context in over:
                context.cancel()
                self.release(context)
