"""The vectors of a batch's images, fetched in the background while earlier batches are trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.batch import Batch, Float32Array
from imgserver.client import ImageClient


@dataclass(frozen=True)
class BatchVectors:
    """Vectors of ``batch.images.unique``.

    Attributes:
        values: shape (K, D), float32; the row of a missing image is zeros.
        ok: shape (K,), which rows are real.
    """

    values: Float32Array
    ok: npt.NDArray[np.bool_]


def fetch_ahead(
    batches: Iterable[Batch], client: ImageClient | None, depth: int = 2
) -> Generator[tuple[Batch, BatchVectors | None], None, None]:
    """Each batch with the vectors of its images, asked for ``depth`` batches ahead.

    Reading the samples happens in the background thread too. The fetch stays in this process, so data loader workers
    never touch the connection.

    Args:
        batches: what to fetch for.
        client: where vectors come from; None yields the batches alone.
        depth: how many batches are under way.

    Raises:
        CrossMediaError: what the client raised, at the batch whose vectors could not be had.
    """
    source = iter(batches)

    def next_batch() -> tuple[Batch, BatchVectors | None] | None:
        batch = next(source, None)
        if batch is None:
            return None
        if client is None or batch.images is None:
            return batch, None
        vectors = client.get(batch.images.unique)
        return batch, BatchVectors(vectors.values.astype(np.float32), vectors.ok)

    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        ahead: deque[Future[tuple[Batch, BatchVectors | None] | None]] = deque(
            pool.submit(next_batch) for _ in range(depth)
        )
        try:
            while (ready := ahead.popleft().result()) is not None:
                ahead.append(pool.submit(next_batch))
                yield ready
        finally:
            for future in ahead:
                future.cancel()
