"""What does it cost to fetch vectors while training, instead of holding all of them in memory?

    python -m benchmarks.train

A DIN with histories of 50 and of 1,000 behaviours over simulated logs: once with vectors from the image server, and
once with all vectors in memory, as one ``.npy`` matrix. Then the trainer's peak memory over catalogues of 10,000,
100,000 and 1,000,000 images; the log stays as large as it is.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.fetch import DIM, make_store, make_vectors
from benchmarks.parts import Part, Taken, Work, as_dict, daemon, finish, run_rounds, show

ITEMS = 10_000
BATCH = 1024
THREADS = 2
SCHEMA = """
[log]
path = "log.parquet"
user = "user_id"
item = "item_id"
time = "time"

[log.labels]
click = "click"

[items]
path = "items.parquet"
item = "item_id"
image = "image_id"
ids = ["cate_id"]

[behaviours]
path = "behaviours.parquet"
user = "user_id"
item = "item_id"
time = "time"
action = "action"
max_length = {behaviours}

[split]
method = "time"
test = 0.1
validation = 0.1
"""


def make_samples(folder: Path, behaviours: int, rows: int, images: int, shortest: int = 0) -> None:
    """Samples whose users have ``behaviours`` behaviours before their first impression, of Zipf popularity.

    Args:
        folder: where they go.
        behaviours: of each user; with ``shortest`` of the user who has most.
        rows: impressions in the log.
        images: in the catalogue.
        shortest: behaviours of the user who has fewest, others in between; 0: all have the same number.
    """
    from crossmedia.features.schema import load_schema
    from crossmedia.features.writing.build import build_samples

    folder.mkdir()
    rng = np.random.default_rng(0)
    users = max(1, min(2_000, rows // 20))
    popularity = 1.0 / np.arange(1, ITEMS + 1)
    popularity /= popularity.sum()
    lengths = rng.integers(shortest or behaviours, behaviours + 1, users)
    before = int(lengths.sum())
    pq.write_table(
        pa.table(
            {
                "user_id": np.repeat(np.arange(users), lengths),
                "item_id": rng.choice(ITEMS, before, p=popularity),
                "time": np.concatenate([np.arange(length) for length in lengths]),
                "action": ["click"] * before,
            }
        ),
        folder / "behaviours.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "user_id": rng.integers(0, users, rows),
                "item_id": rng.choice(ITEMS, rows, p=popularity),
                "time": behaviours + np.arange(rows),
                "click": rng.integers(0, 2, rows),
            }
        ),
        folder / "log.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "item_id": np.arange(ITEMS),
                "image_id": np.sort(rng.choice(images, ITEMS, replace=False)),
                "cate_id": rng.integers(0, 100, ITEMS),
            }
        ),
        folder / "items.parquet",
    )
    (folder / "samples.toml").write_text(SCHEMA.format(behaviours=behaviours))
    build_samples(load_schema(folder / "samples.toml"), folder / "samples", overwrite=True)


class InMemory:
    """All vectors in memory, looked up by image id: what a trainer without an image server does."""

    def __init__(self, file: str):
        self._vectors = np.load(file)

    def get(self, ids: npt.NDArray[np.int64]) -> Any:
        """As ``ImageClient.get``."""
        from crossmedia.imgserver.client import Vectors

        return Vectors(self._vectors[ids], np.ones(len(ids), dtype=np.uint8), "memory", 1)


def training(folder: Path, kind: str, where: str, steps: int) -> Work:
    """Steps of a DIN, over vectors in memory or fetched."""
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.trainer.images.image_head import ImageHead

    source: Any = InMemory(where) if kind == "memory" else ImageClient(where)
    return steps_over(ImageHead(source), DIM, folder, steps)


def steps_over(images: Any, dim: int, folder: Path, steps: int) -> Work:
    """Steps of a DIN, and of a head that learns, as ``trainer fit`` makes them.

    Args:
        images: an ``ImageHead``.
        dim: numbers in a vector.
        folder: of ``make_samples``.
        steps: batches a round.
    """
    import torch

    from crossmedia.allocator import keep_freed_memory
    from crossmedia.features.reading.samples import Samples
    from crossmedia.trainer.feed import Feed
    from crossmedia.trainer.images.spaces import Spaces
    from crossmedia.trainer.layers.inputs import InputSpec
    from crossmedia.trainer.models import make

    keep_freed_memory()  # as the trainer does
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    samples, spaces = Samples(folder / "samples"), Spaces({"image": images}).train()
    feed = Feed(samples, spaces, BATCH, torch.device("cpu"))
    model = make("din", InputSpec.of(samples, {"image": dim}), 16, {}).train()
    optimizers = model.optimizers(1e-3)
    if images.head is not None:
        optimizers.append(torch.optim.Adam(images.parameters(), lr=1e-3, fused=True))

    def work() -> int:
        done = 0
        batches = islice(samples.batches("train", BATCH, shuffle_seed=0, epoch=0), steps)
        for fed in feed.of(batches):
            loss = model.loss(fed.tensors, fed.vectors(spaces))
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            done += fed.tensors.rows
        return done

    return work


def fetching(folder: Path, address: str, steps: int) -> Work:
    """The fetches of the same steps, and nothing else."""
    from crossmedia.allocator import keep_freed_memory
    from crossmedia.features.reading.samples import Samples
    from crossmedia.imgserver.client import ImageClient

    keep_freed_memory()  # as the trainer does
    source = ImageClient(address)
    batches = list(islice(Samples(folder / "samples").batches("train", BATCH, shuffle_seed=0, epoch=0), steps))

    def work() -> int:
        for batch in batches:
            source.get(batch.items.vectors["image"].unique).values.astype(np.float32)
        return sum(len(batch) for batch in batches)

    return work


def main() -> None:
    """Train each way in turn, then look at the memory."""
    parser = argparse.ArgumentParser(description="Training with vectors fetched, beside vectors in memory.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="2 short rounds, histories of 50, two catalogues")
    arguments = parser.parse_args()
    quick, rounds = arguments.quick, 2 if arguments.quick else arguments.rounds
    catalogues = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000)
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stores: dict[int, Path] = {}
        for n in catalogues:
            stores[n] = folder / str(n)
            stores[n].mkdir()
            vectors = make_vectors(n)
            np.save(stores[n] / "vectors.npy", vectors)
            make_store(stores[n] / "store", vectors)
        n = catalogues[1]
        for behaviours, steps in ((50, 3 if quick else 20), (1_000, 3)):
            if quick and behaviours > 50:
                continue
            work = folder / f"samples-{behaviours}"
            make_samples(work, behaviours, int(1.4 * steps * BATCH), n)
            with daemon(stores[n] / "store") as (address, pid):
                parts = {
                    "vectors in memory": Part(training, work, "memory", str(stores[n] / "vectors.npy"), steps),
                    "vectors fetched": Part(training, work, "server", address, steps, servers=[pid]),
                    "the fetches alone": Part(fetching, work, address, steps, servers=[pid]),
                }
                taken = run_rounds(parts, rounds)
                for part in parts.values():
                    part.close()
            show(f"DIN, {behaviours} behaviours, {n:,} images", taken, "samples/s")
            found[f"history_{behaviours}"] = {name: as_dict(part) for name, part in taken.items()}
            tail = "" if behaviours == 50 else f"_{behaviours}"
            ratios["ram" + tail] = taken["vectors fetched"].rate / taken["vectors in memory"].rate
            ratios["fetch_cpu" + tail] = _cpu(taken["the fetches alone"]) / _cpu(taken["vectors in memory"])
        peaks = memory(folder, stores, 3 if quick else 5, 1 if quick else 2, ratios)
    finish("train", ratios, rounds=rounds, parts=found, peaks=peaks)


def _cpu(taken: Taken) -> float:
    return taken.cpu_us(taken.client_cpu) + taken.cpu_us(taken.server_cpu)


def memory(folder: Path, stores: dict[int, Path], steps: int, rounds: int, ratios: dict[str, float]) -> dict[str, Any]:
    """Peak memory of a trainer over each catalogue."""
    table = Table("catalogue", "MiB trainer, vectors fetched", "MiB trainer, vectors in memory", "MiB image server")
    peaks: dict[str, Any] = {}
    for n, place in stores.items():
        work = folder / f"memory-{n}"
        make_samples(work, 50, int(1.4 * steps * BATCH), n)
        with ExitStack() as stack:
            address, pid = stack.enter_context(daemon(place / "store"))
            parts = {
                "fetched": Part(training, work, "server", address, steps, servers=[pid]),
                "memory": Part(training, work, "memory", str(place / "vectors.npy"), steps),
            }
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
        peaks[str(n)] = {name: part.client_peak for name, part in taken.items()}
        sizes = [taken["fetched"].client_peak, taken["memory"].client_peak, taken["fetched"].server_peak]
        table.add_row(f"{n:,} images", *(f"{size >> 20:,}" for size in sizes))
    Console(width=120).print(table)
    first, last = str(min(stores)), str(max(stores))
    ratios["memory_growth"] = peaks[last]["fetched"] / peaks[first]["fetched"]
    ratios["memory_growth_in_memory"] = peaks[last]["memory"] / peaks[first]["memory"]
    return peaks


if __name__ == "__main__":
    main()
