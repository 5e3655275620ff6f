"""How fast do vectors come over the wire, beside what else one could use, and beside the limit?

    python -m benchmarks.fetch

1,000,000 vectors of 64 numbers in fp16; requests of 10,000 and of 1,000 ids, uniform and Zipf. Every way keeps four
requests in flight where it can. Redis needs ``redis-server`` on the machine; without it, it is left out.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.fetch_cached import popular_images
from benchmarks.parts import Part, Work, as_dict, daemon, finish, run_rounds, show
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import vector_space
from crossmedia.status import Status
from crossmedia.version import Version

DIM = 64
VERSION = f"benchmark@000000000000+imported/{DIM}"
IN_FLIGHT = 4
BLOCK = 100_000


def make_vectors(n: int) -> npt.NDArray[np.float16]:
    """Random vectors; their ids are their rows."""
    return np.random.default_rng(0).standard_normal((n, DIM), dtype=np.float32).astype(np.float16)


def make_store(folder: Path, vectors: npt.NDArray[np.float16]) -> None:
    """A store that serves ``vectors``."""
    store = Store(folder)
    space = vector_space(store, Version.parse(VERSION))
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        ids = np.arange(start, start + len(part))
        status, sources = np.full(len(part), Status.OK, dtype=np.uint8), np.zeros(len(part), dtype=SOURCE)
        store.put(Rows(space, ids, status, sources, part))
    store.index.activate(VERSION)
    store.close()


def requests(n: int, size: int, count: int, kind: str) -> list[npt.NDArray[np.int64]]:
    """``count`` requests of ``size`` ids below ``n``."""
    rng = np.random.default_rng(1)
    if kind == "zipf":
        popular = rng.permutation(n)  # popular ids are not neighbours
        return [popular[np.minimum(rng.zipf(1.2, size) - 1, n - 1)] for _ in range(count)]
    return [rng.integers(0, n, size) for _ in range(count)]


def ours(address: str, todo: list[npt.NDArray[np.int64]]) -> Work:
    """Our client, four gets at a time."""
    from crossmedia.allocator import keep_freed_memory
    from crossmedia.imgserver.client import ImageClient

    keep_freed_memory()  # as the trainer does
    client, pool = ImageClient(address), ThreadPoolExecutor(IN_FLIGHT)

    def work() -> int:
        return sum(len(vectors) for vectors in pool.map(client.get, todo))

    return work


def local(store: Path, todo: list[npt.NDArray[np.int64]]) -> Work:
    """Our table in the process that asks."""
    from crossmedia.imgserver.storage.table import Table

    opened = Store(store)
    space = opened.index.space(VERSION)
    assert space is not None
    table = Table(opened, space)
    table.load()

    def work() -> int:
        return sum(len(table.get(ids)[0]) for ids in todo)

    return work


def python_dict(file: Path, todo: list[npt.NDArray[np.int64]]) -> Work:
    """A Python dict from id to row, and a gather."""
    vectors = np.load(file)
    rows = {image_id: row for row, image_id in enumerate(range(len(vectors)))}

    def work() -> int:
        done = 0
        for ids in todo:
            found = np.fromiter(map(rows.__getitem__, ids.tolist()), np.int64, len(ids))
            done += len(np.take(vectors, found, axis=0, mode="clip"))
        return done

    return work


def arrow_flight(port: int, todo: list[npt.NDArray[np.int64]]) -> Work:
    """One exchange, four requests ahead of the replies."""
    import pyarrow.flight as flight

    client = flight.FlightClient(f"grpc://127.0.0.1:{port}")
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("vectors"))
    writer.begin(pa.schema([("id", pa.int64())]))

    def receive() -> int:
        block = reader.read_chunk().data.column(0)
        return len(np.frombuffer(block.buffers()[1], np.float16).reshape(-1, DIM))

    def work() -> int:
        flying = done = 0
        for ids in todo:
            writer.write_batch(pa.record_batch([pa.array(ids)], names=["id"]))
            flying += 1
            if flying == IN_FLIGHT:
                done += receive()
                flying -= 1
        return done + sum(receive() for _ in range(flying))

    return work


def redis(port: int, todo: list[npt.NDArray[np.int64]]) -> Work:
    """MGET with hiredis; a pipeline has no replies to wait for in between, so one request is in flight."""
    import redis as client_library

    client: Any = client_library.Redis(port=port)

    def work() -> int:
        done = 0
        for ids in todo:
            keys = ids.astype("<i8").tobytes()
            values = client.mget([keys[i : i + 8] for i in range(0, len(keys), 8)])
            done += len(np.frombuffer(b"".join(values), np.float16).reshape(-1, DIM))
        return done

    return work


def repeated_float(port: int, todo: list[npt.NDArray[np.int64]]) -> Work:
    """GRPC with ``repeated float``, four calls in flight."""
    import grpc

    from benchmarks.repeated import Request, Response

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)])
    get = channel.unary_unary("/Repeated/Get", Request.SerializeToString, Response.FromString)

    def work() -> int:
        done, flying = 0, deque[Any]()
        for ids in todo:
            flying.append(get.future(Request(ids=ids)))
            if len(flying) == IN_FLIGHT:
                done += len(np.array(flying.popleft().result().values, dtype=np.float16).reshape(-1, DIM))
        return done + sum(len(np.array(call.result().values, np.float16).reshape(-1, DIM)) for call in flying)

    return work


def empty_handler(port: int, todo: list[npt.NDArray[np.int64]]) -> Work:
    """GRPC alone, four calls in flight: nothing is looked up, checked or de-duplicated on either side."""
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)])
    get: Any = channel.unary_unary("/Empty/Get")

    def work() -> int:
        done, flying = 0, deque[Any]()
        for ids in todo:
            flying.append(get.future(ids.tobytes()))
            if len(flying) == IN_FLIGHT:
                done += len(np.frombuffer(flying.popleft().result(), np.float16).reshape(-1, DIM))
        return done + sum(len(np.frombuffer(call.result(), np.float16).reshape(-1, DIM)) for call in flying)

    return work


def raw_socket(port: int, todo: list[npt.NDArray[np.int64]]) -> Work:
    """A plain socket, four requests ahead of the replies: the limit."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(n: int) -> int:
        out = np.empty((n, DIM), dtype=np.float16)
        view = out.data.cast("B")
        while view:
            view = view[connection.recv_into(view) :]
        return len(out)

    def work() -> int:
        done, flying = 0, deque[int]()
        for ids in todo:
            connection.sendall(struct.pack("<q", len(ids)) + ids.tobytes())
            flying.append(len(ids))
            if len(flying) == IN_FLIGHT:
                done += receive(flying.popleft())
        return done + sum(receive(n) for n in flying)

    return work


