"""What do a second worker, more servers and a second actor bring, and what limits them?

    python -m benchmarks.scale

On one machine, each process pinned to a core. Training: DIN with 50 behaviours by one worker, by two that train
together, and by two that know nothing of each other, which is what the machine allows. Servers: the same DIN with a
head that learns, its worker on one core, and one, two and three servers that each own a part of the images on the
other. Embedding: photos by one process of one thread, by two shards, and by Ray with one and two actors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import learn
from benchmarks.embed import make_photos
from benchmarks.parts import copy_store, cpu_seconds, finish
from benchmarks.train import make_samples

BEHAVIOURS, ROWS, PHOTOS = 50, 60_000, 1_500
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "RAY_worker_niceness": "0"}


def start(core: int | None, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """``python -m …`` on one core, or on all."""
    pin = None if core is None else lambda: os.sched_setaffinity(0, {core})
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**ENVIRONMENT, **environment},
        preexec_fn=pin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a command printed as JSON; nothing when another process speaks for it."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}: {err}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1]) if out.strip() else {}
    return found


def train(folder: Path, workers: int, *options: str, together: bool = True) -> float:
    """One epoch by so many workers, each on its core; samples/s of all.

    Args:
        folder: of samples and stores.
        workers: how many.
        options: of ``trainer fit``.
        together: as one group of processes; else each trains a model of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["trainer", "fit", f"--samples={folder / 'log' / 'samples'}", "--epochs=1", "--json", *options]
    processes = []
    for rank in range(workers):
        group = {"RANK": str(rank), "WORLD_SIZE": str(workers), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
        group |= {"MASTER_ADDR": "127.0.0.1"}
        out = folder / "runs" / f"{time.monotonic_ns()}"
        processes.append(start(rank, *command, f"--out={out}", **(group if together and workers > 1 else {})))
    return sum(float(result["train"]["samples_per_s"]) for result in map(outcome, processes) if result)


@contextmanager
def owners(store: Path, count: int, core: int) -> Iterator[tuple[str, list[int]]]:
    """So many servers on one core, all over copies of one store: their addresses and processes."""
    with ExitStack() as stack:
        addresses, pids = [], []
        for number in range(count):
            copy = store.parent / f"owner-{number}"
            shutil.rmtree(copy, ignore_errors=True)
            copy_store(store, copy)
            options = (f"--store={copy}", "--port=0", "--threads=1", "--background", "--json")
            found = outcome(start(core, "imgserver", "serve", *options))
            stop = [sys.executable, "-m", "crossmedia.imgserver", "stop", f"--store={copy}"]
            stack.callback(subprocess.run, stop, check=True, capture_output=True)
            addresses.append(found["address"])
            pids.append(found["pid"])
        yield ",".join(addresses), pids


def embed(folder: Path, photos: Path, cores: Sequence[int]) -> float:
    """Images/s of a shard a core."""
    out = folder / f"files-{time.monotonic_ns()}"
    started = time.perf_counter()
    processes = [
        start(core, "imgserver", "precompute", f"--catalogue={photos}", f"--out={out}", "--threads=1", "--json", *shard)
        for number, core in enumerate(cores)
        for shard in [[f"--part={number + 1}/{len(cores)}"]]
    ]
    for process in processes:
        outcome(process)
    return PHOTOS / (time.perf_counter() - started)


def embed_by_ray(folder: Path, photos: Path, actors: int) -> float:
    """Images/s of so many actors, a core each, on a cluster that is up."""
    out = folder / f"files-{time.monotonic_ns()}"
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    quiet: dict[str, Any] = {"check": True, "capture_output": True, "env": ENVIRONMENT}
    subprocess.run([*ray, "start", "--head", f"--num-cpus={actors}", "--include-dashboard=false"], **quiet)
    try:
        started = time.perf_counter()
        options = (f"--catalogue={photos}", f"--out={out}", "--engine=ray", "--ray-address=auto", "--json")
        outcome(start(None, "imgserver", "precompute", *options))
        return PHOTOS / (time.perf_counter() - started)
    finally:
        subprocess.run([*ray, "stop", "--force"], **quiet)


def rounds(count: int, cases: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Every case once a round, in turn."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(count):
        for name, work in cases.items():
            found[name].append(work())
    return found


def show(title: str, unit: str, rates: dict[str, list[float]], more: dict[str, str]) -> dict[str, float]:
    """Print a table; return medians."""
    table = Table("", f"{unit} min", "median", "max", "", title=title, title_justify="left")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        table.add_row(name, *(f"{v:,.0f}" for v in (min(values), medians[name], max(values))), more.get(name, ""))
    Console(width=130).print(table)
    return medians


def training(folder: Path, count: int) -> dict[str, float]:
    """One worker and two."""
    frozen = f"--store={folder / 'store'}"
    one, together, same_batch, apart = (
        "1 worker, batches of 1,024",
        "2 together, of 2,048",
        "2 together, of 1,024",
        "2 apart, of 1,024 each",
    )
    cases: dict[str, Callable[[], float]] = {
        one: lambda: train(folder, 1, frozen),
        together: lambda: train(folder, 2, frozen, "--batch-size=2048"),
        same_batch: lambda: train(folder, 2, frozen),
        apart: lambda: train(folder, 2, frozen, together=False),
    }
    medians = show("training", "samples/s", rounds(count, cases), {})
    return {
        "training_2_of_twice_1": medians[together] / (2 * medians[one]),
        "training_2_of_apart": medians[together] / medians[apart],
        "training_2_same_batch_of_twice_1": medians[same_batch] / (2 * medians[one]),
        "apart_2_of_twice_1": medians[apart] / (2 * medians[one]),
    }


def serving(folder: Path, count: int) -> dict[str, float]:
    """A head that learns through one server, two and three."""
    rates, cpu = {}, {}
    for servers in (1, 2, 3):
        with owners(folder / "store", servers, core=1) as (addresses, pids):
            before = sum(map(cpu_seconds, pids))
            options = ("--head=learn", "--head-widths=256,64,12", f"--server={addresses}")
            name = f"{servers} server{'s' if servers > 1 else ''}"
            rates[name] = [train(folder, 1, *options) for _ in range(count)]
            spent = 1e6 * (sum(map(cpu_seconds, pids)) - before) / (count * ROWS)
            cpu[name] = f"{spent:,.0f} CPU µs a row of the log on the servers"
    medians = show("a head that learns, by servers that share a core", "samples/s", rates, cpu)
    return {f"servers_{n}_of_1": medians[f"{n} servers"] / medians["1 server"] for n in (2, 3)}


def embedding(folder: Path, count: int) -> dict[str, float]:
    """Photos by one process, two shards, and Ray."""
    photos = folder / "photos"
    make_photos(photos, PHOTOS)
    embed(folder, photos, [0])  # what is read from the disk is in memory then; the CNN is converted in each run
    cases: dict[str, Callable[[], float]] = {
        "1 process": lambda: embed(folder, photos, [0]),
        "2 shards": lambda: embed(folder, photos, [0, 1]),
        "Ray, 1 actor": lambda: embed_by_ray(folder, photos, 1),
        "Ray, 2 actors": lambda: embed_by_ray(folder, photos, 2),
    }
    medians = show(f"embedding {PHOTOS:,} photos, starting up included", "images/s", rounds(count, cases), {})
    return {
        "shards_2_of_twice_1": medians["2 shards"] / (2 * medians["1 process"]),
        "ray_2_of_twice_1": medians["Ray, 2 actors"] / (2 * medians["Ray, 1 actor"]),
        "ray_2_of_shards_2": medians["Ray, 2 actors"] / medians["2 shards"],
    }


PARTS = {"training": training, "serving": serving, "embedding": embedding}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="What more workers, servers and actors bring on one machine.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them")
    arguments = parser.parse_args()
    if (psutil.cpu_count() or 1) < 2:
        raise SystemExit("This benchmark pins processes to two cores; the machine has one.")
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_samples(folder / "log", BEHAVIOURS, ROWS, learn.IMAGES)
        learn.make_store(folder / "store")
        for part in arguments.parts.split(","):
            ratios |= PARTS[part](folder, arguments.rounds)
    finish("scale", ratios)


if __name__ == "__main__":
    main()
