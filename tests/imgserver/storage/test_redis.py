"""Vectors in a Redis cluster: what is written is what is read, copies share it, and a lost node is a miss."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import DaemonProcess, copy_store, run_command
from redis_nodes import RedisCluster, RedisNode, cli, free_port

from crossmedia.errors import BadInput, DeadlineExceeded, NotReady, StoreError, VersionMismatch
from crossmedia.imgserver.client import GrpcTransport, ImageClient, LocalTransport, Status
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.offline.publish import PublishReport, images_of, publish
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.storage.cluster.codec import Codec, grouped, tags_of
from crossmedia.imgserver.storage.cluster.nodes import REPLY_TIMEOUT_S
from crossmedia.imgserver.storage.cluster.store import RedisStore
from crossmedia.imgserver.storage.records import SOURCE, Rows, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.wire import PUT_HEAD, PUT_IMAGES, SEARCH
from crossmedia.v1 import image_server_pb2 as pb

pytestmark = pytest.mark.slow  # clusters of real Redis servers

IDS = np.arange(100)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three nodes whose data outlives them."""
    made = RedisCluster(tmp_path_factory.mktemp("redis"), "--appendonly", "yes", "--appendfsync", "always")
    yield made
    made.close()


def bring(store: Path, url: str, *versions: str) -> PublishReport:
    """Publish as the command does, in this process."""
    opened, shared = Store(store, create=False), RedisStore(url, store)
    try:
        return publish(opened, shared, images_of(opened, versions)[0])
    finally:
        shared.close()
        opened.close()


@pytest.fixture
def published(cluster: RedisCluster, graph_cache: Path) -> str:
    """The cluster's URL, with images 0 to 99 in it, all other keys gone."""
    for node in cluster.nodes:
        cli(node.port, "flushall")
    bring(graph_cache, cluster.url)
    return cluster.url


class RedisDaemon(DaemonProcess):
    """A daemon over a cluster."""

    def __init__(self, url: str, folder: Path, catalogue: Path | None = None):
        super().__init__(Path("unused"), catalogue, f"--store={url}", f"--folder={folder}")
        self.store = folder


@pytest.fixture(scope="module")
def computer(cluster: RedisCluster, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisDaemon]:
    """A daemon over the cluster that has photos, of which 150 is broken."""
    folder = tmp_path_factory.mktemp("computer")
    subprocess.run(["cp", "-a", photos, folder / "photos"], check=True)
    (folder / "photos" / "150.jpg").write_bytes(b"no picture")
    process = RedisDaemon(cluster.url, folder / "server", folder / "photos")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def reader_process(cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisDaemon]:
    process = RedisDaemon(cluster.url.split(",")[0], tmp_path_factory.mktemp("reader"))
    yield process
    process.stop()


@pytest.fixture
def reader(reader_process: RedisDaemon, published: str, graph_cache: Path) -> RedisDaemon:
    """A daemon over the cluster that has no photos; it has seen what was published."""
    with ImageClient(reader_process.address) as client:
        until(lambda: bool(client.info().version))
    until(lambda: asked(reader_process.address)[0].tobytes() == local_vectors(graph_cache).tobytes())
    return reader_process


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisDaemon]]:
    """Starts a copy of the server, with a folder of its own."""
    started: list[RedisDaemon] = []

    def start_one(url: str, catalogue: Path | None = None) -> RedisDaemon:
        started.append(RedisDaemon(url, tmp_path / f"server{len(started)}", catalogue))
        return started[-1]

    yield start_one
    for process in started:
        process.stop()


def local_vectors(store: Path, ids: np.ndarray = IDS, version: str = "") -> np.ndarray:
    """As the local store serves them."""
    service = ImageService(ServiceConfig(store))
    try:
        request = pb.GetVectorsRequest(image_ids=ids.astype("<i8").tobytes(), version=version)
        reply = service.get_vectors(request, time.monotonic() + 10)
        assert (reply.status == Status.OK).all()
        return reply.values.copy()
    finally:
        service.close()


def asked(address: str, ids: np.ndarray = IDS, timeout_s: float = 20) -> tuple[np.ndarray, np.ndarray, float]:
    """Vectors and status as one call brings them, without the client's retries, and its seconds."""
    transport = GrpcTransport(address)
    started = time.monotonic()
    reply = transport.get_vectors(pb.GetVectorsRequest(image_ids=ids.astype("<i8").tobytes()), timeout_s).result()
    seconds = time.monotonic() - started
    transport.close()
    return reply.values.copy(), reply.status.copy(), seconds


