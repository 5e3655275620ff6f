"""The running daemon: misses, poison, versions, health, signals; and the same results over every transport."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, copy_store, run_command
from PIL import Image

from crossmedia import imgserver
from crossmedia.errors import (
    BadInput,
    CrossMediaError,
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    Overloaded,
    ServerUnavailable,
    VersionMismatch,
)
from crossmedia.imgserver.client import GrpcTransport, ImageClient, MockTransport, Status
from crossmedia.imgserver.places import IMAGE_SERVER
from crossmedia.imgserver.storage.exclusive import alone
from crossmedia.imgserver.storage.store import Store
from crossmedia.service.background import stop_daemon
from crossmedia.v1 import image_server_pb2 as pb


def test_five_lines(daemon: DaemonProcess) -> None:
    with ImageClient(daemon.address) as client:
        vectors = client.get([1, 2])
    assert vectors.values.shape == (2, 16)
    assert vectors.values.dtype == np.float16
    assert vectors.ok.all()
    assert vectors.version.startswith("efficientnet_lite0@")
    assert vectors.version.endswith("/16")


@pytest.fixture
def own_daemon(store: Path, photos: Path) -> Iterator[DaemonProcess]:
    """A daemon that no other test has asked for anything."""
    process = DaemonProcess(store, photos)
    yield process
    process.stop()


def test_misses_are_computed_once_however_many_wait(own_daemon: DaemonProcess) -> None:
    with ImageClient(own_daemon.address) as client:
        before = client.info()
        results: list[np.ndarray[tuple[int, int], np.dtype[np.float16]]] = []

        def ask() -> None:
            results.append(client.get(list(range(100, 140))).values)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = client.info()
        assert len(results) == 6
        assert all((r == results[0]).all() for r in results)
        assert after.counters.cnn_passes_on_demand - before.counters.cnn_passes_on_demand == 40
        assert after.counters.computed_on_demand - before.counters.computed_on_demand == 40
        client.get(list(range(100, 140)))
        assert client.info().counters.cnn_passes_on_demand == after.counters.cnn_passes_on_demand


def test_a_miss_equals_what_precompute_stores(daemon: DaemonProcess, store: Path, photos: Path) -> None:
    with ImageClient(daemon.address) as client:
        on_demand = client.get(list(range(150, 170))).values.astype(np.float32)
    run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", "--dim=16")
    with ImageClient(imgserver.open_local(store)) as client:
        stored = client.get(list(range(150, 170))).values.astype(np.float32)
    # Batches of other sizes differ in the low bits, and a feature is rounded to fp16 once.
    assert np.abs(on_demand - stored).max() < 2e-2
    cosine = (on_demand * stored).sum(1) / np.linalg.norm(on_demand, axis=1) / np.linalg.norm(stored, axis=1)
    assert cosine.min() > 0.9999


def test_every_transport_gives_the_same(daemon: DaemonProcess, graph_cache: Path, tmp_path: Path) -> None:
    copy_store(graph_cache, tmp_path / "store")
    ids = [5, 99, -1, 5, 0, 10**15]
    with ImageClient(daemon.address) as remote, ImageClient(imgserver.open_local(tmp_path / "store")) as local:
        a, b = remote.get(ids), local.get(ids)
        known = {i: remote.get([i]).values[0] for i in (0, 5, 99)}
        c = ImageClient(MockTransport(known, version=a.version, generation=a.generation)).get(ids)
    for other in (b, c):
        assert (a.values == other.values).all()
        assert a.status.tolist() == other.status.tolist()
        assert (a.version, a.generation) == (other.version, other.generation)
    assert a.status.tolist() == [1, 1, 2, 1, 1, 2]


def test_every_operation_is_the_same_over_every_transport(tmp_path: Path, photos: Path) -> None:
    """Over imported vectors, which a mock can stand for in every operation."""
    vectors = {i: np.full(8, i / 8, dtype=np.float16) for i in range(20)}
    table = pa.table({"image_id": list(vectors), "vector": [v.astype(np.float32).tolist() for v in vectors.values()]})
    pq.write_table(table, tmp_path / "vectors.parquet")
    file = str(tmp_path / "vectors.parquet")
    run_command("imgserver", "import", file, "--name=clip", f"--store={tmp_path / 'a'}")
    copy_store(tmp_path / "a", tmp_path / "b")
    process = DaemonProcess(tmp_path / "a", None)
    results: list[list[object]] = []
    try:
        version = json.loads(run_command("imgserver", "info", f"--server={process.address}", "--json").stdout)[
            "version"
        ]
        for transport in (
            GrpcTransport(process.address),
            imgserver.open_local(tmp_path / "b"),
            MockTransport(vectors, version=version),
        ):
            with ImageClient(transport) as client:
                info, found = client.info(), client.get([3, 99, -1, 3, 0])
                outcome: list[object] = [
                    info.version,
                    info.dim,
                    info.generation,
                    info.versions,
                    info.contents.images_stored,
                ]
                outcome += [
                    info.contents.images_stored,
                    found.values.tolist(),
                    found.status.tolist(),
                    found.version,
                    found.generation,
                ]
                outcome += [client.thumbnails([1, -1, 99]), client.get([]).values.shape, client.stats.missing]
                for call in (
                    lambda client=client: client.put({5: (photos / "005.jpg").read_bytes()}),
                    lambda client=client: client.get([-5]),
                    lambda client=client: client.get([1.5]),
                    lambda transport=transport: ImageClient(transport, version="other@0+pca@0/8").get([1]),
                ):
                    with pytest.raises(CrossMediaError) as caught:
                        call()
                    outcome.append(type(caught.value).__name__)
                results.append(outcome)
    finally:
        process.stop()
    assert results[0] == results[1] == results[2]
    assert results[0][-4:] == ["VersionMismatch", "InvalidRequest", "InvalidRequest", "VersionMismatch"]


def test_a_client_may_wait_for_ever(daemon: DaemonProcess, store: Path, photos: Path) -> None:
    for server in (daemon.address, imgserver.open_local(store, photos)):
        with ImageClient(server, timeout_s=float("inf")) as client:
            assert client.get([1, 240]).ok.all()  # 240 has to be embedded
            assert client.thumbnails([1])[0]
        with pytest.raises(BadInput, match="a number of seconds"):
            ImageClient(daemon.address, timeout_s=float("nan"))


def test_float32_is_the_widened_value(daemon: DaemonProcess) -> None:
    with ImageClient(daemon.address) as half, ImageClient(daemon.address, dtype="float32") as full:
        a, b = half.get([1, 2, 3]).values, full.get([1, 2, 3]).values
    assert b.dtype == np.float32
    assert (a.astype(np.float32) == b).all()


def test_thumbnails_come_over_the_wire(daemon: DaemonProcess) -> None:
    with ImageClient(daemon.address) as client:
        first, null, absent = client.thumbnails([3, -1, 10**12], max_side=48)
    assert first is not None
    assert first[:2] == b"\xff\xd8"
    assert null is None
    assert absent is None


def test_faults_of_the_call(daemon: DaemonProcess) -> None:
    transport = GrpcTransport(daemon.address)
    for request, message in [
        (pb.GetVectorsRequest(image_ids=b"123"), "3 bytes"),
        (pb.GetVectorsRequest(image_ids=np.array([-5], "<i8").tobytes()), "-5 is negative"),
        (pb.GetVectorsRequest(image_ids=np.zeros(100_001, "<i8").tobytes()), "100001 ids"),
        (pb.GetVectorsRequest(image_ids=np.zeros(1, "<i8").tobytes(), dtype=77), "dtype 77"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(InvalidRequest, match=message):
            transport.get_vectors(request, 5).result()
    with pytest.raises(VersionMismatch, match="this store does not hold"):
        ImageClient(transport, version="other@0+pca@0/16").get([1])
    transport.close()


def test_health_and_reflection(daemon: DaemonProcess) -> None:
    assert "is healthy" in run_command("imgserver", "health", f"--server={daemon.address}").stdout
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with grpc.insecure_channel(daemon.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        replies = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = {s.name for s in next(iter(replies)).list_services_response.service}
    assert {"crossmedia.v1.ImageService", "grpc.health.v1.Health"} <= names


@pytest.fixture
def poisoned(tmp_path: Path, photos: Path) -> Path:
    """Photos 0 to 29 and, among them, five that cannot be used and two odd ones that can."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for i in range(30):
        shutil.copy(photos / f"{i:03d}.jpg", folder / f"{i}.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "100.png")
    Image.open(photos / "001.jpg").convert("CMYK").save(folder / "101.jpg")
    (folder / "102.jpg").write_bytes((photos / "002.jpg").read_bytes()[:900])
    (folder / "103.jpg").write_text("a text file")
    (folder / "104.jpg").write_bytes(b"")
    from test_vision import header_only_png

    (folder / "105.png").write_bytes(header_only_png(50_000, 50_000))
    return folder


def test_poison_harms_only_itself(poisoned: Path, store: Path) -> None:
    process = DaemonProcess(store, poisoned)
    try:
        with ImageClient(process.address) as client:
            ids = [100, 101, 102, 103, 104, 105, 5, 999]
            status = [Status(s).name for s in client.get(ids).status]
            assert status == ["OK", "OK", "CORRUPT", "CORRUPT", "CORRUPT", "TOO_LARGE", "OK", "NOT_FOUND"]
            passes = client.info().counters.cnn_passes_on_demand
            assert [Status(s).name for s in client.get(ids).status] == status
            assert client.info().counters.cnn_passes_on_demand == passes == 2
        run_command("imgserver", "health", f"--server={process.address}")
    finally:
        process.stop()


def test_precompute_rejects_resumes_and_notices_changes(poisoned: Path, tmp_path: Path, graph_cache: Path) -> None:
    store = tmp_path / "fresh"
    (store / "engine").mkdir(parents=True)
    for file in (graph_cache / "engine").iterdir():
        shutil.copy(file, store / "engine")
    common = ("imgserver", "precompute", f"--store={store}", f"--catalogue={poisoned}", "--dim=8", "--json")
    Store(store).close()  # as precompute leaves it that was killed at once
    process = DaemonProcess(store, poisoned)
    try:
        done = run_command("imgserver", "health", f"--store={store}", check=False)
        assert done.returncode == 3
        assert "NOT_SERVING" in done.stderr
        client = ImageClient(process.address)
        with pytest.raises(NotReady, match="Run 'imgserver precompute"):
            client.get([1])
        first = json.loads(run_command(*common).stdout)
        assert (first["found"], first["embedded"], first["skipped"], first["rejected"]) == (36, 32, 0, 4)
        rejects = Path(first["rejects_file"]).read_text().splitlines()
        assert [line.split(",")[0] for line in rejects[1:]] == ["102", "103", "104", "105"]
        assert sum(first["reasons"].values()) == 4
        ids = tmp_path / "ids.txt"
        ids.write_text("1")
        some = json.loads(run_command(*common, f"--ids={ids}").stdout)
        assert (some["rejected"], some["reasons"], some["rejects_file"]) == (0, {}, None)
        assert client.get([1]).ok.all(), "the running daemon sees what precompute made"
        run_command("imgserver", "health", f"--store={store}", "--wait")
        before = client.get([7])
        shutil.copy(poisoned / "8.jpg", poisoned / "7.jpg")
        os.utime(poisoned / "9.jpg")  # touched, not changed: noticed by its content, and not embedded again
        again = json.loads(run_command(*common).stdout)
        assert (again["embedded"], again["skipped"], again["rejected"]) == (1, 35, 4)
        deadline = time.monotonic() + 10
        while client.get([7]).generation == before.generation or (client.get([7]).values == before.values).all():
            assert time.monotonic() < deadline, "the daemon serves the replaced photo within seconds"
            time.sleep(0.1)
        assert np.allclose(client.get([7]).values, client.get([8]).values, atol=1e-2)
        client.close()
    finally:
        process.stop()


def test_precompute_goes_on_after_a_kill(photos: Path, tmp_path: Path, graph_cache: Path) -> None:
    store, catalogue = tmp_path / "killed", tmp_path / "many"
    (store / "engine").mkdir(parents=True)
    for file in (graph_cache / "engine").iterdir():
        shutil.copy(file, store / "engine")
    catalogue.mkdir()
    for copy in range(6):
        for i in range(243):
            os.link(photos / f"{i:03d}.jpg", catalogue / f"{copy * 1000 + i}.jpg")
    arguments = ["imgserver", "precompute", f"--store={store}", f"--catalogue={catalogue}", "--dim=8", "--json"]
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    from crossmedia.imgserver.storage.store import Store
    from crossmedia.imgserver.vision.backbones import get_backbone

    version = get_backbone("efficientnet_lite0").version
    watched = Store(store)
    deadline = time.monotonic() + 60
    while not len(watched.index.load(version)[0]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(watched.index.load(version)[0])
    watched.close()
    assert 0 < done < 1458
    result = json.loads(run_command(*arguments).stdout)
    assert result["skipped"] >= done
    assert result["embedded"] + result["skipped"] == 1458


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [({}, 5, "No photo was found"), ({"1.jpg": b"text"}, 5, "Not one photo"), (None, 2, "does not exist")],
)
def test_precompute_that_embeds_nothing_fails(
    tmp_path: Path, files: dict[str, bytes] | None, code: int, message: str
) -> None:
    folder = tmp_path / "photos"
    if files is not None:
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
    done = run_command("imgserver", "precompute", f"--store={tmp_path / 's'}", f"--catalogue={folder}", check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_and_a_served_store_are_said(daemon: DaemonProcess, store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for how in ((), ("--background",)):
            done = run_command("imgserver", "serve", f"--store={store}", f"--port={port}", *how, check=False)
            assert done.returncode == 2
            assert f"127.0.0.1:{port} cannot be bound" in done.stderr
            assert done.stderr.count("serve: ") == 1
    done = run_command("imgserver", "serve", f"--store={daemon.store}", "--port=0", "--background", check=False)
    assert done.returncode == 2
    assert "already served by process" in done.stderr


def test_a_killed_daemon_is_none_though_another_program_has_its_process_id(daemon: DaemonProcess, store: Path) -> None:
    killed = DaemonProcess(store, None)
    os.kill(killed.pid, signal.SIGKILL)
    file = store / "daemon.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pid": daemon.pid}))
    done = run_command("imgserver", "stop", f"--store={store}", check=False)
    assert done.returncode == 3
    assert "No image server runs" in done.stderr
    again = DaemonProcess(store, None)
    again.stop()
    assert ImageClient(daemon.address).info().version


