"""Misses that hurt nobody but themselves: lanes, failures, callers that leave, versions, health, metrics."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DaemonProcess, run_command
from PIL import Image

from crossmedia.errors import DeadlineExceeded, InvalidRequest, VersionMismatch
from crossmedia.imgserver.client import GrpcTransport, HeadServers, ImageClient, LocalTransport, Status
from crossmedia.imgserver.client.head_servers import HeadState, put_head
from crossmedia.imgserver.client.retries import Deadline
from crossmedia.imgserver.head import Head, HeadSpec
from crossmedia.imgserver.serving.grpc_server import image_server
from crossmedia.imgserver.serving.health import PROBE_AFTER_S, SeesPhotos
from crossmedia.imgserver.serving.known_failures import KnownFailures
from crossmedia.imgserver.serving.miss import Miss
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.serving.stage import Stage
from crossmedia.imgserver.serving.under_way import UnderWay
from crossmedia.imgserver.vision.decode import ImageLimits
from crossmedia.imgserver.vision.engines import FeatureArray, Pictures, stacked
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.service.admission import Admission
from crossmedia.service.callers import Caller
from crossmedia.service.heartbeat import Heartbeat
from crossmedia.v1 import image_server_pb2 as pb


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """A catalogue that the test may change."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


@pytest.fixture
def service(store: Path, own_photos: Path) -> Iterator[ImageService]:
    """In this process; failures are remembered for half a second."""
    made = ImageService(
        ServiceConfig(store, PhotoSource(str(own_photos)), negative_ttl_s=0.5, machine=Machine(threads=2))
    )
    yield made
    made.close()


def name(number: int) -> str:
    return f"{number:03d}.jpg"


def test_a_failure_is_remembered_and_looked_at_again(service: ImageService, own_photos: Path) -> None:
    good = (own_photos / name(150)).read_bytes()
    (own_photos / name(150)).write_bytes(b"no picture")
    client = ImageClient(LocalTransport(service))
    assert client.get([150]).status.tolist() == [Status.CORRUPT]
    assert service.lookup.counts["negative"] == 0
    for _ in range(3):
        assert client.get([150]).status.tolist() == [Status.CORRUPT]
    assert service.lookup.counts["negative"] == 3
    assert service.misses.counters.failed == {int(Status.CORRUPT): 1}, "it was looked at once"
    (own_photos / name(150)).write_bytes(good)
    time.sleep(0.6)
    found = client.get([150])
    assert found.ok.all(), "a photo that was mended is seen when the failure is too old to be believed"
    assert found.values.any()


def test_an_untouched_failure_is_not_decoded_again(service: ImageService, own_photos: Path) -> None:
    (own_photos / name(151)).write_bytes(b"no picture")
    client = ImageClient(LocalTransport(service))
    assert client.get([151]).status.tolist() == [Status.CORRUPT]
    reads: list[int] = []
    assert service.catalogue is not None
    read = service.catalogue.read

    def noted(image_id: int, max_bytes: int) -> bytes | None:
        reads.append(image_id)
        return read(image_id, max_bytes)

    service.catalogue.read = noted  # type: ignore[method-assign]
    time.sleep(0.6)
    assert client.get([151]).status.tolist() == [Status.CORRUPT]
    assert reads == []


