"""What does a head cost that learns through the wire, beside the same model in one process?

    python -m benchmarks.learn

A DIN with histories of 50 over simulated logs and 20,000 images, head 1280-256-64-12, batches of 1,024: with everything
in one process; through the image server; with features that cross the wire in place of vectors; and with stored
vectors, so without learning the head. Then where a step's time goes, and the bytes that it moves beside the formula.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.parts import Part, Work, as_dict, daemon, finish, run_rounds, show
from benchmarks.train import BATCH, THREADS, make_samples, steps_over
from crossmedia.imgserver.head import HeadSpec, fit_pca
from crossmedia.imgserver.head_files import save_head
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import FEATURE_DTYPE, vector_space
from crossmedia.status import Status
from crossmedia.version import Version

IMAGES, FEATURE, BEHAVIOURS = 20_000, 1280, 50
WIDTHS = (256, 64, 12)
BACKBONE = "bench@000000000000"
JPEG_BYTES = 12_000  # of a photo of 224 x 224 pixels, about
WAYS = {
    "one process": "local",
    "through the server": "remote",
    "through the server, 2 steps stale": "stale",
    "features over the wire": "features",
    "stored vectors, no learning": "frozen",
}


def make_store(folder: Path) -> None:
    """Random features, sparse and positive as a CNN's are, and the vectors of their PCA."""
    rng = np.random.default_rng(0)
    store = Store(folder)
    features = store.index.ensure_space(BACKBONE, "feature", FEATURE, FEATURE_DTYPE, "none")
    values = np.maximum(rng.standard_normal((IMAGES, FEATURE), dtype=np.float32), 0).astype(np.float16)
    head = fit_pca(values[:4096], WIDTHS[-1])
    version = head.version(BACKBONE)
    save_head(store, head)
    ids, status = np.arange(IMAGES), np.full(IMAGES, Status.OK, dtype=np.uint8)
    for space, rows in ((features, values), (vector_space(store, Version.parse(version)), head.apply_numpy(values))):
        store.put(Rows(space, ids, status, np.zeros(IMAGES, dtype=SOURCE), rows))
    store.index.activate(version)
    store.close()


def open_images(way: str, store: str, address: str) -> Any:
    """The images of one way to train."""
    from crossmedia import imgserver
    from crossmedia.imgserver.client import HeadServers, ImageClient
    from crossmedia.imgserver.head import new_head
    from crossmedia.trainer.images.image_head import ImageHead

    if way == "frozen":
        client = ImageClient(address)
        client.get([0])
        return ImageHead(client)
    plain = ImageClient(imgserver.open_local(store) if way == "local" else address)
    sample = plain.get(np.arange(1024), version=BACKBONE).values.astype(np.float32)
    head = new_head(HeadSpec("learned", (FEATURE, *WIDTHS)), sample, "pca", BACKBONE)
    if way in ("local", "features"):
        return ImageHead(plain, head, BACKBONE)
    return ImageHead(HeadServers([address], "bench"), head, BACKBONE, 2 if way == "stale" else 0)


def training(folder: Path, way: str, store: str, address: str, steps: int) -> Work:
    """Steps of a DIN, one way."""
    images = open_images(way, store, address)
    return steps_over(images, images.dim, folder, steps)


def profile(folder: Path, store: str, address: str, steps: int) -> dict[str, float]:
    """Milliseconds a step that the trainer waits for each kind of call, and all of it."""
    from crossmedia.imgserver.client import ImageClient, head_servers

    work = training(folder, "remote", store, address, steps)
    work()
    spent: dict[str, float] = {}

    @contextmanager
    def timed(cls: Any, name: str, label: str) -> Iterator[None]:
        plain: Callable[..., Any] = getattr(cls, name)

        def measured(*arguments: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return plain(*arguments, **more)
            finally:
                spent[label] = spent.get(label, 0.0) + time.perf_counter() - started

        setattr(cls, name, measured)
        try:
            yield
        finally:
            setattr(cls, name, plain)

    from crossmedia.trainer.images.image_head import RemoteHead

    with (
        timed(RemoteHead, "_publish", "hash and pack the head"),
        timed(head_servers, "put_head", "put the head"),
        timed(ImageClient, "get", "get vectors"),
        timed(head_servers, "head_gradient", "get the head's gradient"),
    ):
        started = time.perf_counter()
        work()
        spent["a step"] = time.perf_counter() - started
    spent["the model, and the rest"] = 2 * spent["a step"] - sum(spent.values())
    return {label: 1000 * seconds / steps for label, seconds in spent.items()}


def moved(folder: Path, store: str, address: str, steps: int) -> dict[str, float]:
    """Bytes a step: measured, by the formula, and what features or photos in the place of vectors would take."""
    from crossmedia.features.reading.samples import Samples

    images = open_images("remote", store, address)
    work = steps_over(images, images.dim, folder, steps)

    def so_far() -> int:
        stats = images.stats
        total: int = stats.bytes_sent + stats.bytes_received + stats.head_bytes_sent + stats.head_bytes_received
        return total

    before = so_far()
    work()
    after = so_far()
    batches = islice(Samples(folder / "samples").batches("train", BATCH, shuffle_seed=0, epoch=0), steps)
    unique = statistics.mean(len(batch.items.vectors["image"].unique) for batch in batches)
    parameters = images.head.spec.parameters
    dim = WIDTHS[-1]
    return {
        "unique images": unique,
        "head parameters": parameters,
        "measured": (after - before) / steps,
        # ids twice, a status, vectors and their gradients; the head there, its gradient back
        "formula": unique * (2 * 8 + 1 + 2 * 4 * dim) + 2 * 4 * parameters,
        "features instead": unique * (8 + 1 + 2 * FEATURE),
        "photos instead": unique * (8 + JPEG_BYTES),
    }


def main() -> None:
    """Train each way in turn, then look at the steps and the bytes."""
    parser = argparse.ArgumentParser(description="A head that learns through the wire, beside one process.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="3 short rounds")
    arguments = parser.parse_args()
    rounds, steps = (3, 4) if arguments.quick else (arguments.rounds, 12)
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder, store = Path(temporary) / "work", Path(temporary) / "store"
        make_store(store)
        make_samples(folder, BEHAVIOURS, int(1.4 * steps * BATCH), IMAGES)
        with daemon(store, f"--threads={THREADS}") as (address, pid):
            parts = {
                title: Part(training, folder, way, str(store), address, steps, servers=[pid] if way != "local" else [])
                for title, way in WAYS.items()
            }
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
            steps_of = profile(folder, str(store), address, steps)
            bytes_of = moved(folder, str(store), address, steps)
    show(f"DIN, {BEHAVIOURS} behaviours, head {FEATURE}-{'-'.join(map(str, WIDTHS))}", taken, "samples/s")
    for title, way in WAYS.items():
        if way != "local":
            key = {"remote": "local"}.get(way, way)
            ratios[key] = taken[title].rate / taken["one process"].rate
    for title, values, unit in (("Where a step goes", steps_of, "ms"), ("What a step moves", bytes_of, "")):
        table = Table("", unit, title=title, title_justify="left")
        for label, value in values.items():
            table.add_row(label, f"{value:,.1f}" if unit else f"{value:,.0f}")
        Console(width=120).print(table)
    found = {title: as_dict(part) for title, part in taken.items()}
    finish("learn", ratios, rounds=rounds, parts=found, step_ms=steps_of, step_bytes=bytes_of)


if __name__ == "__main__":
    main()
