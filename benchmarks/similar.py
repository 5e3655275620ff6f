"""What does each kind of similarity index find, how fast, and in how much memory, beside comparing with every image?

    python -m benchmarks.similar --images 1000000

The vectors are mixtures of those of two of the project's photos, with noise, so that they lie as photos' vectors do;
queries are other mixtures. Every kind is built over the same store. In each round every kind answers the same queries,
100 at once and one after the other; recall@10 is the share of the 10 nearest, by flat, that it finds. ``--quick`` takes
20,000 images.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table as Printed

from benchmarks.embed import PHOTOS
from benchmarks.parts import finish
from crossmedia.imgserver.head import fit_pca
from crossmedia.imgserver.offline.exchange import check_vectors, import_vectors
from crossmedia.imgserver.similarity.building import KINDS, IndexReport, build_index
from crossmedia.imgserver.similarity.index import SimilarityFiles, SimilarityIndex
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.make_engine import make_engine

DIM, BLOCK, AT_ONCE, ALONE, K = 64, 100_000, 100, 20, 10
Vectors = npt.NDArray[np.float32]


def photo_vectors() -> Vectors:
    """Vectors of the photos that ship with the project, shape (243, DIM)."""
    backbone = get_backbone("efficientnet_lite0")
    engine = make_engine(backbone, None)
    pixels = [decode(path.read_bytes(), backbone.preprocessing, ImageLimits()) for path in sorted(PHOTOS.glob("*.jpg"))]
    features = engine.run(np.stack(pixels))
    return fit_pca(features, DIM).apply_numpy(features)


def mixtures(photos: Vectors, n: int, seed: int) -> Vectors:
    """Vectors between those of two photos, with noise, shape (n, DIM)."""
    rng = np.random.default_rng(seed)
    one, other = (photos[rng.integers(0, len(photos), n)] for _ in range(2))
    share = rng.uniform(0, 1, (n, 1)).astype(np.float32)
    noise = rng.normal(0, 0.3, (n, DIM)).astype(np.float32)
    found: Vectors = share * one + (1 - share) * other + noise * photos.std()
    return found


def fill(folder: Path, photos: Vectors, images: int) -> Store:
    """A store of so many vectors."""
    file = folder / "vectors.parquet"
    with pq.ParquetWriter(file, pa.schema([("image_id", pa.int64()), ("vector", pa.list_(pa.float16(), DIM))])) as out:
        for start in range(0, images, BLOCK):
            block = mixtures(photos, min(BLOCK, images - start), start).astype(np.float16)
            rows = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIM)
            out.write_table(pa.table([pa.array(np.arange(start, start + len(block))), rows], schema=out.schema))
    store = Store(folder / "store")
    import_vectors(store, check_vectors(file, "mixtures"))
    return store


def measured(search: Callable[[Vectors, int], tuple[Ids, Any]], queries: Vectors) -> tuple[float, float]:
    """Queries a second at once, and milliseconds of one alone."""
    started = time.perf_counter()
    search(queries, K)
    rate = len(queries) / (time.perf_counter() - started)
    took = []
    for query in queries[:ALONE]:
        started = time.perf_counter()
        search(query[None], K)
        took.append(time.perf_counter() - started)
    return rate, 1e3 * statistics.median(took)


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description="Similarity indexes beside brute force.")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 20,000 images")
    arguments = parser.parse_args()
    images, rounds = (20_000, 2) if arguments.quick else (arguments.images, arguments.rounds)
    photos = photo_vectors()
    queries = mixtures(photos, AT_ONCE, images + 1)
    with tempfile.TemporaryDirectory() as name:
        store = fill(Path(name), photos, images)
        space = store.index.space(store.index.active)
        assert space is not None
        table = Table(store, space)
        table.load()
        reports: dict[str, IndexReport] = {}
        searches: dict[str, Callable[[Vectors, int], tuple[Ids, Any]]] = {}
        for kind in KINDS:
            print(f"building {kind} over {images:,} images", flush=True)
            reports[kind] = build_index(store, kind)
            opened = SimilarityFiles(store.folder).open()
            assert opened is not None
            searches[kind] = partial(_search, opened[1], table)
        right = searches["flat"](queries, K)[0]
        recalls = {kind: _recall(search(queries, K)[0], right) for kind, search in searches.items()}
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        alone: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            for kind in KINDS[:: 1 if number % 2 else -1]:
                rate, milliseconds = measured(searches[kind], queries)
                rates[kind].append(rate)
                alone[kind].append(milliseconds)
        store.close()
    printed = Printed(title=f"{images:,} images of {DIM} numbers, the {K} nearest", title_justify="left")
    for heading in ("kind", "build s", "bytes an image", "recall@10", "queries/s, 100 at once", "min - max", "one, ms"):
        printed.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, report in reports.items():
        speed = rates[kind]
        printed.add_row(
            kind,
            f"{report.seconds:.1f}",
            f"{report.info.bytes_per_image:.0f}",
            f"{recalls[kind]:.3f}",
            f"{statistics.median(speed):,.0f}",
            f"{min(speed):,.0f} - {max(speed):,.0f}",
            f"{statistics.median(alone[kind]):.2f}",
        )
    Console(width=120).print(printed)
    median = {kind: statistics.median(speed) for kind, speed in rates.items()}
    ratios = {f"{kind.replace('-', '_')}_flat": median[kind] / median["flat"] for kind in KINDS if kind != "flat"}
    finish(
        "similar",
        {name: float(np.round(ratio, 2)) for name, ratio in ratios.items()},
        images=images,
        recall=recalls,
        bytes_per_image={kind: report.info.bytes_per_image for kind, report in reports.items()},
        build_s={kind: report.seconds for kind, report in reports.items()},
        alone_ms={kind: statistics.median(values) for kind, values in alone.items()},
    )


def _search(index: SimilarityIndex, table: Table, queries: Vectors, k: int) -> tuple[Ids, Any]:
    return index.search(queries, k, lambda ids: table.get(ids)[0])


def _recall(found: Ids, right: Ids) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), right.tolist(), strict=True)]))


if __name__ == "__main__":
    main()