@contextmanager
def peer(kind: str, file: Path) -> Iterator[tuple[int, int]]:
    """A server of ``benchmarks.peers``: port and process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers", kind, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def redis_server(folder: Path, vectors: npt.NDArray[np.float16]) -> Iterator[tuple[int, int]]:
    """Debian's Redis with the vectors in it, keyed by 8 bytes: port and process."""
    import redis as client_library

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--save", "", "--dir", str(folder), "--daemonize", "no"]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        client: Any = client_library.Redis(port=port, retry=client_library.retry.Retry(_backoff(), 20))
        client.ping()
        for start in range(0, len(vectors), BLOCK):
            part = vectors[start : start + BLOCK]
            keys = np.arange(start, start + len(part), dtype="<i8")
            client.mset({key.tobytes(): row.tobytes() for key, row in zip(keys, part, strict=True)})
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def _backoff() -> Any:
    from redis.backoff import ConstantBackoff

    return ConstantBackoff(0.1)


def main() -> None:
    """Start every server, run every client in turn, print the tables and the ratios."""
    parser = argparse.ArgumentParser(description="Vectors over the wire, beside the alternatives.")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", default="10000,1000,cached", help="which tables: ids of a request, cached")
    parser.add_argument("--quick", action="store_true", help="3 short rounds of 200,000 vectors, uniform ids")
    arguments = parser.parse_args()
    n, rounds = (200_000, 3) if arguments.quick else (arguments.vectors, arguments.rounds)
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder, vectors = Path(temporary), make_vectors(n)
        file = folder / "vectors.npy"
        np.save(file, vectors)
        make_store(folder / "store", vectors)
        address, pid = stack.enter_context(daemon(folder / "store"))
        servers: dict[str, tuple[Callable[..., Work], Any, list[int]]] = {
            "ours": (ours, address, [pid]),
            "our table, in process": (local, folder / "store", []),
            "dict, in process": (python_dict, file, []),
        }
        for name, client, kind in (
            ("raw socket", raw_socket, "socket"),
            ("Arrow Flight", arrow_flight, "flight"),
            ("repeated float", repeated_float, "repeated"),
            ("gRPC, an empty handler", empty_handler, "empty"),
        ):
            port, pid = stack.enter_context(peer(kind, file))
            servers[name] = client, port, [pid]
        if shutil.which("redis-server"):
            port, pid = stack.enter_context(redis_server(folder, vectors))
            servers["Redis MGET"] = redis, port, [pid]
        else:
            print("redis-server is not installed; Redis is left out", file=sys.stderr)
        del vectors
        kinds = ("uniform",) if arguments.quick else ("uniform", "zipf")
        sizes = [int(part) for part in arguments.parts.split(",") if part != "cached"]
        for size, kind in ((size, kind) for size in sizes for kind in kinds):
            parts = {}
            for name, (make, where, pids) in servers.items():
                slow = name in ("repeated float", "Redis MGET", "dict, in process")
                vectors_a_round = (200_000 if slow else 1_000_000) // (5 if arguments.quick else 1)
                count = max(IN_FLIGHT, vectors_a_round // size)
                parts[name] = Part(make, where, requests(n, size, count, kind), servers=pids)
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
            show(f"{size:,} ids a request, {kind}", taken, "M vectors/s", 1e6)
            found[f"{size}_{kind}"] = {name: as_dict(part) for name, part in taken.items()}
            tail = ("" if size == 10_000 else f"_{size}") + ("" if kind == "uniform" else f"_{kind}")
            for key, name in (
                ("flight", "Arrow Flight"),
                ("redis", "Redis MGET"),
                ("repeated_float", "repeated float"),
                ("raw_socket", "raw socket"),
                ("empty", "gRPC, an empty handler"),
            ):
                if name in taken:
                    ratios[key + tail] = taken["ours"].rate / taken[name].rate
            ratios["in_process_dict" + tail] = taken["our table, in process"].rate / taken["dict, in process"].rate
        if "cached" in arguments.parts:
            more, tables = popular_images(n, address, servers["ours"][2], servers["Arrow Flight"][1:], rounds)
            ratios, found = ratios | more, found | tables
    finish("fetch", ratios, vectors=n, dim=DIM, rounds=rounds, parts=found)


if __name__ == "__main__":
    main()
