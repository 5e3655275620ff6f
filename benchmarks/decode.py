"""How fast are JPEGs decoded, and what does a faster way do to the vector?

    python -m benchmarks.decode

One thread; then two threads against two that have worker processes decode, in turn. Photos of 500 x 500 made from the
photos of the demo, those photos themselves, and the posters of the shared data when ``CROSSMEDIA_TEST_DATA`` names it.
OpenCV and simplejpeg join when they are installed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.embed import PHOTOS, make_photos, posters_archive, unpack_posters
from benchmarks.parts import finish
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.engines import OpenVinoEngine

SIZE = 224
ROUNDS = 15
Decoder = Callable[[bytes], Any]


def ours(draft: float, interpolation: str) -> Decoder:
    """The project's decoder with another preprocessing."""
    how = Preprocessing(draft=draft, interpolation=interpolation)
    return lambda data: decode(data, how, ImageLimits())


def opencv(flag_name: str) -> Decoder:
    """OpenCV, area interpolation."""
    import cv2

    flag = getattr(cv2, flag_name)

    def read(data: bytes) -> Any:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        assert image is not None
        return np.ascontiguousarray(cv2.resize(image[:, :, ::-1], (SIZE, SIZE), interpolation=cv2.INTER_AREA))

    return read


def simplejpeg() -> Decoder:
    """libjpeg-turbo by simplejpeg, at the smallest scale that is large enough, then Pillow's bicubic."""
    import simplejpeg as library

    def read(data: bytes) -> Any:
        image = library.decode_jpeg(data, "RGB", min_height=SIZE, min_width=SIZE)
        return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    return read


def decoders() -> dict[str, Decoder]:
    """What is compared; the first is the reference."""
    found = {
        "Pillow, whole, bicubic": ours(0, "bicubic"),
        "Pillow, draft 2, bicubic": ours(2, "bicubic"),
        "Pillow, draft 1, bicubic (ours)": ours(1, "bicubic"),
        "Pillow, draft 1, bilinear": ours(1, "bilinear"),
    }
    if find_spec("simplejpeg"):
        found["simplejpeg scaled, bicubic"] = simplejpeg()
    if find_spec("cv2"):
        found |= {"OpenCV, area": opencv("IMREAD_COLOR"), "OpenCV reduced 2, area": opencv("IMREAD_REDUCED_COLOR_2")}
    return found


def photo_sets(folder: Path, n: int) -> dict[str, list[bytes]]:
    """Bytes of ``n`` photos of each kind, which are made below ``folder``."""
    make_photos(folder / "photos", n)
    sets = {
        "500x500": [(folder / "photos" / f"{i}.jpg").read_bytes() for i in range(n)],
        "the demo's": [file.read_bytes() for file in sorted(PHOTOS.iterdir())[:n]],
    }
    archive = posters_archive()
    if archive is not None:
        there = unpack_posters(archive, folder / "posters", n)
        sets["posters"] = [(folder / "posters" / f"{i}.jpg").read_bytes() for i in range(there)]
    return sets


def main() -> None:
    """Decode with each, embed, compare with the reference."""
    parser = argparse.ArgumentParser(description="JPEG decoders: speed, and what they do to the vector.")
    parser.add_argument("--quick", action="store_true", help="48 photos instead of 192")
    n = 48 if parser.parse_args().quick else 192
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        engine = OpenVinoEngine(get_backbone("efficientnet_lite0"), None)
        for kind, data in photo_sets(Path(folder), n).items():
            table = Table(
                "decoder", "photos/s", "cosine min", "mean", "grey levels", title=f"{kind}: {len(data)} photos"
            )
            reference: Any = None
            for name, read in decoders().items():
                pixels = np.stack([read(photo) for photo in data])
                seconds = [_timed(read, data) for _ in range(5)]
                features = engine.run(pixels)
                features /= np.linalg.norm(features, axis=1, keepdims=True)
                if reference is None:
                    reference = features, pixels.astype(np.int16)
                cosine = (features * reference[0]).sum(axis=1)
                levels = float(np.abs(pixels - reference[1]).mean())
                rate = len(data) / statistics.median(seconds)
                cells = (f"{rate:,.0f}", f"{cosine.min():.4f}", f"{cosine.mean():.5f}", f"{levels:.2f}")
                table.add_row(name, *cells)
                parts[f"{kind}: {name}"] = {"rate": rate, "cosine_min": float(cosine.min()), "grey_levels": levels}
            Console(width=120).print(table)
            parts[f"{kind}: processes"] = rates = by_processes(data)
            said = f"Two threads {rates['threads']:,.0f} photos/s, two processes {rates['processes']:,.0f}"
            print(f"{said}, pairs {rates['ratio']:.2f}")
    first, chosen = "500x500: Pillow, whole, bicubic", "500x500: Pillow, draft 1, bicubic (ours)"
    finish("decode", {"chosen_whole": parts[chosen]["rate"] / parts[first]["rate"]}, parts=parts)


def by_processes(data: list[bytes]) -> dict[str, float]:
    """Photos a second by two threads and by two processes, and the median ratio of runs in turn."""
    how, limits = Preprocessing(), ImageLimits()
    rates: dict[str, list[float]] = {"threads": [], "processes": []}
    with ThreadPoolExecutor(2) as pool, Decoders(limits, workers=2) as decoders:
        ways: dict[str, Decoder] = {
            "threads": lambda photo: decode(photo, how, limits),
            "processes": lambda photo: decoders.pixels(photo, how),
        }
        for read in ways.values():
            list(pool.map(read, data))
        for _ in range(ROUNDS):
            for name, read in ways.items():
                started = time.perf_counter()
                list(pool.map(read, data))
                rates[name].append(len(data) / (time.perf_counter() - started))
    pairs = zip(rates["threads"], rates["processes"], strict=True)
    ratio = statistics.median(processes / threads for threads, processes in pairs)
    return {name: statistics.median(found) for name, found in rates.items()} | {"ratio": ratio}


def _timed(read: Decoder, data: list[bytes]) -> float:
    started = time.perf_counter()
    for photo in data:
        read(photo)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
