"""What embedding costs on this machine: decoding, the CNN, and the process between them, each by itself.

What cores do is measured in seconds of a core, and not by the clock: other work on the machine makes them more only so
far as it takes caches and memory away. All cores are at work meanwhile, so that what they share is in the figures.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from crossmedia.errors import BadInput
from crossmedia.imgserver.offline.plan import PrecomputeConfig
from crossmedia.imgserver.offline.precompute import StoreEmbedder
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.vision.backbone import NVJPEG
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.cost import EmbeddingCost
from crossmedia.imgserver.vision.decode import Preprocessing
from crossmedia.imgserver.vision.decoders import Decoders, DecodingFailed
from crossmedia.imgserver.vision.engines import Engine, FeatureArray, Pictures
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge
from crossmedia.imgserver.vision.machine import CPU_BATCH, CPU_IN_FLIGHT, Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photo_source import PhotoSource

ROUNDS = 5
A_CORE = 4  # photos or images of a round, at least
FIRST, RUN = 64, 512  # photos that the head is fitted on, and of a run behind it
RUNS = 3
SAMPLE = 96  # photos of a catalogue that are decoded
SIDES = (200, 500, 1000, 2000)  # of our own photos, in pixels
PLANNED = 500  # the side that a plan takes, where there is no catalogue
OWN_PHOTOS = 8  # of each side
KILOBYTES = (16, 64, 256, 1024, 4096)  # where one class of a catalogue's photos ends and the next begins


@dataclass(frozen=True)
class DecodeRate:
    """How fast photos of one size are decoded.

    Attributes:
        photos: what size they are.
        count: how many there were.
        kilobytes: of a file, on average.
        photos_per_core_s: photos a second of a core.
    """

    photos: str
    count: int
    kilobytes: float
    photos_per_core_s: float


@dataclass(frozen=True)
class Measured:
    """What was measured; medians of rounds.

    Attributes:
        backbone: recipe of the CNN.
        feature_dim: numbers in its feature.
        device: what ran it.
        cores: of this machine.
        load: average number of processes that wanted a core in the minute before.
        decode: by size of photo.
        broken: photos of the sample that cannot be decoded.
        cnn_images_per_core_s: images a second of a core; 0 where GPUs compute.
        gpu_images_per_s: of the GPUs; 0 where cores compute.
        own_cpu_us: microseconds of a core a photo of the process itself.
        cost: the same as a plan takes it: a photo of the catalogue, or one of ours of 500 x 500.
    """

    backbone: str
    feature_dim: int
    device: str
    cores: int
    load: float
    decode: list[DecodeRate]
    broken: int
    cnn_images_per_core_s: float
    gpu_images_per_s: float
    own_cpu_us: float
    cost: EmbeddingCost

    @property
    def loaded(self) -> bool:
        """Whether other work kept half of the cores or more."""
        return self.load >= self.cores / 2


class IdleEngine:
    """A CNN that computes nothing, so that a run's seconds are those of the process around it."""

    name, batch, in_flight = "idle", CPU_BATCH, CPU_IN_FLIGHT

    def __init__(self, dim: int):
        self._features = np.random.default_rng(0).random((CPU_BATCH, dim), dtype=np.float32)

    def run(self, pictures: Pictures) -> FeatureArray:
        """Any features, shape (n, F)."""
        return self._features[: len(pictures)]


def measure(
    backbone: str,
    photos: PhotoSource | None = None,
    machine: Machine = Machine(),  # noqa: B008  frozen
) -> Measured:
    """Measure what a photo costs here.

    Args:
        backbone: recipe of a CNN; one for photos.
        photos: a catalogue; None: photos that are made for it.
        machine: what is taken of this machine.

    Raises:
        BadInput: no such catalogue, device or backbone, the catalogue has too few photos, or none can be decoded.
    """
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    net = get_backbone(backbone)
    how = net.preprocessing
    if how.jpeg != "pillow":
        raise BadInput(f"{backbone}: photos that a GPU decodes are not measured. Leave out {NVJPEG}.")
    with tempfile.TemporaryDirectory(prefix="crossmedia-measure-") as temporary:
        folder = Path(temporary)
        source = photos or own_catalogue(folder / "photos")
        catalogue = source.open()
        if len(catalogue) < 2 * FIRST:
            raise BadInput(
                f"The catalogue {source.catalogue} has {len(catalogue)} photos; to measure takes {2 * FIRST} at least. "
                f"Leave out --catalogue: photos are made then."
            )
        groups = by_bytes(sampled(catalogue, source)) if photos else own_photos()
        with Decoders(source.limits, machine.decoders) as decoders:
            rates, broken = decode_rates(decoders, groups, how)
        engine = make_engine(net, None, machine)
        cnn_s = 0.0 if machine.gpus else image_seconds(engine, how.size, time.process_time)
        gpu = 1 / image_seconds(engine, how.size, time.perf_counter) if machine.gpus else 0.0
        # A GPU's driver and launches are the process's own work, so there the real engine runs.
        around = engine if machine.gpus else IdleEngine(net.feature_dim)
        own_s = own_seconds(folder / "store", source, backbone, machine, around)
    planned = rates if photos else [rate for rate in rates if rate.photos == _own(PLANNED)]
    decode_s = sum(rate.count / rate.photos_per_core_s for rate in planned) / sum(rate.count for rate in planned)
    return Measured(
        backbone=net.recipe,
        feature_dim=net.feature_dim,
        device=engine.name,
        cores=cores,
        load=load,
        decode=rates,
        broken=broken,
        cnn_images_per_core_s=1 / cnn_s if cnn_s else 0.0,
        gpu_images_per_s=gpu,
        own_cpu_us=1e6 * own_s,
        cost=EmbeddingCost(decode_s, cnn_s, own_s, gpu),
    )