def test_sigterm_drains(store: Path, photos: Path) -> None:
    process = DaemonProcess(store, photos)
    client = ImageClient(process.address, timeout_s=20)
    client.get([1])
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(bool(client.get(list(range(100, 220))).ok.all())))
    thread.start()
    deadline = time.monotonic() + 10
    with ImageClient(process.address) as watch:
        while watch.info().counters.cnn_batches_on_demand == 0 and not answers:
            assert time.monotonic() < deadline
    assert "has stopped" in run_command("imgserver", "stop", f"--store={store}").stdout
    thread.join()
    assert answers == [True], "a call under way is answered"
    assert not (store / "daemon.json").exists()
    with pytest.raises(ServerUnavailable):
        ImageClient(process.address, timeout_s=1).get([1])
    done = run_command("imgserver", "health", f"--server={process.address}", check=False)
    assert done.returncode == 3


def test_a_server_that_was_stopped_has_ended(store: Path, tmp_path: Path) -> None:
    """Also one that has to wait for a photo first: whoever needs the store alone next finds it free."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and never answers
        manifest = tmp_path / "manifest.parquet"
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}/500.jpg"
        pq.write_table(pa.table({"image_id": [500], "uri": [uri]}), manifest)
        process = DaemonProcess(store, manifest, "--read-timeout-s=2")
        with ImageClient(process.address, timeout_s=0.5) as client, pytest.raises(DeadlineExceeded):
            client.get([500])
        assert stop_daemon(IMAGE_SERVER, store).pid == process.pid
        with alone(store):
            assert not (store / "daemon.json").exists()


def test_too_much_work_is_refused_with_a_hint(store: Path, photos: Path) -> None:
    process = DaemonProcess(store, photos, "--max-pending-ids=8")
    try:
        transport = GrpcTransport(process.address)
        calls = [
            transport.get_vectors(pb.GetVectorsRequest(image_ids=np.arange(i, i + 6, dtype="<i8").tobytes()), 10)
            for i in range(100, 148, 6)
        ]
        refused = []
        for call in calls:
            try:
                call.result()
            except Overloaded as error:
                refused.append(error)
        assert refused, "eight calls for six images each cannot all be admitted"
        assert "6 ids wait for the backbone" in str(refused[0])
        assert all(error.retry_after_s >= 0.1 for error in refused)
        with pytest.raises(InvalidRequest, match="the limit is 6"):
            transport.get_vectors(pb.GetVectorsRequest(image_ids=np.arange(7, dtype="<i8").tobytes()), 10).result()
        # The client splits and comes back when it is told to.
        with ImageClient(process.address) as client:
            assert client.get(list(range(140, 170))).ok.all()
    finally:
        process.stop()


def test_a_live_client_and_data_loader_workers(daemon: DaemonProcess) -> None:
    code = f"""
