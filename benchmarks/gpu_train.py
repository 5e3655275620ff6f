"""DIN and DIEN trained on a GPU, ours with vectors from a server on the same machine, beside FuxiCTR's without any."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import types
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fetch import make_store, make_vectors
from benchmarks.models import OPTIONS
from benchmarks.parts import Part, Work, as_dict, daemon, run_rounds
from benchmarks.train import BATCH, make_samples

IMAGES, BEHAVIOURS = 100_000, 50
FUXI_NEEDS = ("fuxictr", "model_zoo", "polars", "h5py", "sklearn", "pandas", "tqdm", "yaml")


def batches_of(folder: Path, steps: int) -> list[Any]:
    """The first rows that our trainer draws, ready in memory."""
    from crossmedia.features.reading.samples import Samples

    return list(islice(Samples(folder / "samples").batches("train", BATCH, shuffle_seed=0, epoch=0), steps))


def ours(folder: Path, name: str, address: str, steps: int, device: str, told: str = "") -> Work:
    """Steps of our model over rows in memory, with vectors from a server, or without where it has no address.

    Args:
        folder: of ``make_samples``.
        name: of the model.
        address: of the server; empty: ids alone.
        steps: batches a round.
        device: where it trains.
        told: file that gets the share of the last round's time in which the step waited for vectors.
    """
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.trainer.images.image_head import ImageHead

    images: Any = None
    if address:
        images = ImageHead(ImageClient(address))
        images.fetch(np.zeros(1, dtype=np.int64))  # tells the version, and so the width
    return steps_over(folder, images, name, steps, device, told)


def steps_over(folder: Path, images: Any, name: str, steps: int, device_name: str, told: str = "") -> Work:
    """Steps of a model over rows in memory, and of a head that learns, as ``trainer fit`` makes them.

    Args:
        folder: of ``make_samples``.
        images: the ``Images`` of the one space; None: ids alone.
        name: of the model.
        steps: batches a round.
        device_name: where it trains.
        told: file that gets the share of the last round's time in which the step waited for vectors.
    """
    from crossmedia.allocator import keep_freed_memory
    from crossmedia.features.reading.samples import Samples
    from crossmedia.trainer.feed import Feed
    from crossmedia.trainer.images.spaces import Spaces
    from crossmedia.trainer.layers.inputs import InputSpec
    from crossmedia.trainer.models import make

    keep_freed_memory()  # as the trainer does
    torch.manual_seed(0)
    device, batches = torch.device(device_name), batches_of(folder, steps)
    spaces = Spaces({} if images is None else {"image": images}).to(device).train()
    feed = Feed(Samples(folder / "samples"), spaces, BATCH, device)
    spec = InputSpec.of(feed.samples, spaces.dims)
    model = make(name, spec, 16, OPTIONS[name]).to(device).train()
    optimizers = model.optimizers(1e-3)
    if spaces.head is not None:
        optimizers.append(torch.optim.Adam(spaces.parameters(), lr=1e-3, fused=True))

    def work() -> int:
        waited, started = 0.0, time.perf_counter()
        asked = started
        for fed in feed.of(batches):
            waited += time.perf_counter() - asked
            loss = model.loss(fed.tensors, fed.vectors(spaces))
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            asked = time.perf_counter()
        loss.item()  # what was launched is done
        if told:
            Path(told).write_text(str(waited / (time.perf_counter() - started)))
        return sum(map(len, batches))

    return work


def fuxi(folder: Path, name: str, steps: int, device_name: str) -> Work:
    """Steps of FuxiCTR's model on the same rows, its batches ready in memory as its loaders make them."""
    _without_data_building()
    from benchmarks.ctr_peers.arrays import Columns, read_steps
    from benchmarks.ctr_peers.fuxi import Fuxi
    from benchmarks.ctr_peers.peer import Tuned
    from crossmedia.features.reading.samples import Samples

    samples = Samples(folder / "samples")
    columns = Columns.of(samples)
    rows = read_steps(samples, columns, steps, BATCH, 0)
    gpu = -1 if device_name == "cpu" else torch.device(device_name).index or 0
    peer = Fuxi(name, columns, Tuned(), 0, gpu)
    prepared = peer.prepare(rows)
    places = [np.arange(start, min(start + BATCH, len(rows))) for start in range(0, len(rows), BATCH)]
    batches = [peer.batch(prepared, place) for place in places]
    peer.model.train()

    def work() -> int:
        for beside, items, mask in batches:
            peer.step((dict(beside), dict(items), mask))  # it puts what it moves to the GPU into these
        if gpu >= 0:
            torch.cuda.synchronize()
        return len(rows)

    return work


