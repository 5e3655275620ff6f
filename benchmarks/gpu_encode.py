"""Photos of 500 x 500 to features on a GPU: each step by itself, and a catalogue embedded into a store."""

from __future__ import annotations

import multiprocessing as mp
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.embed import PHOTOS
from crossmedia.allocator import keep_freed_memory
from crossmedia.imgserver.offline.decoding import decoded
from crossmedia.imgserver.offline.plan import PrecomputeConfig
from crossmedia.imgserver.offline.precompute import StoreEmbedder
from crossmedia.imgserver.offline.shards import FileEmbedder, Job, OpenJob
from crossmedia.imgserver.vision.backbone import TORCHVISION, Backbone
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.engines import Engine, Pictures, TorchEngine
from crossmedia.imgserver.vision.gpu_jpeg import decoder, for_gpu
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photo_source import PhotoSource

DISTINCT = 2_000
PROCESSES = 4
CPU_PHOTOS = 64
# name -> recipe, photos to embed, whether to compile; {file} holds random weights
NETS: dict[str, tuple[str, int, bool]] = {
    "vit_b_16 bf16": ("torchvision:vit_b_16@{file}#nvjpeg#bf16", 12_000, False),
    "lite0": ("efficientnet_lite0#nvjpeg", 15_000, False),
    "lite0, decoded by cores": ("efficientnet_lite0", 10_000, False),
    "resnet50 bf16": ("torchvision:resnet50@{file}#nvjpeg#bf16", 12_000, False),
    "lite0 tf32": ("efficientnet_lite0#tf32", 0, False),
    "lite0 bf16": ("efficientnet_lite0#bf16", 0, False),
    "vit_b_16 bf16 compiled": ("torchvision:vit_b_16@{file}#bf16", 0, True),
}


def make_photo(folder: Path, number: int) -> None:
    """One of them: a crop of a photo of the demo, no two the same."""
    sources, rng = sorted(PHOTOS.iterdir()), np.random.default_rng(number)
    image = Image.open(sources[number % len(sources)]).convert("RGB")
    side = int(min(image.size) * rng.uniform(0.7, 1.0))
    left, top = (int(rng.integers(0, edge - side + 1)) for edge in image.size)
    crop = image.crop((left, top, left + side, top + side)).resize((500, 500), Image.Resampling.BICUBIC)
    crop.save(folder / f"{number}.jpg", quality=85)


def make_photos(folder: Path, n: int) -> float:
    """JPEGs of 500 x 500, those behind the first ``DISTINCT`` being links to them; the mean of their bytes."""
    folder.mkdir()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(partial(make_photo, folder), range(min(n, DISTINCT)), chunksize=32))
    for number in range(DISTINCT, n):
        os.link(folder / f"{number % DISTINCT}.jpg", folder / f"{number}.jpg")
    return float(np.mean([(folder / f"{number}.jpg").stat().st_size for number in range(min(n, DISTINCT))]))


def backbone_of(recipe: str, folder: Path) -> Backbone:
    """A backbone; where the recipe has a place for a file, random weights are written there."""
    if "{file}" not in recipe:
        return get_backbone(recipe)
    from torchvision import models

    name = recipe.removeprefix(TORCHVISION).split("@")[0]
    file = folder / f"{name}-random.pt"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(models.get_model(name, weights=None).state_dict(), file)
    return get_backbone(recipe.format(file=file))


@contextmanager
def busy(device: str) -> Iterator[list[float]]:
    """Shares of time, a tenth of a second each, in which the driver saw a kernel run; empty without its library."""
    seen: list[float] = []
    ended = threading.Event()

    def look() -> None:
        try:
            while not ended.wait(0.1):
                seen.append(torch.cuda.utilization(device) / 100)
        except (ImportError, RuntimeError):
            return

    thread = threading.Thread(target=look, daemon=True)
    if device != "cpu":
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        if device != "cpu":
            thread.join()


def per_second(work: Callable[[], int], seconds: float) -> float:
    """Items a second of work repeated for so long, behind a first time that is not counted."""
    work()
    started, done = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < seconds:
        done += work()
    return done / took


