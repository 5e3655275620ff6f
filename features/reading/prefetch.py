"""Fetch what a batch's items need from servers in the background, while earlier batches are trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from crossmedia.features.batch import Batch, VectorKeys

Fetched = TypeVar("Fetched")
Work = TypeVar("Work")


def fetch_ahead(
    batches: Iterable[Batch], fetch: Callable[[Mapping[str, VectorKeys]], Fetched] | None, depth: int = 2
) -> Generator[tuple[Batch, Fetched | None], None, None]:
    """Each batch with what ``fetch`` returned for its items, requested ``depth`` batches ahead.

    Reading the samples happens in the background thread too. The fetch stays in this process, so data loader workers
    never touch the connection.

    Args:
        batches: what to fetch for.
        fetch: given the keys that a batch refers to, by the name of their space; None yields the batches alone.
        depth: how many batches are under way.

    Raises:
        CrossMediaError: what ``fetch`` raised, at the batch whose vectors could not be had.
    """

    def of_batch(batch: Batch) -> Fetched | None:
        return fetch(batch.items.vectors) if fetch is not None and batch.items.vectors else None

    yield from ahead(batches, of_batch, depth)


def ahead(
    source: Iterable[Work], fetch: Callable[[Work], Fetched], depth: int = 2
) -> Generator[tuple[Work, Fetched], None, None]:
    """Each thing with what ``fetch`` returned for it, both had in the background, ``depth`` things ahead.

    Args:
        source: what to fetch for.
        fetch: of one thing.
        depth: how many are under way.

    Raises:
        CrossMediaError: what ``fetch`` raised, at the thing that it was raised for.
    """
    things = iter(source)
    failed = False

    def next_one() -> tuple[Work, Fetched] | None:
        nonlocal failed
        thing = None if failed else next(things, None)  # nobody takes what comes behind a failure: do not wait for it
        if thing is None:
            return None
        try:
            return thing, fetch(thing)
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        under_way: deque[Future[tuple[Work, Fetched] | None]] = deque(pool.submit(next_one) for _ in range(depth))
        try:
            while (ready := under_way.popleft().result()) is not None:
                under_way.append(pool.submit(next_one))
                yield ready
        finally:
            for future in under_way:
                future.cancel()
