"""Decide how much work to admit: one rule for every call, by what it will cost, before the work begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from crossmedia.allocator import KEEP_BYTES
from crossmedia.errors import InvalidRequest, Overloaded
from crossmedia.service.callers import Caller
from crossmedia.service.fair import FairQueue

FIRST_RATE = 100.0  # items a second that even a slow machine is done with
MAX_HINT_S = 5.0
MAX_SLOW = 48  # calls that take long: more are no faster, and each holds a thread and memory
SHARE = 0.75  # of anything, the most that one caller may hold: the rest is there for the others
LOOK_S = 0.2
BURST, AFTER_BURST_S = KEEP_BYTES, 5.0


class Cost(NamedTuple):
    """What a call takes while it is under way.

    Attributes:
        items: pieces of work that wait for what works them off.
        size: bytes of memory: of the message, of what is made of it on the way, and of the reply.
        slow: 1 for a call that computes; 0 for a look into a table.
    """

    items: int = 0
    size: int = 0
    slow: int = 0

    def plus(self, other: Cost) -> Cost:
        """The sum of both."""
        return Cost(self.items + other.items, self.size + other.size, self.slow + other.slow)

    def minus(self, other: Cost) -> Cost:
        """This cost less the other."""
        return Cost(self.items - other.items, self.size - other.size, self.slow - other.slow)

    def fits(self, most: Cost) -> bool:
        """Whether this cost is within a limit."""
        return self.items <= most.items and self.size <= most.size and self.slow <= most.slow


NOTHING = Cost()


class Admission:
    """Counts what is under way, in all and of each caller.

    A caller without a name is the process itself, and has all there is.

    Args:
        max_items: most items waiting.
        max_size: most bytes held.
        max_slow: most calls that take long.
        waiting: what the items do, such as ``ids wait for the backbone``.
        advice: what else a caller may do who is refused for them, such as ``, or come at night``.

    Attributes:
        under_way: what is held now.
        refused: calls that were not taken on.
    """

    def __init__(
        self,
        max_items: int,
        max_size: int,
        max_slow: int = MAX_SLOW,
        waiting: str = "pieces of work wait",
        advice: str = "",
    ):
        self._waiting, self._advice = waiting, advice
        self._most = Cost(max_items, max_size, max_slow)
        self._share = Cost(*(max(1, int(SHARE * most)) for most in self._most))
        self._lock = threading.Lock()
        self.under_way, self.refused = NOTHING, 0
        self._held: dict[str, Cost] = {}
        self._much_at = -AFTER_BURST_S
        self._rate = FIRST_RATE
        self._ended_at = 0.0

    @property
    def share(self) -> int:
        """Most bytes that one caller may hold, and so the most that a call may cost."""
        return self._share.size

    @property
    def share_of_items(self) -> int:
        """Most items that may wait for one caller, and so the most that a call may ask for."""
        return self._share.items

    def take(self, cost: Cost, name: str = "") -> Permit:
        """Admit a cost, or refuse it as a whole.

        Args:
            cost: of the work.
            name: of the caller.

        Returns:
            what frees it again: at the end of a block, or when it is told to.

        Raises:
            InvalidRequest: not even an idle server would take it on.
            Overloaded: it would be more than is admitted; with the time after which a try may go better.
        """
        if cost.size > self._share.size:
            raise InvalidRequest(
                f"This call would take {_mib(cost.size)} of memory here, and one caller may hold "
                f"{_mib(self._share.size)}. Ask for less in a call."
            )
        with self._lock:
            then, mine = self.under_way.plus(cost), self._held.get(name, NOTHING).plus(cost)
            if not then.fits(self._most) or (name and not mine.fits(self._share)):
                self.refused += 1
                hint = min(MAX_HINT_S, max(0.1, self.under_way.items / self._rate))
                advice = self._advice if cost.items else ""
                raise Overloaded(f"{self._trouble(cost, name)} Try again in {hint:.1f} s{advice}.", retry_after_s=hint)
            self.under_way = then
            self._hold(name, mine)
        return Permit(self, cost, name)

    def _trouble(self, cost: Cost, name: str) -> str:
        """Why a cost is too much now; called under the lock."""
        held = self._held.get(name, NOTHING)
        for here, most, whose, limit in (
            (self.under_way, self._most, "", "the limit of"),
            (held, self._share, f" for {name}", "the share of one caller,"),
        ):
            states = (self._waiting, "are under way", "are under way")
            for written, does, now, more, bound in zip(AMOUNTS, states, here, cost, most, strict=True):
                if now + more > bound:
                    return f"{written(now)} {does}{whose}; {written(more)} more would exceed {limit} {written(bound)}."
        return ""

    def _hold(self, name: str, cost: Cost) -> None:
        """Forget callers that hold nothing; called under the lock."""
        if cost != NOTHING:
            self._held[name] = cost
        else:
            self._held.pop(name, None)

    def give_back(self, cost: Cost, name: str = "") -> None:
        """Give a cost back when the work has ended."""
        with self._lock:
            if self.under_way.size > BURST:
                self._much_at = time.monotonic()
            self.under_way = self.under_way.minus(cost)
            self._hold(name, self._held.get(name, NOTHING).minus(cost))

    def permits(self, cost: Cost, count: int, name: str) -> list[Permit]:
        """Admit so many pieces of work that end one by one, or none; each frees its own permit.

        Raises:
            InvalidRequest, Overloaded: as ``take``.
        """
        if count:
            self.take(Cost(*(count * part for part in cost)), name)
        return [Permit(self, cost, name)] * count

    @property
    def burst_is_over(self) -> bool:
        """Whether much was held some seconds ago, and little is now."""
        with self._lock:
            return self.under_way.size < BURST // 4 and time.monotonic() - self._much_at < AFTER_BURST_S

    def note_rate(self, items: int) -> None:
        """Note that so many items were just worked off; the retry hint is calculated from this."""
        now = time.monotonic()
        took = now - self._ended_at
        if 0 < took < 1.0:  # after a pause the time says nothing
            self._rate += 0.1 * (items / took - self._rate)
        self._ended_at = now

    def held(self, cost: Cost, caller: Caller) -> Permit:
        """Hold a cost for the time of a block.

        Raises:
            InvalidRequest, Overloaded: as ``take``.
        """
        return self.take(cost, caller.name)

    def held_until_sent(self, cost: Cost, caller: Caller) -> Permit:
        """Hold the cost of a reply for the time of a block, and then until the caller has the reply or has left.

        Raises:
            InvalidRequest, Overloaded: as ``take``.
        """
        self.take(cost, caller.name)
        return _UntilSent(self, cost, caller)


class Permit:
    """Of work that was admitted: ``free`` it where the work ends, or work in a block of it.

    It is a class, not a generator, because every call passes through it, and a class is three times faster.
    """

    __slots__ = ("_admission", "_cost", "_name")

    def __init__(self, admission: Admission, cost: Cost, name: str):
        self._admission, self._cost, self._name = admission, cost, name

    def free(self) -> None:
        """The work has ended."""
        self._admission.give_back(self._cost, self._name)

    def __enter__(self) -> None:
        return None

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self.free()


class _UntilSent(Permit):
    __slots__ = ("_caller",)

    def __init__(self, admission: Admission, cost: Cost, caller: Caller):
        super().__init__(admission, cost, caller.name)
        self._caller = caller

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed or not self._caller.at_end(self.free):
            self.free()


class Turns:
    """Admits a few calls at a time. The others wait as long as their callers do, and callers are served in turn.

    Args:
        at_once: how many.
    """

    def __init__(self, at_once: int):
        self._free = at_once
        self._lock = threading.Lock()
        self._waiting: FairQueue[threading.Event] = FairQueue()

    @contextmanager
    def one(self, caller: Caller) -> Iterator[None]:
        """Wait for a turn, and hold it for the time of a block.

        Raises:
            DeadlineExceeded: the caller has gone, or its deadline is over.
        """
        caller.check()
        turn = threading.Event()
        with self._lock:
            self._waiting.append(caller.name, turn)
            self._give()
        try:
            while not turn.wait(min(LOOK_S, max(0.0, caller.deadline - time.monotonic()))):
                caller.check()
            yield
        finally:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._free += 1
                self._give()

    def _give(self) -> None:
        """Hand out the free turns, so that no later caller takes them; called under the lock."""
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.pop().set()


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"


def _calls(count: int) -> str:
    return f"{count} calls that take long"


AMOUNTS: tuple[Callable[[int], str], ...] = str, _mib, _calls
