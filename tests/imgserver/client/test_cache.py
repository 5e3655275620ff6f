"""A cache gives what no cache would give, but for what changed within the last interval."""

from __future__ import annotations

import multiprocessing as mp
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DaemonProcess, soon
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmedia.errors import BadInput, DeadlineExceeded
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, MockTransport, Status, cache
from crossmedia.imgserver.client.cached_rows import WAYS, CachedRows
from crossmedia.imgserver.client.transports import Pending
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.v1 import image_server_pb2 as pb

DIM = 1024  # so that the least cache holds few rows
LEAST = cache.LEAST_BYTES
VERSION = f"mock@000000000000+none@000000000000/{DIM}"


def vector(value: float) -> np.ndarray[Any, Any]:
    return np.full(DIM, value, dtype=np.float16)


class Changing(MockTransport):
    """A store whose images are replaced, added and taken out; a replaced one raises the generation."""

    def __init__(self, n: int = 200):
        super().__init__({i: vector(i) for i in range(n)}, version=VERSION)

    def replace(self, image_id: int, value: float) -> None:
        self.generation += image_id in self.vectors
        self.vectors[image_id] = vector(value)

    @property
    def asked(self) -> list[list[int]]:
        return [np.frombuffer(request.image_ids, "<i8").tolist() for request in self.requests]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_was_fetched_is_not_fetched_again(clock: list[float]) -> None:
    transport = Changing()
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    first, again = client.get([3, 1, 3, -1, 500]), client.get([1, 500, 3, -1])
    assert transport.asked == [[3, 1, 500]], "a permanent miss is kept for an interval too"
    assert again.values[0, 0] == 1
    assert again.values[2, 0] == 3
    assert again.status.tolist() == [Status.OK, Status.NOT_FOUND, Status.OK, Status.NOT_FOUND]
    assert (again.version, again.generation) == (first.version, first.generation)
    assert (client.stats.unique, client.stats.cached, client.stats.calls) == (6, 3, 1)
    assert client.stats.missing == {"NOT_FOUND": 2}, "counted once a get, as without a cache"
    client.get([1, 2, 3])
    assert transport.asked[1:] == [[2]]


def test_after_an_interval_one_id_is_asked_for_and_what_was_replaced_is_dropped(clock: list[float]) -> None:
    transport = Changing()
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    client.get(range(10))
    transport.replace(7, 70)
    assert client.get([7]).values[0, 0] == 7, "within the interval nobody asks"
    clock[0] += cache.REFRESH_S
    found = client.get(range(10))
    assert transport.asked[1:] == [[0], list(range(1, 10))], "the first reply says that something was replaced"
    assert found.values[7, 0] == 70
    clock[0] += cache.REFRESH_S
    client.get(range(10))
    assert transport.asked[3:] == [[0]], "nothing was, this time"


def test_a_reply_to_another_id_drops_at_once(clock: list[float]) -> None:
    transport = Changing()
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    client.get([7])
    transport.replace(7, 70)
    assert client.get([7, 8]).values[:, 0].tolist() == [70, 8], "the reply for 8 says that something was replaced"


def test_a_photo_that_is_added_is_there_after_an_interval(clock: list[float]) -> None:
    transport = Changing()
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    assert not client.get([500]).ok[0]
    transport.replace(500, 5)
    assert transport.generation == 1
    clock[0] += cache.REFRESH_S
    assert client.get([500]).values[0, 0] == 5


def test_what_could_not_be_had_now_is_asked_for_again() -> None:
    transport = Changing()
    transport.status = {1: Status.TIMED_OUT}
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    with pytest.raises(DeadlineExceeded, match="not ready"):
        client.get([1], timeout_s=0.01)
    transport.status = {1: Status.CORRUPT}
    assert client.get([1]).status.tolist() == [Status.CORRUPT]


def test_copies_that_lag_behind_confirm_nothing_and_a_restored_store_is_followed(clock: list[float]) -> None:
    transport = Changing()
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    transport.generation = 5
    client.get([1])
    transport.generation, transport.vectors[2] = 4, vector(20)
    client.get([2])
    transport.generation, transport.vectors[2] = 5, vector(2)
    assert client.get([2]).values[0, 0] == 2, "what came of an earlier generation is not kept"
    clock[0] += 10
    transport.generation, transport.vectors[1] = 3, vector(10)
    assert client.get([1, 2]).values[:, 0].tolist() == [10, 2], "nobody has said 5 for long: it is another store"


