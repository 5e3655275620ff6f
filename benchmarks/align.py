"""How long do 10^6 pairs take that align a head, in one process and through one server?

    python -m benchmarks.align

Steps of 4,096 pairs, as ``trainer align`` takes them from a million clicks on, over 20,000 images with features of
1,280 numbers: of the linear head 1280-64, and of 1280-256-64; with the features in this process, and on an image
server.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.learn import BACKBONE, FEATURE, IMAGES, make_store
from benchmarks.parts import Part, Taken, Work, as_dict, daemon, finish, run_rounds, show
from benchmarks.train import THREADS

PAIRS, USERS, BATCH = 1_000_000, 100_000, 4096
HEADS = {"1280-64": (64,), "1280-256-64": (256, 64)}
TARGET_MIN = {"one process": 10.0, "through a server": 20.0}


def made_pairs() -> Any:
    """A million pairs of images, some of which are far more frequent than others."""
    from crossmedia.trainer.align.pairs import Pairs

    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, IMAGES + 1) ** 0.8
    left = rng.choice(IMAGES, PAIRS, p=frequency / frequency.sum())
    right = (left + rng.integers(1, IMAGES, PAIRS)) % IMAGES
    nothing = np.full(PAIRS, -1)
    return Pairs(rng.integers(USERS, size=PAIRS), left, right, np.ones(PAIRS, dtype=np.float32), nothing)


def aligning(widths: tuple[int, ...], store: str, address: str, steps: int) -> Work:
    """Steps of a head; with an address its features are on the server there."""
    import torch

    from crossmedia import imgserver
    from crossmedia.features.reading.prefetch import ahead
    from crossmedia.imgserver.client import HeadServers, ImageClient
    from crossmedia.imgserver.head import HeadSpec, new_head
    from crossmedia.trainer.align.batches import PairBatch, PairBatches
    from crossmedia.trainer.align.learner import AlignLearner
    from crossmedia.trainer.align.train import train_step
    from crossmedia.trainer.images.image_head import ImageHead

    torch.set_num_threads(THREADS)
    client = ImageClient(imgserver.open_local(store))
    sample = client.get(np.arange(4096), version=BACKBONE).values.astype(np.float32)
    head = new_head(HeadSpec("aligned", (FEATURE, *widths)), sample, "pca", BACKBONE)
    images = ImageHead(HeadServers([address], "bench") if address else client, head, BACKBONE)
    learner = AlignLearner(images, 0.1 if len(widths) == 1 else 0.0, 0.07)
    learner.train()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3, fused=True)
    batches = PairBatches(made_pairs(), BATCH, seed=0)

    def every() -> Iterator[PairBatch]:
        for epoch in count():
            yield from batches.epoch(epoch)

    stream = ahead(every(), lambda batch: images.fetch(batch.keys))

    def work() -> int:
        done = 0
        for batch, fetched in islice(stream, steps):
            train_step(learner, learner, optimizer, batch, fetched)
            done += len(batch.weights)
        return done

    return work


def cpu_seconds_an_item(part: Taken) -> float:
    """Of both sides together."""
    return (sum(part.client_cpu) + sum(part.server_cpu)) / sum(part.items)


def main() -> None:
    """Align each head each way, in turn."""
    parser = argparse.ArgumentParser(description="How long 10^6 pairs take that align a head.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="3 short rounds")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    steps = 4 if arguments.quick else -(-PAIRS // BATCH // rounds)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "store"
        make_store(store)
        with daemon(store, f"--threads={THREADS}") as (address, pid):
            parts = {
                f"{name}, {way}": Part(aligning, widths, str(store), there, steps, servers=[pid] if there else [])
                for name, widths in HEADS.items()
                for way, there in (("one process", ""), ("through a server", address))
            }
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
    show(f"Steps of {BATCH:,} pairs", taken, "pairs/s")
    minutes = {name: PAIRS / part.rate / 60 for name, part in taken.items()}
    # On a busy machine what the processors did says more than the clock: half of it is the least on two free cores.
    cpu = {name: PAIRS / 60 * cpu_seconds_an_item(part) for name, part in taken.items()}
    table = Table("for 10^6 pairs", "minutes", "minutes of a processor", "minutes at most")
    for name, value in minutes.items():
        target = TARGET_MIN[name.partition(", ")[2]]
        table.add_row(name, f"{value:.1f}", f"{cpu[name]:.1f}", f"{target:.0f}" if name.startswith("1280-64") else "")
    Console(width=120).print(table)
    ratios = {name: taken[f"{name}, through a server"].rate / taken[f"{name}, one process"].rate for name in HEADS}
    found = {name: as_dict(part) for name, part in taken.items()}
    finish("align", ratios, rounds=rounds, pairs=PAIRS, minutes=minutes, cpu_minutes=cpu, parts=found, load_before=load)


if __name__ == "__main__":
    main()