def test_vectors_that_float16_cannot_hold_are_not_served(
    service: ImageService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others of their batch are, and are stored."""
    apply = Head.apply_numpy

    def too_large(head: Head, features: Any) -> Any:
        vectors = apply(head, features)
        vectors[0] *= 1e8
        return vectors

    client = ImageClient(LocalTransport(service), timeout_s=2)
    monkeypatch.setattr(Head, "apply_numpy", lambda head, features: too_large(head, features))
    with pytest.raises(DeadlineExceeded, match=r"\(the first: that of id 160, FAILED\)"):
        client.get([160])
    assert "image" in caplog.text
    assert "float16 cannot hold" in caplog.text
    monkeypatch.setattr(Head, "apply_numpy", apply)
    assert client.get([160]).ok.all()


def test_negatives_are_bounded_and_end() -> None:
    known = KnownFailures(ttl_s=0.2)
    known.put(np.array([5, 6]), np.array([2, 3], dtype=np.uint8))
    assert known.get(np.array([5, 6, 7])).tolist() == [2, 3, 0]
    time.sleep(0.25)
    assert known.get(np.array([5, 6, 7])).tolist() == [0, 0, 0]
    for start in range(0, 3_000_000, 500_000):
        known.put(np.arange(start, start + 500_000), np.full(500_000, 2, dtype=np.uint8))
        assert len(known._known) <= 1_000_000
    for_ever = KnownFailures(ttl_s=float("inf"))
    for_ever.put(np.array([5]), np.array([2], dtype=np.uint8))
    assert for_ever.get(np.array([5])).tolist() == [2]


def test_lookups_go_before_photos_that_are_brought(service: ImageService, own_photos: Path) -> None:
    photos = {1000 + i: (own_photos / name(i)).read_bytes() for i in range(200)}
    client, ended = ImageClient(LocalTransport(service), timeout_s=120), []

    def bring() -> None:
        client.put(photos)
        ended.append(time.monotonic())

    thread = threading.Thread(target=bring)
    thread.start()
    while service.misses.waiting < 150:
        time.sleep(0.005)
    assert ImageClient(LocalTransport(service)).get([160, 161]).ok.all()
    answered = time.monotonic()
    assert service.misses.waiting > 50, "most of what was brought still waits"
    thread.join()
    assert answered < ended[0]


def test_callers_that_went_away_cost_nothing(store: Path, photos: Path) -> None:
    process = DaemonProcess(store, photos)
    try:
        transport = GrpcTransport(process.address)
        request = pb.GetVectorsRequest(image_ids=np.arange(100, 243, dtype="<i8").tobytes())
        call = transport.get_vectors(request, 60)
        with ImageClient(process.address) as client:
            while not (client.info().counters.images_pending or client.info().counters.computed_on_demand):
                time.sleep(0.01)
            call._wait.__self__.cancel()  # type: ignore[attr-defined]
            deadline = time.monotonic() + 10
            while client.info().counters.images_pending and time.monotonic() < deadline:
                time.sleep(0.02)
            info = client.info()
            assert info.counters.images_pending == 0
            assert info.counters.computed_on_demand < 120, "what nobody waits for any more is dropped"
            assert client.get(list(range(100, 243))).ok.all(), "and can be asked for again"
    finally:
        process.stop()


def test_a_reply_tells_what_its_images_took(service: ImageService) -> None:
    request = pb.GetVectorsRequest(image_ids=np.arange(100, 150, dtype="<i8").tobytes())
    first = service.get_vectors(request, time.monotonic() + 30)
    assert first.computed == 50
    assert 0 < first.compute_time_ns < first.server_time_ns
    assert 0 < first.queue_time_ns < first.server_time_ns
    again = service.get_vectors(request, time.monotonic() + 30)
    assert (again.computed, again.compute_time_ns, again.queue_time_ns) == (0, 0, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that is what is tested
def test_health_notices_a_dead_worker(service: ImageService) -> None:
    states: list[bool] = []
    heartbeat = Heartbeat(SeesPhotos(service), states.append, PROBE_AFTER_S)
    heartbeat.start()
    assert states == [True]

    def die() -> None:
        raise SystemExit

    service.misses._embedding.take = die  # type: ignore[method-assign, assignment]
    ImageClient(LocalTransport(service), timeout_s=0.5).get([1])
    with pytest.raises(Exception, match="not ready"):
        ImageClient(LocalTransport(service), timeout_s=0.5).get([101])
    deadline = time.monotonic() + 10
    while states[-1] and time.monotonic() < deadline:
        time.sleep(0.05)
    heartbeat.stop()
    assert states == [True, False]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that is what is tested
def test_nobody_waits_for_room_before_a_dead_worker() -> None:
    """So that a server whose writer or CNN has died can end."""

    class Dying(Stage[str]):
        most = 1

        def __init__(self) -> None:
            super().__init__("dying", UnderWay(Admission(1, 1), lambda images: None))
            self.waiting: list[str] = []

        def append(self, item: str) -> None:
            self.waiting.append(item)

        def take(self) -> list[Miss]:
            raise SystemExit

        def work(self, misses: list[Miss]) -> None:
            raise AssertionError

    stage = Dying()
    stage.start()
    stage.put("one")
    with pytest.raises(RuntimeError, match="the thread dying has ended"):
        stage.put("one more")
    stage.close()
    stage.join()


def test_an_image_that_ended_is_counted_out_once() -> None:
    admission, caller = Admission(10, 1000), Caller(time.monotonic() + 10)
    under_way = UnderWay(admission, lambda images: None)
    maker: Any = SimpleNamespace(table=SimpleNamespace(space=SimpleNamespace(name="version")))
    misses, new = under_way.admit([Miss(1, maker), Miss(2, maker)], caller)
    assert (misses, admission.under_way.items, len(under_way)) == (new, 2, 2)
    under_way.end(misses[:1], Status.FAILED)
    under_way.end(misses, Status.OK)
    assert (admission.under_way.items, len(under_way)) == (0, 0)
    assert [miss.status for miss in misses] == [Status.FAILED, Status.OK]
    assert under_way.counters.failed == {Status.FAILED: 1}


def test_a_cnn_that_fails_harms_its_images_alone_and_health_says_so(
    service: ImageService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = ImageClient(LocalTransport(service), timeout_s=0.5)
    client.get([150], timeout_s=10)
    assert service.served.active is not None
    assert service.served.active.maker is not None
    engine = service.served.active.maker.embedder.engine
    states: list[bool] = []
    heartbeat = Heartbeat(SeesPhotos(service), states.append, probe_after_s=0)
    heartbeat.start()

    def wait_for(expected: list[bool]) -> None:
        deadline = time.monotonic() + 10
        while states != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert states == expected

    with monkeypatch.context() as broken:
        broken.setattr(engine, "run", lambda pixels: 1 / 0)
        with pytest.raises(DeadlineExceeded, match=r"id 151, FAILED.*its log says why"):
            client.get([1, 151])
        assert "the CNN failed (images: 1, the first is 151): division by zero" in caplog.text
        assert client.get([1]).ok.all(), "what is stored is served"
        wait_for([True, False])
    with monkeypatch.context() as broken:
        broken.setattr(engine, "run", lambda pixels: np.full((len(pixels), 1280), np.nan, dtype=np.float32))
        time.sleep(1.5)
        assert states == [True, False], "numbers that are none are no answer"
        assert "numbers that are not finite" in caplog.text
    wait_for([True, False, True])
    heartbeat.stop()
    assert client.get([151], timeout_s=10).ok.all(), "and it was not stored as broken"


def test_a_photo_that_the_cnn_has_no_numbers_for_is_corrupt(
    service: ImageService, own_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a picture without any contrast, where a net divides by it; or features beyond what float16 holds."""
    client = ImageClient(LocalTransport(service), timeout_s=10)
    client.get([150])
    for number, shade in ((151, 0), (152, 255)):
        Image.new("RGB", (64, 64), (shade, shade, shade)).save(own_photos / name(number))
    assert service.served.active is not None
    assert service.served.active.maker is not None
    engine = service.served.active.maker.embedder.engine
    run = engine.run

    def divides(pictures: Pictures) -> FeatureArray:
        pixels = stacked(pictures)
        found = run(pixels)
        found[(pixels == 0).all(axis=(1, 2, 3))] = np.nan
        found[(pixels == 255).all(axis=(1, 2, 3)), 7] = 70_000
        return found

    monkeypatch.setattr(engine, "run", divides)
    found = client.get([1, 151, 152, 153])
    assert found.status.tolist() == [Status.OK, Status.CORRUPT, Status.CORRUPT, Status.OK]
    assert not found.values[1:3].any()
    reopened = ImageClient(LocalTransport(service), timeout_s=10).get([151, 152])
    assert reopened.status.tolist() == [Status.CORRUPT, Status.CORRUPT], "it is stored as that"


def test_a_fault_before_the_cnn_harms_its_image_alone(
    service: ImageService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = ImageClient(LocalTransport(service), timeout_s=0.5)
    with monkeypatch.context() as broken:
        broken.setattr(service.catalogue, "read", lambda image_id, most: [][0])
        with pytest.raises(DeadlineExceeded, match="id 152, FAILED"):
            client.get([152])
    assert "failed before the CNN (images: 1, the first is 152)" in caplog.text
    assert client.get([152], timeout_s=10).ok.all()
    assert service.misses.alive
    assert service.admission.under_way.items == 0


def test_a_store_is_followed_again_after_any_fault(
    service: ImageService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[float] = []
    refresh = service.served.refresh

    def fail() -> None:
        tries.append(time.monotonic())
        if len(tries) <= 2:
            raise MemoryError
        refresh()

    monkeypatch.setattr(service.served, "refresh", fail)
    deadline = time.monotonic() + 10
    while len(tries) < 4:
        assert time.monotonic() < deadline, "the thread that follows the store has ended"
        time.sleep(0.05)
    assert caplog.text.count("the store could not be followed") == 1


@pytest.fixture
def two_versions(store: Path, photos: Path) -> tuple[Path, str, str]:
    """A store with dim 16, active, and dim 8."""
    before = json.loads(run_command("imgserver", "versions", f"--store={store}", "--json").stdout)
    old = next(v["name"] for v in before if v["active"])
    ids = store.parent / "ids.txt"
    ids.write_text("\n".join(str(i) for i in range(100)))
    run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", "--dim=8", f"--ids={ids}")
    after = json.loads(run_command("imgserver", "versions", f"--store={store}", "--json").stdout)
    new = next(v["name"] for v in after if v["active"])
    assert new.endswith("/8")
    run_command("imgserver", "versions", f"--store={store}", f"--activate={old}")
    return store, old, new


def test_versions_change_while_serving(two_versions: tuple[Path, str, str], photos: Path) -> None:
    store, old, new = two_versions
    process = DaemonProcess(store, photos)
    try:
        with ImageClient(process.address) as run, ImageClient(process.address) as other:
            assert run.get([1]).version == old
            seen: dict[str, int] = {}
            wrong: list[str] = []
            stop = threading.Event()

            def watch() -> None:
                transport = GrpcTransport(process.address)
                request = pb.GetVectorsRequest(image_ids=np.arange(100, dtype="<i8").tobytes())
                while not stop.is_set():
                    reply = transport.get_vectors(request, 5).result()
                    seen[reply.version] = reply.values.shape[1]
                    if not (reply.status == Status.OK).all() or not reply.version.endswith(f"/{reply.values.shape[1]}"):
                        wrong.append(reply.version)

            thread = threading.Thread(target=watch)
            thread.start()
            run_command("imgserver", "versions", f"--store={store}", f"--activate={new}")
            deadline = time.monotonic() + 10
            while new not in seen and time.monotonic() < deadline:
                time.sleep(0.05)
            stop.set()
            thread.join()
            assert seen == {old: 16, new: 8}
            assert not wrong
            assert other.get([1]).version == new, "who names none gets the active one"
            assert run.get([2, 3]).version == old, "who began with a version goes on with it"
            assert run.get([120]).ok.all(), "also where it has to be computed"
            refused = run_command("imgserver", "versions", f"--store={store}", f"--delete={new}", check=False)
            assert refused.returncode == 2
            assert "active" in refused.stderr
            run_command("imgserver", "versions", f"--store={store}", f"--delete={old}")
            time.sleep(1.5)
            with pytest.raises(VersionMismatch, match="does not hold"):
                run.get([4])
            assert other.get([5]).ok.all()
    finally:
        process.stop()
    held = json.loads(run_command("imgserver", "versions", f"--store={store}", "--json").stdout)
    assert [v["name"] for v in held if v["kind"] == "vector"] == [new]
    features = next(v["name"] for v in held if v["kind"] == "feature")
    done = run_command("imgserver", "versions", f"--store={store}", f"--delete={features}", check=False)
    assert "needed by" in done.stderr
    missing = run_command("imgserver", "versions", f"--store={store}", "--activate=x", check=False)
    assert "does not hold the version 'x'" in missing.stderr


def test_a_new_head_is_another_version(store: Path, photos: Path) -> None:
    before = json.loads(run_command("imgserver", "versions", f"--store={store}", "--json").stdout)
    run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", "--dim=16", "--new-head")
    after = json.loads(run_command("imgserver", "versions", f"--store={store}", "--json").stdout)
    vectors = [v for v in after if v["kind"] == "vector"]
    assert len(vectors) == len([v for v in before if v["kind"] == "vector"]) + 1
    assert {v["dim"] for v in vectors} == {16}


def test_metrics_for_prometheus(store: Path, photos: Path) -> None:
    process = DaemonProcess(store, photos, "--metrics-port=0")
    try:
        port = json.loads((store / "daemon.json").read_text())["metrics_port"]
        with ImageClient(process.address) as client:
            client.get([1, 2, 100, 10**9])
            client.get([10**9])
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    finally:
        process.stop()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert values['crossmedia_cache_lookups_total{result="hit"}'] == 2
    assert values['crossmedia_cache_lookups_total{result="miss"}'] == 2
    assert values['crossmedia_cache_lookups_total{result="negative"}'] == 1
    assert values['crossmedia_images_failed_total{reason="NOT_FOUND"}'] == 1
    assert values['crossmedia_rpc_duration_seconds_count{code="OK",method="GetVectors"}'] == 2
    assert values["crossmedia_batch_size_count"] == 1
    assert values["crossmedia_queue_items"] == 0
    assert values["crossmedia_store_used_bytes"] > 100_000


def test_poison_in_a_load_harms_only_itself(service: ImageService, own_photos: Path) -> None:
    """Many callers, photos of which some are broken in every way at once; each failure keeps to its own id."""
    bad = {100: b"", 110: b"text", 120: (own_photos / name(120)).read_bytes()[:500]}
    for number, data in bad.items():
        (own_photos / name(number)).write_bytes(data)
    client = ImageClient(LocalTransport(service), timeout_s=60)
    results: list[dict[int, int]] = []

    def ask(seed: int) -> None:
        ids = np.random.default_rng(seed).permutation(np.arange(95, 160))
        results.append(dict(zip(ids.tolist(), client.get(ids).status.tolist(), strict=True)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for found in results:
        assert {i for i, status in found.items() if status != Status.OK} == set(bad)
    assert service.misses.counters.computed == 60 - len(bad)
    assert service.misses.alive


def test_acknowledged_misses_survive_kill_9(store: Path, photos: Path) -> None:
    process = DaemonProcess(store, photos)
    with ImageClient(process.address) as client:
        before = client.get(list(range(100, 140)))
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process.pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    again = DaemonProcess(store, None)  # without a catalogue nothing can be computed
    try:
        with ImageClient(again.address) as client:
            after = client.get(list(range(100, 140)))
    finally:
        again.stop()
    assert after.ok.all()
    np.testing.assert_array_equal(before.values, after.values)


def test_a_store_is_not_used_across_a_fork(store: Path) -> None:
    code = f"""
import os
from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.store import Store
opened = Store({str(store)!r})
assert opened.index.active
child = os.fork()
if child == 0:
    try:
        opened.index.active
    except StoreError as error:
        os._exit(0 if "Open it again" in str(error) else 3)
    os._exit(4)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert opened.index.active
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_limits_are_told(service: ImageService) -> None:
    info = ImageClient(LocalTransport(service)).info()
    assert info.limits.max_ids_per_call <= info.limits.max_pending_ids
    assert info.limits.negative_ttl_s == 0.5
    assert info.limits.max_pending_bytes > info.limits.max_message_bytes
    assert info.limits.max_image_bytes == ImageLimits().max_bytes
    assert info.contents.store_used_bytes > 0
    assert info.contents.store_free_bytes > 0


def test_an_idle_server_admits_a_call_of_the_size_that_it_tells(store: Path) -> None:
    """A head's vectors take the most memory: the features of all images of the call."""
    service = ImageService(ServiceConfig(store, max_pending_bytes=41 * 6 * 1280))
    try:
        with HeadServers([LocalTransport(service)], "run", timeout_s=5) as servers:
            torch.manual_seed(0)
            head = Head(HeadSpec("learned", (1280, 4)))
            version = head.version(servers.backbone())
            assert servers.vectors(np.arange(100), version, head.to_bytes()).ok.all()
            assert servers.client.info().limits.max_ids_per_call == 30
    finally:
        service.close()


def test_a_message_that_is_too_large_is_refused_at_once(store: Path) -> None:
    service = ImageService(ServiceConfig(store, max_message_bytes=1 << 20))
    server = image_server(service, "127.0.0.1:0")
    server.start()
    try:
        with ImageClient(server.address, timeout_s=20) as client:
            started = time.monotonic()
            with pytest.raises(InvalidRequest, match=r"is too large: .*larger than max"):
                put_head(client, "run", HeadState("net@1+learned@2/4", bytes(2 << 20)), Deadline.after(20))
            assert time.monotonic() - started < 5, "trying again would not help"
            assert client.get([1]).ok.all()
    finally:
        server.stop(0)
        service.close()