def test_servers_that_own_parts_are_each_confirmed(clock: list[float]) -> None:
    transports = [Changing(), Changing()]
    client = ImageClient(transports, cache_bytes=20 * LEAST)
    client.get(range(50))
    clock[0] += cache.REFRESH_S
    client.get(range(50))
    assert [len(transport.asked[1]) for transport in transports] == [1, 1]
    mine = {i for i in range(50) if any(i in asked for asked in transports[1].asked)}
    image_id = min(mine)
    transports[1].replace(image_id, 99)
    clock[0] += cache.REFRESH_S
    assert client.get(range(50)).values[image_id, 0] == 99


def test_versions_share_the_memory_and_do_not_mix(clock: list[float]) -> None:
    class TwoVersions(Changing):
        def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
            self.version = request.version or VERSION
            self.vectors = {1: vector(1 if self.version == VERSION else 2)}
            return super().get_vectors(request, timeout_s)

    other = VERSION.replace("none", "other")
    transport = TwoVersions()
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    for _ in range(3):
        assert client.get([1]).values[0, 0] == 1
        assert client.get([1], version=other).values[0, 0] == 2
        assert client.cache is not None
        assert client.cache.nbytes <= 10 * LEAST
    client.version = other  # as when a run begins with the version that was activated
    assert client.get([1]).values[0, 0] == 2
    assert len(transport.requests) == 3, "each once, and the first anew when another version needed half of the memory"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sequence_gives_what_no_cache_gives(data: st.DataObject) -> None:
    transport = Changing(40)
    client = ImageClient(transport, cache_bytes=LEAST)  # 16 places for 60 ids
    plain = ImageClient(transport)
    for step in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["get", "get", "get", "replace", "fail"]))
        image_id = data.draw(st.integers(0, 59))
        if what == "replace":
            transport.replace(image_id, 100 + step)
        elif what == "fail":
            transport.generation += image_id in transport.vectors and image_id not in transport.status
            transport.status[image_id] = Status.CORRUPT
        else:
            assert client.cache is not None
            client.cache.doubt()  # as if an interval had passed
            ids = data.draw(st.lists(st.integers(-1, 59), max_size=50))
            found, right = client.get(ids), plain.get(ids)
            np.testing.assert_array_equal(found.values, right.values)
            np.testing.assert_array_equal(found.status, right.status)
            assert found.generation == right.generation


@given(ids=st.lists(st.integers(0, 2**62), min_size=1, max_size=300, unique=True), size=st.integers(0, 40_000))
@settings(deadline=None)
def test_rows_are_those_of_their_ids_and_take_no_more_than_their_bytes(ids: list[int], size: int) -> None:
    rows = CachedRows(size, 4, "float32")
    assert rows.nbytes <= size
    assert rows.places % WAYS == 0
    array = np.array(ids, dtype=np.int64)
    values = np.arange(len(ids), dtype=np.float32)[:, None].repeat(4, axis=1)
    for _ in range(2):
        rows.find(array, 0)
        rows.put(array, values, np.ones(len(ids), np.uint8), 1)
    found = rows.find(array, 0)
    there = np.setdiff1d(np.arange(len(ids)), found.absent)
    assert len(rows) == len(there) == found.cached <= rows.places
    np.testing.assert_array_equal(found.values[there], values[there]) if len(there) else None
    assert (found.status[there] == Status.OK).all()
    rows.drop()
    assert len(rows.find(array, 0).absent) == len(ids)


@given(kept=st.lists(st.integers(0, 30), max_size=20, unique=True), asked=st.lists(st.integers(-1, 60), max_size=100))
@settings(deadline=None)
def test_ids_come_as_often_as_one_likes_and_each_that_is_not_there_is_told_once(
    kept: list[int], asked: list[int]
) -> None:
    rows, ids = CachedRows(1 << 16, 4, "float32"), np.array(asked, dtype=np.int64)
    there = np.array(kept, dtype=np.int64)
    rows.put(there, there[:, None].repeat(4, 1).astype(np.float32), np.ones(len(kept), np.uint8), 1)
    found, hit = rows.find(ids, 0), np.isin(ids, there)
    assert found.absent.tolist() == np.flatnonzero(~hit & (ids >= 0)).tolist()
    assert found.unique.tolist() == list(dict.fromkeys(i for i in asked if i >= 0 and i not in kept))
    np.testing.assert_array_equal(found.unique[found.place], ids[found.absent])
    assert found.cached == len(set(kept) & set(asked))
    if found.cached:
        np.testing.assert_array_equal(found.values[hit], ids[hit, None].repeat(4, 1))
        assert not found.values[ids < 0].any()
    assert (found.status[ids < 0] == Status.NOT_FOUND).all()