def until(done: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def of_node(store: RedisStore, node: RedisNode, ids: np.ndarray) -> np.ndarray:
    """Which ids lie on a node."""
    owners = [store.nodes.owner(tag) for tag in tags_of(ids).tolist()]
    return np.array([owner is not None and owner.address.endswith(f":{node.port}") for owner in owners])


def test_the_later_publishing_counts_though_the_clock_was_set_back(
    published: str, graph_cache: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**15)
    bring(graph_cache, published)
    with closing(RedisStore(published, store)) as shared:
        space = shared.index.space(shared.index.active)
        assert space is not None
        status = shared.table(space).get(np.array([1, 12345]))[1]
    assert status.tolist() == [Status.OK, 0], "what was never published is known to be absent, not held to be lost"


def test_commands_publish_and_serve_the_same_bits(
    cluster: RedisCluster, graph_cache: Path, reader_process: RedisDaemon, start: Callable[..., RedisDaemon]
) -> None:
    for node in cluster.nodes:
        cli(node.port, "flushall")
    arguments = ("imgserver", "publish", f"--store={graph_cache}", f"--to={cluster.url}", "--json")
    first = json.loads(run_command(*arguments).stdout)
    assert (first["images"], first["written"], first["evicted"]) == (100, 100, False)
    again = json.loads(run_command(*arguments).stdout)
    assert (again["images"], again["written"]) == (100, 0), "what is there is not written again"
    one, expected = start(cluster.url), local_vectors(graph_cache)
    until(lambda: bool((asked(reader_process.address)[1] == Status.OK).all()))
    for process in (one, reader_process):
        values, status, _ = asked(process.address)
        assert (status == Status.OK).all()
        assert values.tobytes() == expected.tobytes()
    with ImageClient(one.address) as client:
        info = client.info()
        assert (info.version, info.contents.images_stored, info.dim) == (first["active"], 100, 16)
        assert info.contents.store_used_bytes > 0
        assert client.get([99, 12345]).status.tolist() == [Status.OK, Status.NOT_FOUND], (
            "no catalogue, and never published"
        )
    health = json.loads(run_command("imgserver", "health", f"--server={one.address}", "--json").stdout)
    assert health["health"] == "SERVING"


def test_copies_share_what_one_of_them_computed(
    published: str, computer: RedisDaemon, start: Callable[..., RedisDaemon]
) -> None:
    other = start(published, computer.store.parent / "photos")
    ids = np.arange(140, 160)
    with ImageClient(computer.address) as client, ImageClient(other.address) as second:
        until(lambda: bool(client.info().version))
        before = client.info().counters.computed_on_demand
        values, status, _ = asked(computer.address, ids)
        assert status.tolist() == [Status.OK] * 10 + [Status.CORRUPT] + [Status.OK] * 9
        shared, same, _ = asked(other.address, ids)
        assert same.tolist() == status.tolist()
        assert shared.tobytes() == values.tobytes()
        assert client.info().counters.computed_on_demand - before == 19
        assert (second.info().counters.computed_on_demand, second.info().counters.cnn_passes_on_demand) == (0, 0)


def test_versions_do_not_mix_and_servers_follow_the_active_one(
    published: str, store: Path, reader: RedisDaemon, photos: Path
) -> None:
    server = reader
    with ImageClient(server.address) as client:
        former = client.info().version
    old = local_vectors(store)
    ids = store / "ids.txt"
    ids.write_text("\n".join(map(str, IDS.tolist())))
    run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", f"--ids={ids}", "--dim=8")
    report = bring(store, published)
    assert report.active != former
    new = local_vectors(store)
    with ImageClient(server.address) as client:
        until(lambda: client.info().version == report.active)
        assert client.info().versions == tuple(sorted((former, report.active)))
    assert asked(server.address)[0].tobytes() == new.tobytes()
    shared = RedisStore(published, store)
    try:
        for version, expected in ((former, old), (report.active, new)):
            space = shared.index.space(version)
            assert space is not None
            values, status = shared.table(space).get(IDS)
            assert (status == Status.OK).all()
            assert np.ascontiguousarray(values).tobytes() == expected.tobytes()
    finally:
        shared.close()


def test_a_killed_node_is_computed_again_and_is_back_when_it_is(
    cluster: RedisCluster,
    published: str,
    graph_cache: Path,
    computer: RedisDaemon,
    reader: RedisDaemon,
    tmp_path: Path,
) -> None:
    computes, stores = computer, reader
    until(lambda: asked(computes.address)[0].tobytes() == asked(stores.address)[0].tobytes())
    expected, node = local_vectors(graph_cache), cluster.nodes[1]
    shared = RedisStore(published, graph_cache)
    gone = of_node(shared, node, IDS)
    shared.close()
    assert 10 < gone.sum() < 90
    node.kill()
    try:
        for _ in range(3):
            values, status, seconds = asked(computes.address)
            assert (status == Status.OK).all()
            assert seconds < 20
            assert np.abs(values.astype(np.float32) - expected.astype(np.float32)).max() < 0.02
            assert values[~gone].tobytes() == expected[~gone].tobytes()
            values, status, seconds = asked(stores.address)
            assert seconds < 5
            timed_out = np.where(gone, Status.TIMED_OUT, Status.OK)
            assert (status == timed_out).all(), "not NOT_FOUND, which training would mask"
            assert values[~gone].tobytes() == expected[~gone].tobytes()
            assert not values[gone].any()
        with ImageClient(stores.address, timeout_s=2) as client, pytest.raises(DeadlineExceeded, match="TIMED_OUT"):
            client.get(IDS)
        named = published.replace(f"127.0.0.1:{node.port}", "").replace("//,", "//").replace(",,", ",").strip(",")
        fresh = ImageService(ServiceConfig(named, folder=tmp_path / "fresh"))  # facts have copies
        request = pb.GetVectorsRequest(image_ids=IDS.tobytes())
        assert (fresh.get_vectors(request, time.monotonic() + 5).status == timed_out).all()
        fresh.close()
    finally:
        node.start()
    cluster.wait()
    until(lambda: bool((asked(stores.address)[1] == Status.OK).all()))
    assert asked(stores.address)[0].tobytes() == expected.tobytes()
    until(lambda: asked(computes.address)[0].tobytes() == expected.tobytes())


def test_a_node_that_comes_back_empty_is_not_believed(
    cluster: RedisCluster, published: str, graph_cache: Path, reader: RedisDaemon
) -> None:
    server, node = reader, cluster.nodes[2]
    shared = RedisStore(published, graph_cache)
    gone = of_node(shared, node, IDS)
    shared.close()
    cli(node.port, "flushall")
    assert (asked(server.address)[1] == np.where(gone, Status.TIMED_OUT, Status.OK)).all()
    assert bring(graph_cache, published).written == gone.sum(), "publishing again brings what is not there"
    until(lambda: bool((asked(server.address)[1] == Status.OK).all()))


def test_a_node_that_hangs_makes_few_requests_wait(cluster: RedisCluster, reader: RedisDaemon) -> None:
    server, node = reader, cluster.nodes[0]
    os.kill(node.process.pid, signal.SIGSTOP)
    try:
        took = [asked(server.address)[2] for _ in range(20)]
        assert max(took) < 10
        assert sum(seconds > REPLY_TIMEOUT_S for seconds in took) <= 3, f"the first waits, not each of them: {took}"
    finally:
        os.kill(node.process.pid, signal.SIGCONT)
    cluster.wait()
    until(lambda: bool((asked(server.address)[1] == Status.OK).all()))


def test_slots_that_move_are_misses_at_most(cluster: RedisCluster, published: str, graph_cache: Path) -> None:
    shared = RedisStore(published, graph_cache)
    names = [cli(node.port, "cluster", "myid").strip() for node in cluster.nodes]
    try:
        space = shared.index.space(shared.index.active)
        assert space is not None
        table, expected = shared.table(space), local_vectors(graph_cache)
        for giver, taker in ((0, 2), (2, 0)):
            command = ["redis-cli", "--cluster", "reshard", f"127.0.0.1:{cluster.nodes[0].port}", "--cluster-yes"]
            command += ["--cluster-from", names[giver], "--cluster-to", names[taker], "--cluster-slots", "1500"]
            moving = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            before = of_node(shared, cluster.nodes[taker], IDS).sum()
            while moving.poll() is None:
                values, status = table.get(IDS)
                assert set(status.tolist()) <= {Status.OK, Status.TIMED_OUT}
                assert (
                    np.ascontiguousarray(values[status == Status.OK]).tobytes()
                    == expected[status == Status.OK].tobytes()
                )
            assert moving.returncode == 0
            assert (table.get(IDS)[1] == Status.OK).all()
            assert of_node(shared, cluster.nodes[taker], IDS).sum() > before
    finally:
        shared.close()


def test_a_damaged_value_is_a_miss(cluster: RedisCluster, published: str, graph_cache: Path) -> None:
    shared = RedisStore(published, graph_cache)
    try:
        space = shared.index.space(shared.index.active)
        assert space is not None
        codec = Codec(space)
        ids = IDS[tags_of(IDS) == tags_of(IDS[:1])[0]]
        (tag, write), *_ = codec.sets(ids, codec.encode(_zeros(space, ids)), grouped(ids))
        damaged = bytearray(write)
        damaged[-3] ^= 1  # the last byte of the last value
        shared.nodes.ask([(tag, bytes(damaged))])
        values, there, lost = shared.get(codec, ids)
        assert there.tolist() == [True] * (len(ids) - 1) + [False]
        assert not lost.any()
        assert not values["row"].any()
    finally:
        shared.close()


def _zeros(space: Space, ids: np.ndarray) -> Rows:
    status, sources = np.full(len(ids), Status.OK, np.uint8), np.zeros(len(ids), SOURCE)
    return Rows(space, ids, status, sources, np.zeros((len(ids), space.dim)))


def test_photos_that_are_brought_are_seen_by_all_and_count_a_generation(
    cluster: RedisCluster, published: str, photos: Path, tmp_path: Path
) -> None:
    services = [
        ImageService(ServiceConfig(published, folder=tmp_path / str(i), machine=Machine(threads=1))) for i in range(2)
    ]
    one, other = (ImageClient(LocalTransport(service)) for service in services)
    try:
        generation = other.info().generation
        assert one.put({1000: (photos / "200.jpg").read_bytes()}) == {1000: Status.OK}
        seen = other.get([1000])
        assert seen.ok.all()
        assert other.info().generation == generation, "a new image is no replaced one"
        assert one.put({1000: (photos / "201.jpg").read_bytes()}) == {1000: Status.OK}
        assert other.get([1000]).values.tobytes() != seen.values.tobytes()
        until(lambda: other.info().generation == generation + 1)
        node = next(n for n in cluster.nodes if of_node(services[0].store, n, np.array([1000]))[0])  # type: ignore[arg-type]
        node.kill()
        try:
            request = pb.PutImagesRequest()
            request.images.add(image_id=1000, data=(photos / "202.jpg").read_bytes())
            reply = services[0].answer(PUT_IMAGES, request, time.monotonic() + 20)
            assert list(reply.status) == [Status.TIMED_OUT], "what is not kept is not said to be"
        finally:
            node.start()
            cluster.wait()
    finally:
        for service in services:
            service.close()


def test_a_head_that_learns_needs_features_there(
    published: str, graph_cache: Path, store: Path, tmp_path: Path
) -> None:
    opened = Store(store)
    backbone = opened.index.spaces("feature")[0].name
    head = Head.from_bytes(next((store / "heads").iterdir()).read_bytes())
    opened.close()
    request = pb.PutHeadRequest(run_id="run", version=head.version(backbone), head=head.to_bytes())
    service = ImageService(ServiceConfig(published, folder=tmp_path / "server", machine=Machine(threads=1)))
    try:
        with pytest.raises(VersionMismatch, match=f"publish --version {backbone[:10]}"):
            service.answer(PUT_HEAD, request, time.monotonic() + 10)
        bring(graph_cache, published, backbone)
        until(lambda: service.store.index.published(backbone).rows)  # type: ignore[attr-defined]
        service.answer(PUT_HEAD, request, time.monotonic() + 10)
        ask = pb.GetVectorsRequest(
            image_ids=IDS.astype("<i8").tobytes(), version=request.version, dtype=pb.DTYPE_FLOAT32
        )
        learned = service.get_vectors(ask, time.monotonic() + 10)
        assert (learned.status == Status.OK).all()
        assert learned.values.astype(np.float16).tobytes() == local_vectors(graph_cache).tobytes()
    finally:
        service.close()


def test_what_is_not_there_is_said(published: str, tmp_path: Path, cluster: RedisCluster) -> None:
    shared = ImageService(ServiceConfig(published, folder=tmp_path / "server"))
    try:
        with pytest.raises(VersionMismatch, match=r"net@1\+imported/2.*bring the version back"):
            shared.get_vectors(pb.GetVectorsRequest(version="net@1+imported/2"), time.monotonic() + 5)
        with pytest.raises(NotReady, match="serve from the store itself"):
            shared.answer(SEARCH, pb.SearchRequest(image_ids=IDS[:1].tobytes(), k=1), time.monotonic() + 5)
    finally:
        shared.close()
    for node in cluster.nodes:
        cli(node.port, "flushall")
    empty = ImageService(ServiceConfig(published, folder=tmp_path / "server"))
    try:
        with pytest.raises(NotReady, match=f"imgserver publish --to {published}"):
            empty.get_vectors(pb.GetVectorsRequest(), time.monotonic() + 5)
    finally:
        empty.close()


def test_a_cluster_that_cannot_be_reached_is_said(published: str, graph_cache: Path, tmp_path: Path) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}"
    done = run_command("imgserver", "serve", f"--store={nobody}", f"--folder={tmp_path}", "--port=0", check=False)
    assert done.returncode == 1
    assert f"No node of {nobody} answers" in done.stderr
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_command("imgserver", "publish", f"--store={graph_cache}", f"--to={nobody}", "--json", check=False)
    assert json.loads(done.stdout)["error"] == "StoreError"
    done = run_command("imgserver", "publish", f"--store={graph_cache}", "--to=folder", check=False)
    assert done.returncode == 2
    done = run_command(
        "imgserver", "publish", f"--store={graph_cache}", f"--to={published}", "--version=x", check=False
    )
    assert done.returncode == 2
    assert "does not hold the version 'x'" in done.stderr
    done = run_command("imgserver", "versions", f"--store={published}", check=False)
    assert done.returncode == 2
    assert "needs the folder" in done.stderr


