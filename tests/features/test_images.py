from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from crossmedia.errors import ServerUnavailable, VersionMismatch
from crossmedia.features.batch import Batch, BatchItems, Jagged, VectorKeys
from crossmedia.features.reading.prefetch import ahead
from crossmedia.imgserver.client import ImageClient, MockTransport, Vectors


def batches(n: int, log: list[int] | None = None) -> Iterator[Batch]:
    for i in range(n):
        if log is not None:
            log.append(i)
        unique = np.array([i, i + 100], dtype=np.int64)
        keys = VectorKeys(unique, unique * 0, Jagged(np.arange(2), np.arange(3)))
        items = BatchItems(np.arange(2), {"item_id": np.arange(2)}, {}, {}, {}, {"image": keys})
        none, empty = np.zeros(0, np.int64), Jagged(np.zeros(0, np.int64), np.zeros(3, np.int64))
        yield Batch({}, np.array([i, i]), {}, {}, {}, items, np.arange(2), empty, none, none)


def of_images(client: ImageClient) -> Callable[[Batch], Vectors]:
    return lambda batch: client.get(batch.items.vectors["image"].unique)


VECTORS = {i: np.full(4, i, dtype=np.float16) for i in range(100)}


def test_vectors_belong_to_their_batch() -> None:
    with ImageClient(MockTransport(VECTORS)) as client:
        for i, (batch, vectors) in enumerate(ahead(batches(20), of_images(client), depth=3)):
            assert batch.timestamp[0] == i
            assert vectors.values.tolist() == [[i] * 4, [0] * 4]
            assert vectors.ok.tolist() == [True, False]
    assert i == 19


def test_it_fetches_ahead_and_not_without_bound() -> None:
    log: list[int] = []
    stream = ahead(batches(50, log), id, depth=2)
    next(stream)
    for _ in range(100):
        if len(log) >= 3:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    assert len(log) == 3
    stream.close()
    assert not any(t.name.startswith("fetch") for t in threading.enumerate())


def test_an_error_surfaces_at_its_batch() -> None:
    transport = MockTransport(VECTORS)
    with ImageClient(transport) as client:
        stream = ahead(batches(10), of_images(client), depth=1)
        next(stream)
        transport.version = "mock@222222222222+none@000000000000/4"
        with pytest.raises(VersionMismatch) as caught:
            for _ in stream:
                pass
    assert re.search("for batch [12]", caught.value.__notes__[0])  # the second may have been asked for before


def test_nothing_is_waited_for_behind_a_failure() -> None:
    """Each fetch may take all of its deadline, and nobody would take what the second one brings."""
    asked: list[int] = []

    def fetch(batch: Batch) -> None:
        asked.append(int(batch.timestamp[0]))
        threading.Event().wait(0.05)
        raise ServerUnavailable("Nobody answers.")

    with pytest.raises(ServerUnavailable):
        next(ahead(batches(10), fetch, depth=4))
    assert asked == [0]


def test_what_is_nothing_does_not_end_the_line() -> None:
    assert [thing for thing, _ in ahead([0, None, 2], id)] == [0, None, 2]


def test_what_the_source_raises_arrives_at_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 7
        raise ValueError("no such file")

    stream = ahead(broken(), id)
    assert next(stream)[0] == 7
    with pytest.raises(ValueError, match="no such file") as caught:
        next(stream)
    assert "for batch 1" in caught.value.__notes__[0]


def test_the_source_begins_in_the_thread_that_asks() -> None:
    """A ``DataLoader`` forks its workers then: better before there is a thread."""

    class Source:
        def __iter__(self) -> Iterator[int]:
            began.append(threading.current_thread())
            return iter(range(3))

    began: list[threading.Thread] = []
    assert len(list(ahead(Source(), id))) == 3
    assert began == [threading.current_thread()]


def test_a_loop_that_nobody_holds_may_be_collected_in_its_own_thread() -> None:
    dropped, collected = threading.Event(), threading.Event()

    def fetch(number: int) -> int:
        if number == 1:
            assert dropped.wait(60)
            gc.collect()
            collected.set()
        return number

    loop = ahead(range(3), fetch)
    assert next(loop) == (0, 0)
    ring: list[object] = [loop]
    ring.append(ring)
    gc.disable()  # or this thread may collect it, and wait for what waits for it
    try:
        del loop, ring
        dropped.set()
        assert collected.wait(60)
    finally:
        gc.enable()
