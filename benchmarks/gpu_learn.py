"""A head that learns while DIN trains on a GPU: on the GPU itself, on an image server, or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_train import steps_over
from benchmarks.learn import BEHAVIOURS, IMAGES, make_store, open_images
from benchmarks.parts import Part, Work, as_dict, daemon, run_rounds
from benchmarks.train import BATCH, make_samples

WAYS = {
    "head on the device that trains": "local",
    "head on the server": "remote",
    "head on the server, 2 steps stale": "stale",
    "stored vectors, no learning": "frozen",
}


def learning(folder: Path, way: str, store: str, address: str, steps: int, device: str) -> Work:
    """Steps of a DIN, one way."""
    return steps_over(folder, open_images(way, store, address), "din", steps, device)


def measure(device: str, quick: bool, say: Any) -> None:
    """All ways in turn, those on the CPU beside them."""
    steps, rounds = (4, 2) if quick else (30, 3)
    with tempfile.TemporaryDirectory() as temporary:
        folder, store = Path(temporary) / "work", Path(temporary) / "store"
        make_store(store)
        make_samples(folder, BEHAVIOURS, int(1.4 * steps * BATCH), IMAGES)
        with daemon(store) as (address, pid):
            parts: dict[str, Part] = {
                title: Part(learning, folder, way, str(store), address, steps, device, servers=[pid])
                for title, way in WAYS.items()
            }
            if device != "cpu":
                parts["head and model on the CPU"] = Part(learning, folder, "local", str(store), address, steps, "cpu")
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
        rates = {title: one.rate for title, one in taken.items()}
        say("din, samples/s", **rates, parts={title: as_dict(one) for title, one in taken.items()})
