"""How many bytes does a sample take, and how many are read a second?

    python -m benchmarks.samples_read

Builds samples with histories of 50 and of 1,000 behaviours, whose items have one image or ten: items by Zipf's law,
five behaviours between two impressions of a user, 20 impressions a user. Then one thread reads an epoch of batches of
each, shuffled and in the order of the file. ``--quick`` takes a tenth of the rows, and 3 rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.parts import Part, Work, as_dict, finish, run_rounds, show

ITEMS, IMAGES = 100_000, 1_000_000
PHOTOS = (1, 10)  # of an item
IMPRESSIONS, BETWEEN = 20, 5
BATCH = 1024
SCHEMA = """
[log]
path = "log.parquet"
user = "user"
item = "item"
time = "time"
[log.labels]
click = "click"
[items]
path = "items-{photos}.parquet"
item = "item"
image = "image"
ids = ["cate_id"]
[behaviours]
path = "behaviours.parquet"
user = "user"
item = "item"
time = "time"
action = "action"
max_length = {length}
[split]
method = "user_tail"
test = 0.05
validation = 0.05
"""


def make_samples(folder: Path, length: int, rows: int, photos: Sequence[int] = PHOTOS) -> dict[str, float]:
    """Samples whose items have one image, and ten; returns the bytes a sample of each.

    Args:
        folder: for all of it, one folder of samples for each of ``photos``, named after it.
        length: behaviours of a history.
        rows: impressions.
        photos: images of an item.
    """
    from crossmedia.features.schema import load_schema
    from crossmedia.features.writing.build import build_samples

    folder.mkdir()
    rng = np.random.default_rng(0)
    users = rows // IMPRESSIONS
    popularity = 1.0 / np.arange(1, ITEMS + 1)
    popularity /= popularity.sum()
    own = length + BETWEEN * IMPRESSIONS
    done: dict[str, Any] = {"user": np.repeat(np.arange(users), own), "time": np.tile(np.arange(own) * 60, users)}
    done |= {"item": rng.choice(ITEMS, users * own, p=popularity)}
    done |= {
        "action": pa.array(["click", "cart", "buy"]).take(pa.array(rng.choice(3, users * own, p=[0.9, 0.07, 0.03])))
    }
    pq.write_table(pa.table(done), folder / "behaviours.parquet")
    shown: dict[str, Any] = {"user": np.repeat(np.arange(users), IMPRESSIONS)}
    shown["time"] = np.tile((length + BETWEEN * np.arange(IMPRESSIONS)) * 60, users)
    shown |= {"item": rng.choice(ITEMS, rows, p=popularity), "click": rng.integers(0, 2, rows)}
    pq.write_table(pa.table(shown), folder / "log.parquet")
    sizes = {}
    for each in photos:
        images = rng.choice(IMAGES, ITEMS * each, replace=False)
        lists = pa.ListArray.from_arrays(pa.array(np.arange(0, len(images) + 1, each, dtype=np.int32)), images)
        items = {"item": np.arange(ITEMS), "image": lists, "cate_id": np.arange(ITEMS) % 500}
        pq.write_table(pa.table(items), folder / f"items-{each}.parquet")
        schema = folder / f"{each}.toml"
        schema.write_text(SCHEMA.format(photos=each, length=length))
        report = build_samples(load_schema(schema), folder / str(each), overwrite=True)
        sizes[str(each)] = report.bytes_per_sample
    return sizes


def reading(folder: Path, shuffled: bool) -> Work:
    """An epoch of batches, read by one thread."""
    from crossmedia.allocator import keep_freed_memory
    from crossmedia.features.reading.samples import Samples

    keep_freed_memory()  # as the trainer does
    pa.set_cpu_count(1)
    samples = Samples(folder)
    return lambda: sum(len(batch) for batch in samples.batches("train", BATCH, shuffle_seed=0 if shuffled else None))


def main() -> None:
    """Build, read, and print bytes and rates."""
    parser = argparse.ArgumentParser(description="Bytes a sample, and samples read a second.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, 3 rounds")
    arguments = parser.parse_args()
    quick, rounds = arguments.quick, 3 if arguments.quick else arguments.rounds
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    table = Table("behaviours", *(f"B/sample, {photos} images an item" for photos in PHOTOS))
    for length, rows in ((50, 200_000), (1_000, 20_000)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "samples"
            sizes = make_samples(folder, length, rows // 10 if quick else rows)
            parts = {
                f"{photos} images, {order}": Part(reading, folder / str(photos), order == "shuffled")
                for photos in PHOTOS
                for order in ("shuffled", "in order")
            }
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
        show(f"Histories of {length:,}, one thread", taken, "samples/s")
        table.add_row(f"{length:,}", *(f"{size:,.0f}" for size in sizes.values()))
        found[f"history_{length}"] = {"bytes": sizes, **{name: as_dict(part) for name, part in taken.items()}}
        ratios[f"read_ten_{length}"] = taken["10 images, shuffled"].rate / taken["1 images, shuffled"].rate
    Console(width=120).print(table)
    finish("samples_read", ratios, rounds=rounds, parts=found)


if __name__ == "__main__":
    main()