def decode_rates(
    decoders: Decoders, groups: dict[str, list[bytes]], how: Preprocessing
) -> tuple[list[DecodeRate], int]:
    """How fast each group of photos is decoded, and how many of them cannot be.

    Raises:
        BadInput: none of them can be.
    """
    rates, broken = list[DecodeRate](), 0
    for name, group in groups.items():
        good = decodable(decoders, group, how)
        broken += len(group) - len(good)
        if good:
            kilobytes = sum(map(len, good)) / len(good) / 1000
            rates.append(DecodeRate(name, len(good), kilobytes, 1 / decode_seconds(decoders, good, how)))
    if not rates:
        raise BadInput(f"None of {broken} photos of the catalogue can be decoded, so there is nothing to measure.")
    return rates, broken


def decodable(decoders: Decoders, photos: Sequence[bytes], how: Preprocessing) -> list[bytes]:
    """Those that are pictures; all processes that decode have then begun."""

    def tried(data: bytes) -> bool:
        try:
            decoders.pixels(data, how)
        except (CorruptImage, ImageTooLarge, DecodingFailed):
            return False
        return True

    with ThreadPoolExecutor(decoders.workers) as pool:
        return [data for data, good in zip(photos, pool.map(tried, photos), strict=True) if good]


def decode_seconds(decoders: Decoders, photos: Sequence[bytes], how: Preprocessing) -> float:
    """Seconds of a core to decode a photo, the median of rounds."""
    some = list(islice(cycle(photos), max(len(photos), A_CORE * decoders.workers)))
    found = []
    with ThreadPoolExecutor(decoders.workers) as pool:

        def decode_all() -> None:
            for _ in pool.map(lambda data: decoders.pixels(data, how), some):
                pass

        decode_all()  # so that every process has begun
        for _ in range(ROUNDS):
            before = decoders.cpu_s()
            decode_all()
            found.append((decoders.cpu_s() - before) / len(some))
    return statistics.median(found)


def image_seconds(engine: Engine, size: int, clock: Callable[[], float]) -> float:
    """Seconds by ``clock`` for an image to go through the CNN, the median of rounds of full batches."""
    pixels = np.random.default_rng(0).integers(0, 256, (engine.batch, size, size, 3), dtype=np.uint8)
    batches = max(engine.in_flight, -(-A_CORE * len(os.sched_getaffinity(0)) // engine.batch))
    found = []
    with ThreadPoolExecutor(engine.in_flight) as pool:
        for _ in range(1 + ROUNDS):
            before = clock()
            for _ in pool.map(engine.run, [pixels] * batches):
                pass
            found.append((clock() - before) / (batches * engine.batch))
    return statistics.median(found[1:])  # the first run of a shape sets things up


def own_seconds(store: Path, source: PhotoSource, backbone: str, machine: Machine, engine: Engine) -> float:
    """Seconds of a core a photo that ``precompute`` itself takes around ``engine``, the median of runs."""
    found = []
    with StoreEmbedder(store, source, backbone, machine) as embedder:
        embedder.engine = engine
        ids = embedder.catalogue.ids()
        run = min(RUN, (len(ids) - FIRST) // RUNS)
        for start in (0, *range(FIRST, FIRST + RUNS * run, run)):  # the head is fitted on the first, before all else
            some = ids[start : start + (run if start else FIRST)]
            plan = embedder.plan(PrecomputeConfig(dim=1, only=np.sort(some)))
            before = time.process_time()
            embedder.run(plan)
            found.append((time.process_time() - before) / len(some))
    return statistics.median(found[1:])


def sampled(catalogue: Catalogue, source: PhotoSource) -> list[bytes]:
    """Photos from all over a catalogue that can be read, as they are stored."""
    ids = catalogue.ids()
    some = ids[np.unique(np.linspace(0, len(ids) - 1, SAMPLE, dtype=np.int64))]
    read = (catalogue.read(image_id, source.limits.max_bytes) for image_id in some.tolist())
    return [data for data in read if data]


def by_bytes(photos: Iterable[bytes]) -> dict[str, list[bytes]]:
    """Photos in classes of the sizes of their files, the smallest first."""
    names = [f"up to {limit:,} KB" for limit in KILOBYTES] + [f"above {KILOBYTES[-1]:,} KB"]
    found: dict[str, list[bytes]] = {}
    for data in photos:
        found.setdefault(names[np.searchsorted(KILOBYTES, len(data) / 1000)], []).append(data)
    return {name: found[name] for name in names if name in found}


def own_photos() -> dict[str, list[bytes]]:
    """JPEGs of our own of each size: colours that run into each other, and some grain."""
    return {_own(side): [made(side, seed) for seed in range(OWN_PHOTOS)] for side in SIDES}


def own_catalogue(folder: Path) -> PhotoSource:
    """A folder of photos of our own, no two with the same bytes."""
    folder.mkdir()
    photos = [made(PLANNED, seed) for seed in range(OWN_PHOTOS)]
    for number in range(FIRST + RUNS * RUN):
        # What stands behind the end of a JPEG is not decoded.
        (folder / f"{number}.jpg").write_bytes(photos[number % OWN_PHOTOS] + number.to_bytes(4))
    return PhotoSource(str(folder))


def made(side: int, seed: int) -> bytes:
    """A JPEG of ``side`` x ``side`` pixels."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.normal(0, 4, (side, side, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _own(side: int) -> str:
    return f"{side} x {side}"