def test_publishing_into_a_cluster_that_lacks_a_node_fails_and_goes_on(
    cluster: RedisCluster, published: str, graph_cache: Path
) -> None:
    for node in cluster.nodes:
        cli(node.port, "flushall")
    cluster.nodes[0].kill()
    try:
        with pytest.raises(StoreError, match=f":{cluster.nodes[0].port}.* does not answer"):
            bring(graph_cache, published)
    finally:
        cluster.nodes[0].start()
    cluster.wait()
    assert bring(graph_cache, published).written == 100


def test_one_redis_will_do_with_a_password(graph_cache: Path, tmp_path: Path) -> None:
    node = RedisNode(tmp_path / "redis", "--requirepass", "secret")
    url = f"redis://:secret@127.0.0.1:{node.port}"
    try:
        assert bring(graph_cache, url).written == 100
        process = RedisDaemon(url, tmp_path / "daemon")
        assert (asked(process.address)[1] == Status.OK).all()
        assert b"secret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.stop()
        service = ImageService(ServiceConfig(url, folder=tmp_path / "server"))
        found = ImageClient(LocalTransport(service)).get(IDS)
        assert found.values.tobytes() == local_vectors(graph_cache).tobytes()
        service.close()
        with pytest.raises(StoreError, match=r"No node of redis://127\S* answers") as caught:
            RedisStore(url.replace("secret", "guess"), tmp_path)
        assert "guess" not in str(caught.value)
        with pytest.raises(BadInput, match="not in cluster mode"):
            RedisStore(f"{url},127.0.0.1:{node.port}", tmp_path)
    finally:
        node.kill()