def steps_of(engine: Any, seconds: float) -> dict[str, float]:
    """Images a second that are computed from pixels on the GPU, and that are copied to it from pinned memory."""
    pixels = torch.randint(0, 256, (engine.batch, *engine.shape), dtype=torch.uint8).pin_memory()
    there = pixels.to(engine.device)

    def compute() -> int:
        for _ in range(8):
            engine.features(there)
        torch.cuda.synchronize(engine.device)
        return 8 * len(there)

    def copy() -> int:
        for _ in range(8):
            there.copy_(pixels, non_blocking=True)
        torch.cuda.synchronize(engine.device)
        return 8 * len(there)

    with torch.inference_mode():
        return {"computed_per_s": per_second(compute, seconds), "copied_per_s": per_second(copy, seconds / 4)}


def ready_rate(engine: Engine, pictures: Pictures, seconds: float) -> float:
    """Images a second through the engine, from what is in memory to features in memory, with batches in flight."""
    batch = [pictures[number % len(pictures)] for number in range(engine.batch)]
    with ThreadPoolExecutor(engine.in_flight) as pool:

        def work() -> int:
            return sum(len(found) for found in pool.map(lambda _: engine.run(batch), range(2 * engine.in_flight)))

        return per_second(work, seconds)


def _seconds(folder: str, how: Preprocessing, numbers: Sequence[int]) -> float:
    started = time.process_time()
    for number in numbers:
        decode(Path(folder, f"{number}.jpg").read_bytes(), how, ImageLimits())
    return time.process_time() - started


def processes_alone(folder: str, how: Preprocessing, photos: int) -> dict[str, Any]:
    """A process a core that decodes and does nothing else: what cores can give at most."""
    n = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(n) as pool:
        list(pool.map(partial(_seconds, folder, how), [[number] for number in range(4 * n)]))  # starts them
        started = time.perf_counter()
        used = sum(pool.map(partial(_seconds, folder, how), np.array_split(np.arange(photos), 10 * n)))
        took = time.perf_counter() - started
    return {"processes": n, "photos_per_s": photos / took, "cpu_ms": 1000 * used / photos}


def decode_rate(catalogue: str, backbone: Backbone, made: Machine, photos: int) -> float:
    """Photos a second that are read and decoded, and thrown away."""
    opened = PhotoSource(catalogue).open()
    ids = opened.ids()[:photos]
    with Decoders(ImageLimits(), made.decoders) as decoders:
        for _ in decoded(opened, backbone, decoders, ids[: 4 * made.decoders], made.commit):  # starts the processes
            pass
        started = time.perf_counter()
        done = sum(photo.ok for photo in decoded(opened, backbone, decoders, ids, made.commit))
        return done / (time.perf_counter() - started)


def embed_share(catalogue: str, out: str, recipe: str, made: Machine, share: Any, start: Any, told: Any) -> None:
    """Part of a catalogue into files, in a process of its own that starts with the others."""
    keep_freed_memory()  # as the command does
    job = OpenJob(Job(Path(out), PhotoSource(catalogue), recipe))
    with FileEmbedder(job, made) as embedder:
        embedder.embed(share[:512])
        start.wait()
        started = time.time()
        done, _ = embedder.embed(share[512:])
        told.put((started, time.time(), done))


