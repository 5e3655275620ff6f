"""Have what comes next made ready in a thread, while what came before is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import get_ident
from typing import Generic, TypeVar

Fetched = TypeVar("Fetched")
Work = TypeVar("Work")


def ahead(
    source: Iterable[Work], fetch: Callable[[Work], Fetched], depth: int = 2
) -> Generator[tuple[Work, Fetched], None, None]:
    """Each thing with what ``fetch`` returned for it, both had in the background, ``depth`` things ahead.

    The source is asked for its iterator here, so that a ``DataLoader`` starts its workers before there is a thread.
    The thread ends with the loop, also with one that is left early; a fetch under way is waited for.

    Args:
        source: what to fetch for.
        fetch: of one thing.
        depth: how many are under way.

    Raises:
        Exception: what the source or ``fetch`` raised, at the thing that it was raised for, with a note of its number.
    """
    line = _Line(iter(source), fetch)
    threads = set[int]()
    pool = ThreadPoolExecutor(1, "fetch", initializer=lambda: threads.add(get_ident()))
    try:
        under_way: deque[Future[tuple[Work, Fetched] | None]] = deque(pool.submit(line.next) for _ in range(depth))
        while (ready := under_way.popleft().result()) is not None:
            under_way.append(pool.submit(line.next))
            yield ready
    finally:
        # A loop that nobody holds is collected in any thread, also in this one, which cannot wait for its own end.
        pool.shutdown(wait=get_ident() not in threads, cancel_futures=True)


@dataclass
class _Line(Generic[Work, Fetched]):
    """Things one after the other, in one thread; nobody takes what comes behind a failure, so it is not waited for."""

    things: Iterator[Work]
    fetch: Callable[[Work], Fetched]
    number: int = -1
    ended: bool = False

    def next(self) -> tuple[Work, Fetched] | None:
        """The next thing and what was fetched for it; None: there is no more."""
        if self.ended:
            return None
        self.number += 1
        try:
            for thing in self.things:
                return thing, self.fetch(thing)
        except BaseException as error:
            self.ended = True
            error.add_note(f"This was raised in the thread that works ahead, for batch {self.number} (the first is 0).")
            raise
        self.ended = True
        return None
