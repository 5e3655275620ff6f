"""A model with images, its image server, and a scoring server, each in its own process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, run_command
from made_samples import make_samples

ITEMS, IMAGES = 60, 50  # the other items have no image


@dataclass(frozen=True)
class Shop:
    """Where everything is."""

    folder: Path
    samples: Path
    run: Path
    exported: Path
    images: DaemonProcess


class ScoringProcess:
    """A daemon started by ``trainer serve --background``."""

    def __init__(self, folder: Path, *arguments: str):
        self.folder = folder
        command = ["trainer", "serve", *arguments, f"--folder={folder}", "--port=0", "--background", "--json"]
        found = json.loads(run_command(*command).stdout)
        self.address: str = found["address"]
        self.pid: int = found["pid"]
        self.rest_port: int = found["rest_port"]
        self.metrics_port: int = found["metrics_port"]

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def stop(self) -> None:
        run_command("trainer", "stop", f"--folder={self.folder}", check=False)


def make_store(folder: Path, images: int, seed: int = 0) -> Path:
    """A store of vectors, imported."""
    values = np.random.default_rng(seed).normal(size=(images, 8)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image_id": range(images), "vector": values.tolist()}), folder / "vectors.parquet")
    run_command("imgserver", "import", str(folder / "vectors.parquet"), "--name=clip", f"--store={folder / 'store'}")
    return folder / "store"


def train(shop: Path, out: str, address: str, *options: str) -> Path:
    """A run of an epoch."""
    arguments = [f"--samples={shop / 'samples'}", f"--server={address}", "--epochs=1", f"--out={shop / out}"]
    run_command("trainer", "fit", *arguments, "--max-missing=0.9", *options)
    return shop / out


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    samples = make_samples(folder, ITEMS, 1500, {item: item for item in range(IMAGES)})
    images = DaemonProcess(make_store(folder / "images", IMAGES - 5), None)
    run = train(folder, "din", images.address, "--model=din", "--images")
    exported = folder / "din.pt2"
    run_command("trainer", "export", str(run), f"--out={exported}")
    yield Shop(folder, samples, run, exported, images)
    images.stop()


@pytest.fixture(scope="session")
def scoring(shop: Shop) -> Iterator[ScoringProcess]:
    """A server that tests change no state of."""
    found = ScoringProcess(
        shop.folder / "serving",
        *(str(shop.exported), f"--server={shop.images.address}", "--rest-port=0", "--metrics-port=0"),
        "--max-candidates=1000",
    )
    yield found
    found.stop()
