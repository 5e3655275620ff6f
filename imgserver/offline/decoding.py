"""Photos on their way through the CNN: read and decoded ahead, in batches, several of them under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.vision.backbone import Backbone
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.photos import Photo, read_photos

READING = 4  # threads that only read
BLOCK = 8  # photos at most that a thread reads in a row: what it costs to hand them over is paid once

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Given], Made], items: Iterable[Given], most: int
) -> Iterator[Made]:
    """``work`` of each item, in their order, by the threads of ``pool``, ``most`` of them begun and not yet taken."""
    ahead: deque[Future[Made]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) >= most:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def decoded(catalogue: Catalogue, backbone: Backbone, decoders: Decoders, ids: Ids, ahead: int) -> Iterator[Photo]:
    """Photos in the order of ``ids``, read in threads and decoded, about ``ahead`` of them before they are taken."""
    # Python runs one thread at a time: where the GPU decodes, more of them would only wait for each other.
    decoding = backbone.preprocessing.jpeg == "pillow"
    threads = max(catalogue.readers, decoders.threads if decoding else min(decoders.workers, READING))
    size = max(1, min(BLOCK, ahead // (2 * threads), len(ids) // (2 * threads)))
    blocks = (ids[start : start + size] for start in range(0, len(ids), size))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:

        def read(block: Ids) -> list[Photo]:
            return read_photos(catalogue, block, backbone.preprocessing, decoders)

        # Each thread has a block at hand and one that waits, so that none is idle while others are taken.
        yield from chain.from_iterable(in_order(pool, read, blocks, max(ahead // size, 2 * threads)))


def batched(photos: Iterator[Photo], size: int) -> Iterator[list[Photo]]:
    """Lists of ``size`` photos; the last may be shorter."""
    while batch := list(islice(photos, size)):
        yield batch
