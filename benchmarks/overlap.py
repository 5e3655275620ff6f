"""Does decoding overlap with the CNN, whatever the machine? Photos and a CNN that only sleep, in the real pipeline.

    python -m benchmarks.overlap

A decode takes 20 ms, a batch of 32 through the CNN 64 ms and others in proportion; both sleep, so a small machine says
something about a large one. With n decode threads the best rate is min(50 n, 500) photos a second; filling and emptying
the pipeline takes .4 s of a run with 2 of them, which is 2 % of 20 s. Catalogue, threads, commits and the daemon's way
of a miss are the real ones. One more run, with decodes of 1 ms and a CNN of 2,000 photos a second, shows what the
pipeline itself takes of a processor a photo: what caps a large machine.

On a machine that is busy sleeps take longer than they should. So the rate is also told beside the best that the sleeps
themselves allowed: what is missing there is the pipeline's own.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish
from crossmedia.imgserver.client import ImageClient, LocalTransport
from crossmedia.imgserver.offline.plan import PrecomputeConfig
from crossmedia.imgserver.offline.precompute import StoreEmbedder
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.vision import decoders, embedding
from crossmedia.imgserver.vision.decode import ImageLimits
from crossmedia.imgserver.vision.decode_worker import DONE
from crossmedia.imgserver.vision.engines import FeatureArray, Pictures
from crossmedia.imgserver.vision.machine import CPU_BATCH, CPU_IN_FLIGHT, Machine
from crossmedia.imgserver.vision.photo_source import PhotoSource

DECODE_S, IMAGE_S = 0.020, 0.064 / 32
THREADS = (2, 4, 8, 10, 16, 32, 64)
HEAD = 64  # photos that the store's head is fitted on before anything is measured
SIZE, FEATURE = 224, 1280


class SleepingWorker:
    """A process that decodes, which only sleeps."""

    seconds = DECODE_S
    slept: ClassVar[list[float]] = []  # what its sleeps took, seconds each
    alive = True

    def __init__(self, limits: ImageLimits):
        self._pixels = bytearray(SIZE * SIZE * 3)

    def ask(self, task: bytes, data: bytes) -> tuple[int, bytearray]:
        """Black, after a while."""
        started = time.perf_counter()
        time.sleep(self.seconds)
        self.slept.append(time.perf_counter() - started)
        return DONE, bytearray(self._pixels)

    def kill(self) -> None:
        """Nothing runs."""

    def end(self) -> int:
        """Nothing ran."""
        return 0


class SleepingEngine:
    """A CNN that computes one batch at a time, which only sleeps."""

    name, batch, in_flight = "sleep", CPU_BATCH, CPU_IN_FLIGHT

    def __init__(self, image_s: float = IMAGE_S):
        self._image_s, self._lock = image_s, threading.Lock()
        self.slept: list[float] = []  # seconds an image
        self._features = np.random.default_rng(0).random((CPU_BATCH, FEATURE), dtype=np.float32)

    def run(self, pictures: Pictures) -> FeatureArray:
        """Any features."""
        with self._lock:
            started = time.perf_counter()
            time.sleep(self._image_s * len(pictures))
            self.slept.append((time.perf_counter() - started) / len(pictures))
        return self._features[: len(pictures)]


@contextmanager
def asleep(decode_s: float, engine: SleepingEngine) -> Iterator[None]:
    """Have photos decoded, and misses embedded, by what sleeps."""
    SleepingWorker.seconds = decode_s
    SleepingWorker.slept.clear()
    with (
        mock.patch.object(decoders, "_Worker", SleepingWorker),
        mock.patch.object(embedding, "make_engine", return_value=engine),
    ):
        yield


def make_photos(folder: Path, n: int) -> None:
    """Files that differ; what is in them nobody decodes."""
    folder.mkdir()
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "JPEG")
    for number in range(n):
        (folder / f"{number}.jpg").write_bytes(data.getvalue() + number.to_bytes(4))


def embed(store: str, photos: Path, ids: Any, machine: Machine, engine: SleepingEngine) -> tuple[float, float]:
    """Seconds of ``imgserver precompute`` up to its last commit, and its CPU seconds."""
    with StoreEmbedder(store, PhotoSource(str(photos)), "efficientnet_lite0", machine) as embedder:
        embedder.__dict__["engine"] = engine
        plan = embedder.plan(PrecomputeConfig(dim=16, only=ids))
        last = started = time.perf_counter()
        cpu = used = time.process_time()

        def note(_: int) -> None:
            nonlocal last, used
            last, used = time.perf_counter(), time.process_time()

        embedder.run(plan, note)
        return last - started, used - cpu


def misses(store: str, photos: Path, ids: Any, machine: Machine) -> float:
    """Seconds in which the daemon's service computes what it lacks, in this process."""
    service = ImageService(ServiceConfig(Path(store), PhotoSource(str(photos)), machine=machine))
    with ImageClient(LocalTransport(service), timeout_s=600) as client:
        client.get(ids[:1])  # the first makes what is made once
        started = time.perf_counter()
        assert client.get(ids[1:]).ok.all()
        return time.perf_counter() - started


