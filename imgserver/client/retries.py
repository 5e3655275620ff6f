"""One deadline for all tries of a call: how long to pause, what is left, when to give up."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from crossmedia.arguments import check_seconds
from crossmedia.errors import CrossMediaError, DeadlineExceeded, Overloaded, ServerUnavailable
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import Method, Reply
from crossmedia.logs import Sparingly

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
LEAST_TRY_S = 0.05  # a try with less time is not made: its end would hide what the tries before it met
SAID_AFTER_S = 1.0
LONGEST_CALL_S = 86_400.0

_sparingly = Sparingly(1)


@dataclass(frozen=True)
class Deadline:
    """When all that belongs to a call must have ended.

    Attributes:
        at: on the monotonic clock.
        timeout_s: seconds that it had in all, which is what errors name.
        away_s: seconds after which a server that is away is given up, though there would be time.
    """

    at: float
    timeout_s: float
    away_s: float = math.inf

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """``timeout_s`` seconds from now.

        Raises:
            BadInput: that is no number of seconds.
        """
        check_seconds(timeout_s)
        return cls(time.monotonic() + timeout_s, timeout_s)

    def left(self) -> float:
        """Seconds until then, for one call: at most a day, for nobody takes an infinite number of seconds.

        Raises:
            DeadlineExceeded: it is over.
        """
        left = self.at - time.monotonic()
        if not left > 0:  # over, or no number
            raise DeadlineExceeded(f"The image server did not answer within {self.timeout_s:.3g} s.")
        return min(left, LONGEST_CALL_S)


class Tries:
    """The tries of one call until its deadline.

    Pauses double, with jitter, so that many clients do not come back at the same moment. What takes longer than a
    moment is said in the log, because whoever waits would not know why.

    Args:
        deadline: of the call.
    """

    def __init__(self, deadline: Deadline):
        self._deadline, self._away_s, self._pause_s = deadline.at, deadline.away_s, FIRST_BACKOFF_S
        self._failing_since: float | None = None
        self._said = False

    def wait(self, error: CrossMediaError) -> None:
        """Wait before the next try; raise ``error`` when its deadline, or that of servers away, would pass."""
        now = time.monotonic()
        pause = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, MAX_BACKOFF_S)
        if isinstance(error, Overloaded):
            pause = max(pause, error.retry_after_s)
        if self._failing_since is None:
            self._failing_since = now
        away = isinstance(error, ServerUnavailable)
        end = self._deadline - LEAST_TRY_S
        if now + pause >= min(end, self._failing_since + self._away_s if away else math.inf):
            error.tried_s = now - self._failing_since
            raise error
        if not self._said and now + pause - self._failing_since > SAID_AFTER_S:
            self._said = True
            if _sparingly.allows(type(error).__name__):  # once, though several threads wait
                log.warning("Waiting for at most %.0f s more: %s", self._deadline - now, error)
        time.sleep(pause)

    def answered(self) -> None:
        """The call went through."""
        if self._said and self._failing_since is not None and _sparingly.allows("answered"):
            log.warning("The image server answers again, after %.0f s.", time.monotonic() - self._failing_since)


def ask(transport: Transport, method: Method[Reply], request: Message, deadline: Deadline) -> Reply:
    """``until_answered`` of one call through a transport."""
    return until_answered(partial(transport.call, method, request), deadline)


def until_answered(call: Callable[[float], Answer], deadline: Deadline) -> Answer:
    """Make one call, again while the server is away or overloaded, and raise what it raised at the deadline.

    Args:
        call: makes it, given the seconds that it may take.
        deadline: of all tries.
    """
    tries = Tries(deadline)
    while True:
        try:
            reply = call(deadline.left())
        except (ServerUnavailable, Overloaded) as error:
            tries.wait(error)
        else:
            tries.answered()
            return reply