import torch
from crossmedia.imgserver.client import ImageClient
client = ImageClient({daemon.address!r})
client.get([1])
class Data(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return client.get([i]).values.astype("float32")
loader = torch.utils.data.DataLoader(Data(), num_workers=2, batch_size=2)
total = sum(len(batch) for batch in loader)
assert total == 8 and client.get([2]).ok.all()
client.close()
print("fine")
"""
    env = {**os.environ, "GRPC_VERBOSITY": "NONE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout.strip() == "fine", done.stderr


def test_status_tells_the_limits(daemon: DaemonProcess) -> None:
    info = json.loads(run_command("imgserver", "info", f"--server={daemon.address}", "--json").stdout)
    assert info["max_ids_per_call"] == 75_000
    assert info["images_in_catalogue"] == 243
    assert {"address", "version", "hit_ratio", "similarity_images", "servers"} < set(info), "flat, for scripts"
    shown = run_command("imgserver", "info", f"--server={daemon.address}").stdout.splitlines()
    headings = [place for place, line in enumerate(shown) if line.strip() in ("Limits", "Counters", "Similarity")]
    assert len(headings) == 3
    assert all(not shown[place - 1].strip() for place in headings)
    done = run_command("imgserver", "info", "--server=localhost:1", "--timeout-s=0.5", "--json", check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"] == "ServerUnavailable"