def _without_data_building() -> None:
    """Let FuxiCTR's models be imported where ray is not: its package of data building runs ray when it is imported.

    Of that package models use one module, which is imported as it is.
    """
    if importlib.util.find_spec("ray") is not None:
        return
    found = importlib.util.find_spec("fuxictr")
    assert found is not None
    assert found.origin is not None
    package = types.ModuleType("fuxictr.preprocess")
    package.__path__ = [str(Path(found.origin).parent / "preprocess")]
    sys.modules["fuxictr.preprocess"] = package


def reading(folder: Path, steps: int) -> Work:
    """The same rows read from disk, shuffled, and nothing else."""
    return lambda: sum(map(len, batches_of(folder, steps)))


def fetching(folder: Path, address: str, steps: int) -> Work:
    """The fetches of the same steps, one after the other, and nothing else."""
    from crossmedia.imgserver.client import ImageClient

    client, batches = ImageClient(address), batches_of(folder, steps)

    def work() -> int:
        for batch in batches:
            client.get(batch.items.vectors["image"].unique)
        return sum(map(len, batches))

    return work


def whole_fit(folder: Path, name: str, address: str, device: str, out: Path) -> dict[str, Any]:
    """``trainer fit``, from files on disk: rows a second, and the share of its time that it waited for a batch."""
    options = ["--samples", str(folder / "samples"), "--server", address, "--model", name, "--out", str(out)]
    options += ["--device", device.partition(":")[0], "--epochs", "2", "--batch-size", str(BATCH)]
    if name == "dien":
        options += ["--set", "auxiliary=0"]
    command = [sys.executable, "-m", "crossmedia.trainer", "fit", *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    cost = json.loads(done.stdout.strip().splitlines()[-1])["train"]
    return {"samples_per_s": cost["samples_per_s"], "waited": cost["fetch_wait_s"] / cost["seconds"]}


def measure(device: str, quick: bool, say: Any) -> None:
    """Both models, all sides in turn."""
    steps, rounds = (4, 2) if quick else (40, 3)
    missing = [name for name in FUXI_NEEDS if importlib.util.find_spec(name) is None]
    for name in missing:
        say("FuxiCTR not measured", absent=name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_store(folder / "store", make_vectors(IMAGES))
        samples = folder / "uneven"
        make_samples(samples, BEHAVIOURS, int(1.4 * steps * BATCH), IMAGES, shortest=1)
        with daemon(folder / "store") as (address, pid):
            for name in OPTIONS:
                waits = folder / "waited"
                parts: dict[str, Part] = {
                    "vectors from a server": Part(
                        ours, samples, name, address, steps, device, str(waits), servers=[pid]
                    ),
                    "ids alone": Part(ours, samples, name, "", steps, device),
                }
                if not missing:
                    parts["FuxiCTR"] = Part(fuxi, samples, name, steps, device)
                if name == "din":
                    parts["reading alone"] = Part(reading, samples, steps)
                    parts["fetching alone"] = Part(fetching, samples, address, steps, servers=[pid])
                taken = run_rounds(parts, rounds)
                for part in parts.values():
                    part.close()
                found: dict[str, Any] = {title: taken[title].rate for title in taken}
                found["waited for vectors"] = float(waits.read_text())
                if not missing:
                    found["vectors / FuxiCTR"] = taken["vectors from a server"].rate / taken["FuxiCTR"].rate
                    found["ids / FuxiCTR"] = taken["ids alone"].rate / taken["FuxiCTR"].rate
                say(name, **found, parts={title: as_dict(part) for title, part in taken.items()})
                say(f"{name}, trainer fit", **whole_fit(samples, name, address, device, folder / f"run-{name}"))
