"""How many bytes do samples and traffic take, with vectors inside, features fetched, or vectors fetched?

    python -m benchmarks.bytes

The table of the AMS paper (section 1, "Image Matters", arXiv 1711.06505): in closed form at the paper's size, and
measured here: 'features build' makes samples of a simulated log (items by Zipf's law, 20 impressions a user, five
behaviours between two of them), what vectors would add to their rows is written to Parquet, too, and requests and
replies for shuffled batches are encoded as they go over the wire.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish
from benchmarks.samples_read import ITEMS, make_samples
from crossmedia.features.batch import Batch, Int64Array
from crossmedia.features.layout import ITEMS_FILE, sample_files
from crossmedia.features.reading.samples import Samples
from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.features.splits import SPLITS
from crossmedia.imgserver.wire import VectorsReply, encode_reply
from crossmedia.v1 import image_server_pb2 as pb

FEATURE_DIM, DIM = 1280, 12
HISTORY, BATCH = 50, 1024
VERSION = "efficientnet_lite0@0123456789ab+pca@0123456789ab/12"


def wire_bytes(ids: Any, dim: int, dtype: str) -> int:
    """Request and reply of a lookup of ``ids``, as they are encoded."""
    request = pb.GetVectorsRequest(version=VERSION, image_ids=np.asarray(ids, "<i8").tobytes())
    rng = np.random.default_rng(0)
    reply = VectorsReply(VERSION, 1, rng.random((len(ids), dim)).astype(dtype), np.ones(len(ids), np.uint8))
    return request.ByteSize() + len(encode_reply(reply))


def parquet_bytes(path: Path, columns: dict[str, Any]) -> int:
    """Size of the columns as a Parquet file with zstd."""
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=True)
    return path.stat().st_size


def as_lists(flat: Any, rows: int) -> Any:
    """A list column of ``rows`` rows of equal length."""
    return pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, len(flat) // rows, dtype=np.int32), flat)


def images_of(batch: Batch) -> tuple[Int64Array, Int64Array]:
    """Image ids of the targets, shape (B,), and of the behaviours, shape (N,): an item has one."""
    keys = batch.items.vectors[IMAGE_SPACE]
    image = keys.unique[keys.of_items.values]
    return image[batch.target], image[batch.history.values]


def measured_samples(samples: Samples, folder: Path) -> dict[str, float]:
    """Bytes a sample: with ids only as they are stored, and what vectors of all its images would add to each row."""
    rows = sum(samples.rows(split) for split in SPLITS)
    of_items = (samples.folder / ITEMS_FILE).stat().st_size
    whole = sum((samples.folder / name).stat().st_size for name in sample_files(histories=True))
    sizes = {"ids": (whole - of_items) / rows, "item": of_items / ITEMS}
    rng = np.random.default_rng(0)
    batches = samples.batches("train", BATCH)
    for name, dim, dtype, batches_of in (("vectors", DIM, np.float16, 64), ("features", FEATURE_DIM, np.float32, 1)):
        made = rng.standard_normal((ITEMS, dim), dtype=np.float32).astype(dtype)
        found = [images_of(batch) for batch in islice(batches, batches_of)]
        target, history = (np.concatenate(part) % ITEMS for part in zip(*found, strict=True))
        columns = {name: as_lists(pa.array(made[target].ravel()), len(target))}
        columns[f"hist_{name}"] = as_lists(pa.array(made[history].ravel()), len(target))
        sizes[name] = sizes["ids"] + parquet_bytes(folder / f"{name}.parquet", columns) / len(target)
    return sizes


def measured_traffic(samples: Samples, batches: int) -> dict[str, float]:
    """Bytes a shuffled batch over the wire, before and after each image is asked for once."""
    total = dict.fromkeys(("images", "unique", "features_all", "features", "vectors_all", "vectors"), 0.0)
    for batch in islice(samples.batches("train", BATCH, shuffle_seed=1), batches):
        asked = np.concatenate(images_of(batch))
        unique = np.unique(asked)
        total["images"] += len(asked) / batches
        total["unique"] += len(unique) / batches
        for name, ids in (("_all", asked), ("", unique)):
            total[f"features{name}"] += wire_bytes(ids, FEATURE_DIM, "<f4") / batches
            total[f"vectors{name}"] += wire_bytes(ids, DIM, "<f2") / batches
    return total


def paper() -> list[tuple[str, str, str, str]]:
    """Table 2 of the paper, a mini-batch of the whole cluster: as printed, in closed form, and with our encodings."""
    images, ids, feature, vector = 320_000, 1_400_000, 4096, 12
    behind = 0.12e9 * feature * 4 / 65_000  # the catalogue once, spread over the batches of an epoch
    once = images * vector
    return [
        ("samples with features inside", "5.1 GB", _size(images * feature * 4), _size(images * FEATURE_DIM * 4)),
        ("features fetched", "5.0 GB", _size(images * feature * 4), _size(images * (FEATURE_DIM * 4 + 9))),
        ("vectors fetched, gradients sent", "30 MB", _size(once * 4 * 2), _size(images * (vector * 2 + 9))),
        ("id embeddings and gradients", "128 MB", _size(ids * vector * 4 * 2), "the same"),
        ("the catalogue, a batch's share", "30.3 MB", _size(behind), _size(behind * FEATURE_DIM * 2 / feature / 4)),
    ]


def _size(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def main() -> None:
    """Write, encode, count, print."""
    parser = argparse.ArgumentParser(description="Bytes of samples and of traffic.")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    arguments = parser.parse_args()
    rows = 20_000 if arguments.quick else arguments.rows
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "samples"
        make_samples(folder, HISTORY, rows, photos=(1,))
        opened = Samples(folder / "1")
        samples = measured_samples(opened, folder)
        traffic = measured_traffic(opened, 3 if arguments.quick else 20)

    table = Table("the paper's size, bytes a mini-batch", "printed", "closed form", "ours: fp16, ids and status")
    for line in paper():
        table.add_row(*line)
    Console(width=120).print(table)
    table = Table(f"samples here: {rows:,} rows, {HISTORY} behaviours, zstd", "bytes a sample", "times ours")
    for name, size in samples.items():
        shown = {
            "ids": "ids only (ours)",
            "item": "an item of the item table, once",
            "vectors": f"joined, {DIM} x fp16",
            "features": f"joined, {FEATURE_DIM} x fp32",
        }
        table.add_row(shown[name], f"{size:,.0f}", f"{size / samples['ids']:,.1f}")
    Console(width=120).print(table)
    table = Table(f"traffic here: batches of {BATCH:,}", "images a batch", "MB a batch", "times ours")
    for name, what in (("features", f"features, {FEATURE_DIM} x fp32"), ("vectors", f"vectors, {DIM} x fp16")):
        for tail, count in (("_all", "images"), ("", "unique")):
            size = traffic[name + tail]
            row = what + ("" if tail else ", each once")
            table.add_row(row, f"{traffic[count]:,.0f}", f"{size / 1e6:,.2f}", f"{size / traffic['vectors']:,.1f}")
    Console(width=120).print(table)
    ratios = {
        "traffic_features": traffic["features"] / traffic["vectors"],
        "traffic_deduplication": traffic["vectors_all"] / traffic["vectors"],
        "samples_joined": samples["features"] / samples["ids"],
        "samples_joined_vectors": samples["vectors"] / samples["ids"],
    }
    finish("bytes", ratios, samples=samples, traffic=traffic, rows=rows, items=ITEMS)


if __name__ == "__main__":
    main()