def test_popular_rows_stay_and_what_was_popular_once_goes() -> None:
    rng, rows = np.random.default_rng(0), CachedRows(1000 * (8 + 26), 4, "float16")
    values = np.zeros((2000, 4), dtype=np.float16)

    def hits(popular: np.ndarray[Any, Any], rounds: int) -> float:
        found = 0
        for _ in range(rounds):
            ids = np.unique(np.concatenate([popular, rng.integers(10_000, 10**9, 1000)]))
            absent = rows.find(ids, 0).unique
            rows.put(absent, values[: len(absent)], np.ones(len(absent), np.uint8), 0)
            found = len(popular) - int((absent < 10_000).sum())
        return found / len(popular)

    assert hits(np.arange(700), 20) > 0.95, "1,000 ids a round that come once do not push them out"
    assert hits(np.arange(5000, 5700), 60) > 0.95, "others are popular now"


def test_a_request_larger_than_the_cache_and_one_without_room(caplog: pytest.LogCaptureFixture) -> None:
    transport = Changing(150)
    client = ImageClient(transport, cache_bytes=LEAST)
    for _ in range(3):
        np.testing.assert_array_equal(client.get(range(150)).values[:, 0], np.arange(150))
    assert 0 < client.stats.cached <= 2 * 16
    wide = 1 << 13
    big = MockTransport({1: np.ones(wide)})
    client = ImageClient(big, cache_bytes=LEAST)
    assert client.get([1]).ok[0]
    assert client.get([1]).ok[0]
    assert client.stats.cached == 0
    assert "no room for vectors of 8192 numbers" in caplog.text


@pytest.mark.parametrize("size", [-1, 1, LEAST - 1, 1 << 60, 1.5, "512MB", None, True])
def test_a_size_that_no_cache_can_have_is_refused_in_words(size: Any) -> None:
    with pytest.raises(BadInput, match=r"cache_bytes is .*it must be a whole number of bytes: 0 for no cache"):
        ImageClient(MockTransport({}), cache_bytes=size)