def processes_rate(catalogue: str, folder: Path, recipe: str, device: str, photos: int, n: int) -> dict[str, Any]:
    """``imgserver precompute --part``, n processes on one GPU, each with its share of cores: photos a second."""
    context = mp.get_context("spawn")
    start, told = context.Barrier(n), context.Queue()
    made = Machine(decode_threads=max(1, len(os.sched_getaffinity(0)) // n), devices=(device,))
    out, ids = tempfile.mkdtemp(dir=folder), np.arange(photos)
    shares = [(catalogue, out, recipe, made, ids[number::n], start, told) for number in range(n)]
    workers = [context.Process(target=embed_share, args=share, daemon=True) for share in shares]
    for worker in workers:
        worker.start()
    found = [told.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    began, ended, done = (list(column) for column in zip(*found, strict=True))
    return {"processes": n, "photos_per_s": sum(done) / (max(ended) - min(began))}


def embed_rate(
    catalogue: str, folder: Path, recipe: str, made: Machine, photos: int, engine: Engine, device: str
) -> dict[str, Any]:
    """``imgserver precompute`` of photos into a store of its own: photos a second from the first commit to the last."""
    with StoreEmbedder(Path(tempfile.mkdtemp(dir=folder)), PhotoSource(catalogue), recipe, made) as embedder:
        plan = embedder.plan(PrecomputeConfig(dim=64, only=np.arange(photos)))
        embedder.__dict__["engine"] = engine  # made already
        commits: list[tuple[float, int]] = []
        before = os.times()
        with busy(device) as seen:
            started = time.perf_counter()
            result = embedder.run(plan, lambda done: commits.append((time.perf_counter(), done)))
            whole = time.perf_counter() - started
        used = os.times()
    assert result.embedded == photos, result
    assert len(commits) > 1, "one commit has no steady part; take more photos"
    steady, done = commits[-1][0] - commits[0][0], sum(n for _, n in commits[1:])
    within = seen[int(10 * (commits[0][0] - started)) : int(10 * (commits[-1][0] - started))]
    own = used.user + used.system - before.user - before.system
    return {
        "photos_per_s": done / steady,
        "photos_per_s_with_start_and_head": photos / whole,
        "gpu_busy_seen": float(np.mean(within)) if within else -1.0,
        "own_cpu_us": 1e6 * own / photos,
    }


def measure(device: str, quick: bool, say: Any) -> None:
    """Every net, and what decoding alone gives for each kind of preprocessing."""
    keep_freed_memory()  # as the command does
    seconds = 0.3 if quick else 1.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = str(folder / "photos")
        most = max(n for _, n, _ in NETS.values())
        most = min(most, 600) if quick else most
        say("photos", mean_bytes=make_photos(Path(photos), most))
        decode_rates: dict[Any, float] = {}
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(cores)
        for name, (recipe, n, compiled) in NETS.items():
            n, made = (min(n, most), Machine(devices=(device,), compile=compiled))
            if device == "cpu":
                if "tf32" in recipe or "nvjpeg" in recipe or compiled:
                    continue
                made = Machine(devices=("cpu",))
            backbone = backbone_of(recipe, folder)
            how = backbone.preprocessing
            if how not in decode_rates:
                decode_rates[how] = decode_rate(photos, backbone, made, min(4_000, most))
                if how.jpeg == "pillow":
                    say(f"decoded by processes alone, {how.fit}", **processes_alone(photos, how, min(4_000, most)))
                say(f"read and decoded, {how.fit}, {how.jpeg}", photos_per_s=decode_rates[how], at_once=made.decoders)
            started = time.perf_counter()
            engine: Any = make_engine(backbone, None, made)
            found: dict[str, Any] = {"made_s": time.perf_counter() - started, "batch": engine.batch}
            data = [Path(photos, f"{i}.jpg").read_bytes() for i in range(CPU_PHOTOS)]
            pixels = np.stack([decode(photo, how, ImageLimits()) for photo in data])
            if device != "cpu":
                found |= steps_of(engine, seconds)
            found["ready_per_s"] = ready_rate(engine, pixels, seconds)
            cosines = _cosines(engine.run(pixels), TorchEngine(_plain(backbone)).run(pixels))
            found |= {"cosine_cpu_mean": float(cosines.mean()), "cosine_cpu_least": float(cosines.min())}
            if how.jpeg == "nvjpeg":
                jpegs = [jpeg for photo in data if (jpeg := for_gpu(photo, ImageLimits()))]
                assert len(jpegs) == len(data), "these photos are plain JPEGs"
                of_pixels = _cosines(engine.run(jpegs), engine.run(pixels))
                found["bytes_per_s"] = ready_rate(engine, jpegs, seconds)
                if device != "cpu":
                    unpack, there = decoder(), torch.device(device)
                    found["unpacked_per_s"] = per_second(lambda: len(unpack(4 * jpegs, there)), seconds)  # noqa: B023
                found |= {"cosine_pillow_mean": float(of_pixels.mean()), "cosine_pillow_least": float(of_pixels.min())}
            say(name, **found)
            if n:
                rate = embed_rate(photos, folder, backbone.recipe, made, n, engine, device)
                if device != "cpu":
                    rate["gpu_busy_computed"] = rate["photos_per_s"] / found["computed_per_s"]
                say(f"{name}, embedded into a store", photos=n, **rate)
            del engine
            if n and device != "cpu":
                with busy(device) as seen:
                    rate = processes_rate(photos, folder, backbone.recipe, device, n, PROCESSES)
                rate["gpu_busy_computed"] = rate["photos_per_s"] / found["computed_per_s"]
                say(f"{name}, embedded by parts", photos=n, **rate, gpu_busy_most=max(seen, default=-1.0))


def _plain(backbone: Backbone) -> Backbone:
    """The same in float32, which others are compared with."""
    return replace(backbone, bf16=False, tf32=False)


def _cosines(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
