"""Fetch what a batch's items need from servers in the background, while earlier batches are trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from crossmedia.features.batch import Batch, VectorKeys

Fetched = TypeVar("Fetched")


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
    source = iter(batches)
    failed = False

    def next_batch() -> tuple[Batch, Fetched | None] | None:
        nonlocal failed
        batch = None if failed else next(source, None)  # nobody takes what comes behind a failure: do not wait for it
        if batch is None:
            return None
        if fetch is None or not batch.items.vectors:
            return batch, None
        try:
            return batch, fetch(batch.items.vectors)
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        ahead: deque[Future[tuple[Batch, Fetched | None] | None]] = deque(pool.submit(next_batch) for _ in range(depth))
        try:
            while (ready := ahead.popleft().result()) is not None:
                ahead.append(pool.submit(next_batch))
                yield ready
        finally:
            for future in ahead:
                future.cancel()
