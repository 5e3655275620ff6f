"""What is taken on, of one caller and in all, and that nothing is held when it has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from conftest import soon

from crossmedia.errors import DeadlineExceeded, InvalidRequest, Overloaded
from crossmedia.service.admission import NOTHING, Admission, Cost, Turns
from crossmedia.service.callers import Caller, caller_name
from crossmedia.service.fair import FairQueue
from crossmedia.service.open_files import KEPT, LEAST, allowed_connections

ONE = np.array([1], "<i8").tobytes()


def test_one_rule_of_admission() -> None:
    admission = Admission(max_items=10, max_size=1000)
    admission.take(Cost(items=9))
    for items in (2, 10_000):
        with pytest.raises(Overloaded, match="9 pieces of work wait") as caught:
            admission.take(Cost(items=items))
        assert 0.1 <= caught.value.retry_after_s <= 5
    admission.take(Cost(items=1))
    admission.give_back(Cost(items=10))
    admission.take(Cost(size=700))
    with pytest.raises(Overloaded):
        admission.take(Cost(size=301))
    admission.take(Cost(items=10, size=300))
    assert admission.refused == 3


def test_advice_is_given_where_items_wait_and_not_where_bytes_do() -> None:
    admission = Admission(max_items=10, max_size=1000, advice=", or come at night")
    with pytest.raises(Overloaded, match="come at night"):
        admission.take(Cost(items=11))
    admission.take(Cost(size=700))
    with pytest.raises(Overloaded, match=r"Try again in 0\.1 s\.$"):
        admission.take(Cost(size=700))
    with pytest.raises(InvalidRequest, match="one caller may hold"):
        admission.take(Cost(size=1001))


def test_one_caller_leaves_a_quarter_to_the_others() -> None:
    admission = Admission(max_items=10, max_size=1000, max_slow=8)
    for _ in range(6):
        admission.take(Cost(size=100, slow=1), "greedy")
    with pytest.raises(Overloaded, match="6 calls that take long are under way for greedy"):
        admission.take(Cost(slow=1), "greedy")
    with pytest.raises(Overloaded, match="for greedy"):
        admission.take(Cost(size=200), "greedy")
    admission.take(Cost(size=100, slow=2), "other")
    with pytest.raises(Overloaded, match="8 calls that take long are under way;"):
        admission.take(Cost(slow=1), "third")
    for _ in range(6):
        admission.give_back(Cost(size=100, slow=1), "greedy")
    admission.give_back(Cost(size=100, slow=2), "other")
    assert (admission.under_way, admission._held) == (NOTHING, {})


class Ends:
    """What is told of the end of a call."""

    def note(self, function: Callable[[], None]) -> bool:
        self.end = function
        return True


def test_a_turn_is_waited_for_as_long_as_the_caller_waits() -> None:
    turns, ends = Turns(1), Ends()
    with turns.one(Caller(time.monotonic() + 60)):
        with pytest.raises(DeadlineExceeded, match="deadline"), turns.one(Caller(time.monotonic() + 0.1)):
            pass
        gone = Caller(time.monotonic() + 60, ends.note)
        threading.Timer(0.2, ends.end).start()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="has gone"), turns.one(gone):
            pass
        assert time.monotonic() - started < 2
    with turns.one(Caller(time.monotonic() + 1)):
        pass


def named(name: str, seconds: float = 60.0) -> Caller:
    """A call of a caller."""
    token = caller_name.set(name)
    try:
        return Caller(time.monotonic() + seconds)
    finally:
        caller_name.reset(token)


def test_callers_have_their_turns_one_after_the_other() -> None:
    """Five calls of one wait already when two of another come, and who is served asks again at once."""
    turns, had = Turns(1), list[str]()

    def work(name: str, times: int) -> None:
        for _ in range(times):
            with turns.one(named(name)):
                had.append(name)

    threads = []
    with turns.one(named("first")):
        for name, times in [("greedy", 3)] * 5 + [("patient", 2)] * 2:
            threads.append(threading.Thread(target=work, args=(name, times)))
            threads[-1].start()
            assert soon(lambda: len(turns._waiting) == len(threads))
    for thread in threads:
        thread.join()
    assert had[:7] == ["greedy", "patient"] * 3 + ["greedy"]
    assert len(had) == 19


def test_who_goes_while_it_waits_for_a_turn_leaves_no_trace() -> None:
    turns = Turns(1)
    with turns.one(named("first")):
        with pytest.raises(DeadlineExceeded), turns.one(named("hasty", 0.05)):
            pass
        assert not turns._waiting
        assert not turns._waiting._queues
    with turns.one(named("second", 1)):
        assert turns._free == 0
    assert turns._free == 1


def test_a_queue_takes_callers_in_turn_and_their_items_in_order() -> None:
    queue = FairQueue[str]()
    for name, items in {"a": "123", "b": "45", "c": "6"}.items():
        for item in items:
            queue.append(name, item)
    queue.append("c", "3")  # both wait for it: it comes with the first turn of either
    queue.append("c", "3")
    queue.remove("2")
    queue.push("d", "0")
    assert len(queue) == 6
    assert "3" in queue
    assert [queue.pop() for _ in range(6)] == list("014635")
    assert not queue._queues
    assert not queue._names


def test_items_of_one_caller_leave_a_quarter_to_the_others() -> None:
    admission = Admission(max_items=8, max_size=1000, waiting="jobs wait")
    admission.take(Cost(items=admission.share_of_items), "greedy")
    with pytest.raises(Overloaded, match=r"6 jobs wait for greedy; 1 more would exceed the share of one caller, 6\."):
        admission.take(Cost(items=1), "greedy")
    admission.take(Cost(items=2), "other")
    admission.give_back(Cost(items=6), "greedy")
    admission.give_back(Cost(items=2), "other")
    assert (admission.under_way, admission._held) == (NOTHING, {})


def test_a_reply_is_counted_until_it_was_sent() -> None:
    admission, ends = Admission(1, 1000), Ends()
    caller = Caller(time.monotonic() + 60, ends.note)
    with admission.held_until_sent(Cost(size=100), caller):
        pass
    assert admission.under_way.size == 100
    ends.end()
    assert admission.under_way.size == 0
    with admission.held_until_sent(Cost(size=100), caller):
        assert admission.under_way.size == 100  # the caller has gone, and the work goes on
    assert admission.under_way.size == 0
    with pytest.raises(ZeroDivisionError), admission.held_until_sent(Cost(size=100), Caller(time.monotonic())):
        raise ZeroDivisionError
    assert admission.under_way.size == 0


def test_the_limit_of_open_files_leaves_some_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[0])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.__setitem__(0, new))
    assert allowed_connections() == 4096 - KEPT
    assert limits == [(4096, 4096)]
    limits[0] = (100, 100)
    assert allowed_connections() == LEAST
