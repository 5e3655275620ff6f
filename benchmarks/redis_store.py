"""How fast are vectors read from a Redis cluster, beside the local table and redis-py's own way?

    python -m benchmarks.redis_store

200,000 vectors of 64 numbers in fp16, published into three redis-server processes in cluster mode; requests of 512 and
of 8,192 uniform ids, one after the other. ``mget_nonatomic`` reads the same vectors under keys without tags, bare
rows without checksum. Needs ``redis-server``.
"""

from __future__ import annotations

import argparse
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.fetch import DIM, VERSION, make_store, make_vectors, requests
from benchmarks.parts import Part, Work, as_dict, finish, run_rounds, show
from crossmedia.imgserver.offline.publish import images_of, publish
from crossmedia.imgserver.storage.cluster.store import RedisStore
from crossmedia.imgserver.storage.store import Store
from crossmedia.status import is_ok

NODES = 3
BLOCK = 2_000
SIZES = (512, 8_192)
IDS_A_ROUND = 65_536


@contextmanager
def redis_cluster(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Three nodes, without replicas: the URL, and their processes."""
    ports = [_free_port() for _ in range(NODES)]
    hosts = [f"127.0.0.1:{port}" for port in ports]
    processes = []
    try:
        for port in ports:
            (folder / str(port)).mkdir()
            options = ["--port", str(port), "--dir", str(folder / str(port)), "--save", "", "--cluster-enabled", "yes"]
            processes.append(subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL))
        for port in ports:
            while subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True).stdout != b"PONG\n":
                time.sleep(0.05)
        command = ["redis-cli", "--cluster", "create", *hosts, "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True)
        while b"cluster_state:ok" not in subprocess.check_output(["redis-cli", "-p", str(ports[0]), "cluster", "info"]):
            time.sleep(0.05)
        yield f"redis://{','.join(hosts)}", [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _free_port() -> int:
    """A port that is free, and so is that of the cluster's bus, 10,000 above it."""
    while True:
        port = random.randrange(20_000, 30_000)
        try:
            for taken in (port, port + 10_000):
                socket.create_server(("127.0.0.1", taken)).close()
        except OSError:
            continue
        return port


def local(folder: Path, todo: list[npt.NDArray[np.int64]]) -> Work:
    """The table of a store on this machine."""
    store = Store(folder)
    space = store.index.space(VERSION)
    assert space is not None
    table = store.table(space)
    table.load()
    return lambda: sum(int(is_ok(table.get(ids)[1]).sum()) for ids in todo)


def ours(url: str, folder: Path, todo: list[npt.NDArray[np.int64]]) -> Work:
    """As a server reads it: grouped by tag, all nodes at once, checksums verified."""
    store = RedisStore(url, folder)
    space = store.index.space(VERSION)
    assert space is not None
    table = store.table(space)
    return lambda: sum(int(is_ok(table.get(ids)[1]).sum()) for ids in todo)


def nonatomic(url: str, todo: list[npt.NDArray[np.int64]]) -> Work:
    """redis-py's cluster client, with hiredis: one MGET a slot."""
    from redis.cluster import RedisCluster

    client: Any = RedisCluster.from_url(url.split(",")[0])

    def work() -> int:
        done = 0
        for ids in todo:
            block = ids.astype("<i8").tobytes()
            rows = client.mget_nonatomic([block[i : i + 8] for i in range(0, len(block), 8)])
            done += len(np.frombuffer(b"".join(rows), np.float16).reshape(-1, DIM))
        return done

    return work


def fill(url: str, folder: Path, vectors: npt.NDArray[np.float16]) -> tuple[float, float]:
    """Both ways' keys; vectors published a second, and bytes that one of ours takes."""
    from redis.cluster import RedisCluster

    store, shared = Store(folder), RedisStore(url, folder)
    before = shared.used_bytes()
    report = publish(store, shared, images_of(store, [])[0])
    shared.close()
    store.close()
    filled = RedisStore(url, folder)
    size = (filled.used_bytes() - before) / report.images
    filled.close()
    client: Any = RedisCluster.from_url(url.split(",")[0])
    for start in range(0, len(vectors), BLOCK):
        keys = np.arange(start, start + BLOCK, dtype="<i8")
        client.mset_nonatomic({k.tobytes(): row.tobytes() for k, row in zip(keys, vectors[start:], strict=False)})
    return report.images / report.seconds, size


def main() -> None:
    """Start the cluster, fill it, read it each way in turn."""
    parser = argparse.ArgumentParser(description="Vectors out of a Redis cluster.")
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 40,000 vectors")
    arguments = parser.parse_args()
    n, rounds = (40_000, 3) if arguments.quick else (arguments.vectors, arguments.rounds)
    if shutil.which("redis-server") is None:
        sys.exit("This benchmark needs redis-server (Debian: apt install redis-server).")
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder, vectors = Path(temporary), make_vectors(n)
        make_store(folder / "store", vectors)
        url, pids = stack.enter_context(redis_cluster(folder))
        published, size_in_redis = fill(url, folder / "store", vectors)
        for size in SIZES:
            todo = requests(n, size, IDS_A_ROUND // size, "uniform")
            parts = {
                "local table": Part(local, folder / "store", todo),
                "ours, cluster of 3": Part(ours, url, folder, todo, servers=pids),
                "mget_nonatomic": Part(nonatomic, url, todo, servers=pids),
            }
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
            show(f"{size:,} ids a request", taken, "k vectors/s", 1e3)
            found[str(size)] = {name: as_dict(part) for name, part in taken.items()}
            rate = {name: part.rate for name, part in taken.items()}
            ratios[f"nonatomic_{size}"] = rate["ours, cluster of 3"] / rate["mget_nonatomic"]
            ratios[f"local_{size}"] = rate["ours, cluster of 3"] / rate["local table"]
    print(f"published {published:,.0f} vectors/s, {size_in_redis:.0f} bytes a vector in Redis")
    more = {"published_per_s": round(published), "bytes_a_vector": round(size_in_redis)}
    finish("redis_store", ratios, vectors=n, dim=DIM, nodes=NODES, rounds=rounds, **more, parts=found)


if __name__ == "__main__":
    main()
