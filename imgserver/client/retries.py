"""One deadline for all tries of a call: how long to pause, what is left, when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from imgserver.errors import CrossMediaError, DeadlineExceeded, Overloaded, ServerUnavailable

Reply = TypeVar("Reply")

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
LONGEST_CALL_S = 86_400.0


def backoff() -> Iterator[float]:
    """Pauses between tries, doubling, with jitter, so that many clients do not come back at the same moment."""
    pause = FIRST_BACKOFF_S
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, MAX_BACKOFF_S)


def seconds_left(deadline: float, timeout_s: float) -> float:
    """Until ``deadline``, for one call: at most a day, for nobody takes an infinite number of seconds.

    Raises:
        DeadlineExceeded: it is over; ``timeout_s`` is what the message names.
    """
    left = deadline - time.monotonic()
    if not left > 0:  # over, or no number
        raise DeadlineExceeded(f"The image server did not answer within {timeout_s:.3g} s.")
    return min(left, LONGEST_CALL_S)


def wait(error: CrossMediaError, pause: float, deadline: float) -> None:
    """Wait before the next try; raise ``error`` when the deadline would pass meanwhile."""
    if isinstance(error, Overloaded):
        pause = max(pause, error.retry_after_s)
    if time.monotonic() + pause >= deadline:
        raise error
    time.sleep(pause)


def until_answered(call: Callable[[float], Reply], deadline: float, timeout_s: float) -> Reply:
    """Make one call, again while the server is away or overloaded, and raise what it raised at the deadline.

    Args:
        call: makes it, given the seconds that it may take.
        deadline: on the monotonic clock.
        timeout_s: what an error names.
    """
    for pause in backoff():
        try:
            return call(seconds_left(deadline, timeout_s))
        except (ServerUnavailable, Overloaded) as error:
            wait(error, pause, deadline)
    raise AssertionError("This is a bug: the backoff never ends.")