def rate_of(way: str, store: str, photos: Path, n: int, machine: Machine) -> tuple[float, float]:
    """Photos a second of ``precompute`` or of ``misses``, and how many the sleeps would have allowed."""
    engine = SleepingEngine()
    with asleep(DECODE_S, engine):
        embed(store, photos, np.arange(HEAD), machine, SleepingEngine(0.0))
        SleepingWorker.slept.clear()
        ids = np.arange(HEAD, HEAD + n)
        if way == "precompute":
            rate = n / embed(store, photos, ids, machine, engine)[0]
        else:
            rate = (n - 1) / misses(store, photos, ids, machine)
    decode_s, image_s = np.mean(SleepingWorker.slept), np.median(engine.slept)
    return rate, float(min(machine.decoders / decode_s, 1 / image_s))


def main() -> None:
    """All numbers of threads, both ways, then the pipeline by itself."""
    parser = argparse.ArgumentParser(description="Decoding beside the CNN, with photos and a CNN that only sleep.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a run, at the best rate")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=THREADS, help="decode threads, a run of both ways each"
    )
    parser.add_argument("--quick", action="store_true", help="runs of 3 seconds, 2, 10 and 64 threads")
    arguments = parser.parse_args()
    seconds = 3.0 if arguments.quick else arguments.seconds
    sides = ("precompute", "of the best", "of the sleeps", "misses", "of the best", "of the sleeps")
    table = Table("decode threads", "best photos/s", *sides)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos, most = folder / "photos", int(2000 * seconds)
        make_photos(photos, HEAD + most)
        for threads in (2, 10, 64) if arguments.quick else arguments.threads:
            best, machine = min(threads / DECODE_S, 1 / IMAGE_S), Machine(decode_threads=threads)
            n, found_here, cells = int(best * seconds), {"best": best}, []
            for way in ("precompute", "misses"):
                rate, allowed = rate_of(way, tempfile.mkdtemp(dir=folder), photos, n, machine)
                found_here |= {way: rate, f"{way}_of_sleeps": rate / allowed}
                cells += [f"{rate:.0f}", f"{rate / best:.3f}", f"{rate / allowed:.3f}"]
            found[str(threads)] = found_here
            table.add_row(f"{threads}", f"{best:.0f}", *cells)
        with asleep(0.001, SleepingEngine()):
            store, fast = tempfile.mkdtemp(dir=folder), SleepingEngine(1 / 2000)
            embed(store, photos, np.arange(HEAD), Machine(decode_threads=16), SleepingEngine(0.0))
            took, cpu = embed(store, photos, np.arange(HEAD, HEAD + most), Machine(decode_threads=16), fast)
    Console(width=130).print(table)
    own = {"photos_per_s": most / took, "best": 2000.0, "own_cpu_us": 1e6 * cpu / most}
    print(f"16 threads, a best of 2,000/s: {own['photos_per_s']:.0f} photos/s, {own['own_cpu_us']:.0f} CPU µs a photo")
    ratios = {way: min(one[way] / one["best"] for one in found.values()) for way in ("precompute", "misses")}
    ratios |= {f"{way}_of_sleeps": min(one[f"{way}_of_sleeps"] for one in found.values()) for way in tuple(ratios)}
    finish("overlap", ratios, threads=found, fast=own)


if __name__ == "__main__":
    main()