def test_without_a_size_nothing_is_kept_and_numba_is_not_loaded() -> None:
    code = (
        "import sys; from crossmedia.imgserver.client import ImageClient, MockTransport\n"
        "client = ImageClient(MockTransport({1: [1.0] * 8}), cache_bytes=0); client.get([1]); client.get([1])\n"
        "assert client.stats.calls == 2 and client.cache is None and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_held_without_a_call(clock: list[float]) -> None:
    transport = Changing()
    client = ImageClient(transport, cache_bytes=10 * LEAST)
    assert client.cached([1, -1]).status.tolist() == [Status.FAILED, Status.NOT_FOUND]
    client.get([1, 2])
    clock[0] += 1e6
    found = client.cached([2, 9, 1, -1, 2])
    assert found.values[:, 0].tolist() == [2, 0, 1, 0, 2]
    assert found.status.tolist() == [Status.OK, Status.FAILED, Status.OK, Status.NOT_FOUND, Status.OK]
    assert len(transport.requests) == 1
    assert ImageClient(transport).cached([1]).status.tolist() == [Status.FAILED]


def test_threads_get_right_vectors_while_images_are_replaced() -> None:
    transport = Changing(120)
    for image_id in range(120):
        transport.vectors[image_id] = vector(0)
    client, failures, stop = ImageClient(transport, cache_bytes=2 * LEAST), list[str](), threading.Event()
    rounds, known = [0], np.zeros(120)

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            ids = rng.integers(0, 120, 60)
            # What was there an interval before the call is the oldest that may come.
            oldest = known[ids].copy()
            found = client.get(ids)
            if not found.ok.all() or (found.values[:, :1] != found.values).any():
                failures.append("a row is torn")
            if (found.values[:, 0] < oldest).any():
                failures.append("a row is older than an interval")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    replaced: list[tuple[float, int, int]] = []
    while time.monotonic() - started < 4:
        rounds[0] += 1
        image_id = rounds[0] % 120
        transport.vectors[image_id] = vector(rounds[0])
        transport.generation += 1
        replaced.append((time.monotonic(), image_id, rounds[0]))
        while replaced and replaced[0][0] < time.monotonic() - cache.REFRESH_S:
            _, image_id, value = replaced.pop(0)
            known[image_id] = value
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert client.stats.cached > 0


def _child_cached(client: ImageClient, pipe: Any) -> None:
    before = client.cached([1]).ok[0]
    pipe.send((bool(before), client.get([1]).values[0, 0]))


def test_it_does_not_travel_and_a_fork_begins_anew(daemon: DaemonProcess) -> None:
    client = ImageClient(daemon.address, cache_bytes=1 << 20)
    first = client.get([1])
    for other in (pickle.loads(pickle.dumps(client)), copy(client)):
        assert other.cache is not None
        assert other.cache.size == 1 << 20
        assert not other.cached([1]).ok[0]
        np.testing.assert_array_equal(other.get([1]).values, first.values)
    assert client.cache is not None
    with client.cache._lock:  # as when another thread is in it during the fork
        here, there = mp.Pipe()
        context = mp.get_context("fork")
        child = context.Process(target=_child_cached, args=(client, there))
        child.start()
        assert here.poll(30), "the child waits for a lock that nobody gives back"
        assert here.recv() == (False, first.values[0, 0])
        child.join(10)
    assert client.cached([1]).ok[0]


def seconds_until(client: ImageClient, expected: np.ndarray[Any, Any]) -> float:
    """How long image 7 is another than ``expected``, asked for again and again."""
    started = time.monotonic()
    while not np.array_equal(client.get([7]).values, expected):
        assert time.monotonic() < started + 20, "the old vector stays"
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.fixture
def own_daemon(store: Path, photos: Path) -> Iterator[DaemonProcess]:
    """A daemon whose store a test may change."""
    process = DaemonProcess(store, photos)
    yield process
    process.stop()


def test_a_photo_that_is_put_is_seen_within_the_interval(own_daemon: DaemonProcess, photos: Path) -> None:
    with ImageClient(own_daemon.address, cache_bytes=1 << 20) as cached, ImageClient(own_daemon.address) as other:
        before = cached.get(range(100))
        for number in (8, 7):
            calls = cached.stats.calls
            assert cached.get([7]).ok.all()
            assert cached.stats.calls <= calls + 1
            other.put({7: (photos / f"{number:03d}.jpg").read_bytes()})
            assert seconds_until(cached, before.values[[number]]) <= cache.REFRESH_S + 0.5, "and a slow machine"
        cached.put({7: (photos / "008.jpg").read_bytes()})
        np.testing.assert_array_equal(cached.get([7]).values, before.values[[8]], "what it puts itself it sees at once")
        assert not cached.get([242, 10**6]).ok[1]
        assert cached.stats.cached > 0


def test_what_another_process_writes_or_deletes_is_seen_an_interval_after_the_daemon(
    own_daemon: DaemonProcess, store: Path
) -> None:
    with ImageClient(own_daemon.address, cache_bytes=1 << 20) as cached, ImageClient(own_daemon.address) as plain:
        before = cached.get(range(100))
        opened = Store(store)
        space = opened.index.space(before.version)
        assert space is not None
        for content in (1, 2):
            new = before.values[[content]]
            source = np.zeros(1, dtype=SOURCE)
            source["content"] = content
            opened.put(Rows(space, np.array([7]), np.array([Status.OK], dtype=np.uint8), source, new))
            seconds_until(plain, new)
            assert seconds_until(cached, new) <= cache.REFRESH_S + 0.5
        ids = np.array([7])
        generation = opened.index.generation
        opened.index.remove([(space.name, ids, opened.index.get(space.name, ids)[0])])
        assert opened.index.generation == generation + 1, "an image that is gone is another answer too"
        opened.close()


def test_replies_are_of_the_generation_that_they_name_or_later(store: Path) -> None:
    """Else a cache would take an old vector for a new one, and keep it."""
    transport = open_local(store)
    service: Any = transport._service
    with ImageClient(transport) as client:
        before, index = client.get([7]), service.store.index
        source = np.zeros(1, dtype=SOURCE)
        source["content"] = 1
        new, ok = before.values + 1, np.array([Status.OK], dtype=np.uint8)
        service.store.put(Rows(index.space(before.version), np.array([7]), ok, source, new))
        assert index.generation == before.generation + 1
        while (found := client.get([7])).values[0, 0] == before.values[0, 0]:
            assert found.generation == before.generation, "the table has not followed yet, and must not say so"
            time.sleep(0.002)
        np.testing.assert_array_equal(client.get([7]).values, new)
        assert soon(lambda: client.get([7]).generation == before.generation + 1)