def test_one_redis_will_do_with_tls(graph_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no")
    node = RedisNode(tmp_path / "redis", *tls)
    try:
        with pytest.raises(StoreError, match="certificate"):
            RedisStore(f"rediss://localhost:{port}", tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        assert bring(graph_cache, f"rediss://localhost:{port}").written == 100
    finally:
        node.kill()


def test_memory_that_is_too_small_is_said_and_absence_is_no_proof(graph_cache: Path, tmp_path: Path) -> None:
    node = RedisNode(tmp_path / "redis")
    url = f"redis://127.0.0.1:{node.port}"
    try:
        cli(node.port, "config", "set", "maxmemory", "100")
        with pytest.raises(StoreError, match="maxmemory"):
            bring(graph_cache, url)
        cli(node.port, "config", "set", "maxmemory", "0")
        bring(graph_cache, url)
        shared = RedisStore(url, tmp_path)
        space = shared.index.space(shared.index.active)
        assert space is not None
        assert shared.table(space).get(np.array([5, 4711]))[1].tolist() == [Status.OK, 0]
        cli(node.port, "config", "set", "maxmemory-policy", "allkeys-lru")
        cli(node.port, "config", "set", "maxmemory", str(shared.used_bytes() - 30_000))
        cli(node.port, "set", "another", "x" * 10)
        until(lambda: any(shared.evicted))
        assert shared.table(space).get(np.array([4711]))[1].tolist() == [Status.TIMED_OUT], "thrown away, perhaps"
        shared.close()
    finally:
        node.kill()


def test_the_client_of_redis_is_an_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['hiredis'] = None\n"
        "from crossmedia.imgserver.storage.opening import open_store\n"
        "try: open_store('redis://a:1')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert "BadInput" in done.stdout
    assert 'pip install "crossmedia[redis]"' in done.stdout


def test_a_copied_store_publishes_the_same(published: str, graph_cache: Path, tmp_path: Path) -> None:
    assert bring(copy_store(graph_cache, tmp_path / "copy"), published).written == 0
