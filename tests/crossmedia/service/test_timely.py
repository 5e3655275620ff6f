"""Nothing waits that will be late: what is refused, what is not, and that an estimate is right again by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from conftest import soon

from crossmedia.errors import DeadlineExceeded, Overloaded
from crossmedia.service.callers import Caller, caller_name
from crossmedia.service.timely import LEAST_MEASURED, MEASURED, TimelyTurns


def named(name: str, seconds: float = 600.0) -> Caller:
    """A call of a caller."""
    token = caller_name.set(name)
    try:
        return Caller(time.monotonic() + seconds)
    finally:
        caller_name.reset(token)


def turns_of(seconds_an_item: float, most_wait_s: float = 10.0, at_once: int = 1) -> TimelyTurns:
    """Turns that have measured so many seconds an item."""
    found = TimelyTurns(at_once, most_wait_s)
    found._took.extend([(seconds_an_item, 1000)] * MEASURED)
    found.seconds_an_item = seconds_an_item
    return found


@contextmanager
def busy(turns: TimelyTurns, items: int, *callers: str) -> Iterator[None]:
    """Calls of so many items each, one behind the other, that go on for the time of a block."""
    go = threading.Event()

    def work(name: str) -> None:
        with turns.one(named(name), items):
            go.wait()

    with ThreadPoolExecutor(len(callers)) as pool:
        for number, name in enumerate(callers):
            pool.submit(work, name)
            assert soon(lambda number=number: turns._calls == number + 1)  # type: ignore[misc]
        try:
            yield
        finally:
            go.set()


def test_who_would_wait_too_long_is_refused_with_a_hint() -> None:
    turns = turns_of(0.1)
    with busy(turns, 60, "a", "a"):
        with pytest.raises(Overloaded, match="120 items are before these") as caught:
            turns.check("a", time.monotonic() + 600)
        assert caught.value.retry_after_s == pytest.approx(2.0)
        with pytest.raises(Overloaded), turns.one(named("a"), 1):
            pass
        assert turns.refused == 2
    turns.check("a", time.monotonic() + 600)
    assert (turns._calls, turns._pending, turns._working) == (0, {}, 0)


def test_who_would_be_answered_after_the_deadline_is_refused() -> None:
    """Twelve seconds of waiting and two of work, in a half of the time that there is."""
    turns = turns_of(0.1, most_wait_s=100)
    with busy(turns, 60, "a", "a"):
        turns.check("a", time.monotonic() + 29, 20)
        with pytest.raises(Overloaded, match="be late"):
            turns.check("a", time.monotonic() + 27, 20)


def test_cores_work_side_by_side_and_as_many_calls_may_wait() -> None:
    turns = turns_of(0.1, at_once=2)
    with busy(turns, 60, "a", "a", "a"):
        turns.check("a", time.monotonic() + 600, 10_000)
    with busy(turns, 45, "a", "a", "a", "a"):
        turns.check("a", time.monotonic() + 600)  # 180 items by two: 9 s
    with busy(turns, 55, "a", "a", "a", "a"), pytest.raises(Overloaded):
        turns.check("a", time.monotonic() + 600)


def test_the_first_calls_of_a_process_refuse_nobody() -> None:
    turns = TimelyTurns(1, 10.0)
    for _ in range(LEAST_MEASURED - 1):
        turns._took.append((100.0, 60))
    turns.seconds_an_item = 100.0
    with busy(turns, 60, "a", "a", "a"):
        turns.check("a", time.monotonic() + 600)


def test_a_wrong_estimate_is_right_again_by_itself() -> None:
    """A call that need not wait is taken on, whatever is expected of it, and measured."""
    turns = turns_of(100.0)
    for _ in range(MEASURED):
        with turns.one(named("a", 60), 10):
            pass
    assert turns.seconds_an_item < 0.1
    before = turns.seconds_an_item
    with pytest.raises(ZeroDivisionError), turns.one(named("a"), 1):
        raise ZeroDivisionError
    assert turns.seconds_an_item == before, "what failed says nothing"


def test_one_call_that_had_to_wait_for_something_else_says_little() -> None:
    turns = TimelyTurns(1, 10.0)
    turns._took.extend([(0.001, 200)] * 6 + [(5.0, 200)] * 4 + [(0.01, 3)] * 4)
    with turns.one(named("a"), 1):
        pass
    assert turns.seconds_an_item == 0.001


def test_one_caller_is_not_refused_for_what_another_has_waiting() -> None:
    turns = turns_of(0.1)
    with busy(turns, 80, "greedy", "greedy"):
        with pytest.raises(Overloaded):
            turns.check("greedy", time.monotonic() + 600)
        turns.check("other", time.monotonic() + 600)  # its turn comes behind the one that is being worked on


def test_the_process_itself_waits_for_its_turn_and_is_not_refused() -> None:
    turns = turns_of(1e6)
    with turns.own(60):
        with pytest.raises(DeadlineExceeded), turns.own(0.05):
            pass
        assert turns.refused == 0
