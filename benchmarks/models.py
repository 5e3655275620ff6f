"""How many samples a second do DIN and DIEN train, beside those of DeepCTR-Torch and of FuxiCTR?

    python -m benchmarks.models

The same generated log for all: histories of 1 to 50 behaviours, Zipf popularity, ids of item, category, image and user,
kind and age of each behaviour; embeddings of 16, MLP 200-80, batches of 1,024, 2 threads. Each side has its rows ready
in memory as it likes them and trains the same rows, one after the other. Then what reading the samples gives, shuffled,
beside what DIN trains, for histories of 50 and of 1,000. The peers run in an environment of their own,
``.venv-peers``, which the first run makes.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.ctr_peers.process import PeerPart
from benchmarks.parts import Part, Work, as_dict, finish, run_rounds, show
from benchmarks.train import BATCH, THREADS, make_samples

IMAGES = 10_000
PEERS = {"deepctr": "DeepCTR-Torch", "fuxi": "FuxiCTR"}
# DIEN without the auxiliary loss, which is off by default in both libraries.
OPTIONS: dict[str, dict[str, Any]] = {"din": {}, "dien": {"auxiliary": 0.0}}


def training(folder: Path, name: str, steps: int) -> Work:
    """Steps of our model."""
    import torch

    from crossmedia.allocator import keep_freed_memory
    from crossmedia.features.reading.samples import Samples
    from crossmedia.trainer.layers.inputs import InputSpec
    from crossmedia.trainer.models import make
    from crossmedia.trainer.tensors import to_tensors

    keep_freed_memory()  # as the trainer does
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    samples = Samples(folder / "samples")
    batches = list(islice(samples.batches("train", BATCH, shuffle_seed=0), steps))
    model = make(name, InputSpec.of(samples, {}), 16, OPTIONS[name]).train()
    optimizers = model.optimizers(1e-3)

    def work() -> int:
        for batch in batches:
            loss = model.loss(to_tensors(batch, torch.device("cpu")), {})
            model.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
        return sum(map(len, batches))

    return work


def reading(folder: Path, steps: int) -> Work:
    """The same rows from disk, shuffled, and nothing else."""
    from crossmedia.features.reading.samples import Samples

    samples = Samples(folder / "samples")
    return lambda: sum(len(b) for b in islice(samples.batches("train", BATCH, shuffle_seed=0), steps))


def main() -> None:
    """Train and read in turn."""
    parser = argparse.ArgumentParser(description="Training speed beside DeepCTR-Torch and FuxiCTR.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2 short rounds of DIN, histories of 50 only")
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    rounds, steps = (2, 4) if quick else (arguments.rounds, 20)
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_samples(folder / "uneven", 50, int(1.4 * steps * BATCH), IMAGES, shortest=1)
        for name in ("din",) if quick else OPTIONS:
            parts: dict[str, Part] = {"crossmedia": Part(training, folder / "uneven", name, steps)}
            for peer, title in PEERS.items():
                parts[title] = PeerPart(peer, name, folder / "uneven" / "samples", steps)
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
            show(f"{name.upper()}, 1 to 50 behaviours", taken, "samples/s")
            found[name] = {title: as_dict(part) for title, part in taken.items()}
            for title, short in (("DeepCTR-Torch", "deepctr"), ("FuxiCTR", "fuxictr")):
                ratios[f"{name}_{short}"] = taken["crossmedia"].rate / taken[title].rate
        for behaviours, trained, read in ((50, steps, 40 if quick else 190), (1_000, 2, 19)):
            if quick and behaviours > 50:
                continue
            place = folder / str(behaviours)
            make_samples(place, behaviours, int(1.4 * read * BATCH), IMAGES)
            parts = {"read": Part(reading, place, read), "train DIN": Part(training, place, "din", trained)}
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
            show(f"Reading and training, {behaviours} behaviours", taken, "samples/s")
            found[f"read_{behaviours}"] = {title: as_dict(part) for title, part in taken.items()}
            tail = "" if behaviours == 50 else f"_{behaviours}"
            ratios["read_train" + tail] = taken["read"].rate / taken["train DIN"].rate
    finish("models", ratios, rounds=rounds, parts=found)


if __name__ == "__main__":
    main()
