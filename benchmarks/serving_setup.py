"""What ``benchmarks.serving`` asks, and whom: requests in each form, models, and servers as processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fetch import make_store, make_vectors
from benchmarks.load import Send, by_grpc, closed
from benchmarks.parts import daemon
from benchmarks.scoring import IMAGES
from benchmarks.train import ITEMS, make_samples
from crossmedia import export_model
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.fit import FitConfig, fit

CANDIDATES, BEHAVIOURS, NOW = 200, 50, 1_000
INFER = "/inference.GRPCInferenceService/ModelInfer"
MODELS: dict[str, dict[str, Any]] = {
    "din": {"model": "din"},
    "other": {"model": "din", "seed": 1},
    "ids": {"model": "din", "images": False},
    "light": {"model": "rocket", "options": {"light": "embedding_mlp", "booster": "din"}},
    "concepts": {"model": "concepts", "images": False},
}
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Asked:
    """A request in each form."""

    user: dict[str, Any]
    candidates: dict[str, Any]

    def message(self, model: str) -> bytes:
        """For the scoring server."""
        request = pb.ModelInferRequest(model_name=model)
        request.parameters["now"].int64_param = NOW
        for name, values in (self.user | self.candidates).items():
            cells = values if isinstance(values, list) else [values]
            whole = isinstance(cells[0], int)
            request.inputs.add(name=name, datatype="INT64" if whole else "BYTES", shape=[len(cells)])
            texts = [] if whole else [one.encode() for one in cells]
            raw = np.array(cells, "<i8").tobytes() if whole else b""
            request.raw_input_contents.append(raw or b"".join(len(one).to_bytes(4, "little") + one for one in texts))
        return request.SerializeToString()

    @property
    def body(self) -> bytes:
        """For FastAPI."""
        return json.dumps({"user": self.user, "candidates": self.candidates, "now": NOW}).encode()


def requests(count: int, candidates: int = CANDIDATES, behaviours: int = BEHAVIOURS) -> list[Asked]:
    """Users with their behaviours, and candidates, by id alone."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        user = {
            "user_id": str(rng.integers(0, 100)),
            "hist_item_id": [str(one) for one in rng.integers(0, ITEMS, behaviours)],
            "hist_action": ["click"] * behaviours,
            "hist_time": list(range(behaviours)),
        }
        found.append(Asked(user, {"item_id": [str(one) for one in rng.integers(0, ITEMS, candidates)]}))
    return found


@dataclass(frozen=True)
class Shop:
    """Models and what they are asked.

    Attributes:
        folder: of all files.
        images: address of the image server.
        rate: requests a second.
        seconds: of each measurement.
        rounds: of all.
    """

    folder: Path
    images: str
    rate: float
    seconds: float
    rounds: int

    @cached_property
    def asked(self) -> list[Asked]:
        """Fifty requests."""
        return requests(50)

    def model(self, name: str) -> Path:
        """An exported model, trained for a moment when it is first needed: its weights do not matter here."""
        out = self.folder / f"{name}.pt2"
        if not out.exists():
            run = self.folder / f"run-{name}"
            config = FitConfig(str(self.folder / "data" / "samples"), str(run), server=self.images, epochs=1)
            fit(replace(config, **MODELS[name]))
            export_model(run, out=out)
        return out

    def send(self, address: str, model: str, timeout_s: float = 30.0) -> Send:
        """Requests to a scoring server, which is warm when this returns."""
        messages = [one.message(model) for one in self.asked]
        send = by_grpc(address, INFER, messages, timeout_s)
        warm(by_grpc(address, INFER, messages))
        return send


@contextmanager
def shop(folder: Path, rate: float, seconds: float, rounds: int) -> Iterator[Shop]:
    """Samples, and an image server of their vectors; what is in the folder already is taken as it is."""
    if not (folder / "store").exists():
        make_store(folder / "store", make_vectors(IMAGES))
    if not (folder / "data").exists():
        make_samples(folder / "data", BEHAVIOURS, 6_000, IMAGES)
    with daemon(folder / "store") as (images, _):
        yield Shop(folder, images, rate, seconds, rounds)


@dataclass(frozen=True)
class Started:
    """A scoring server: where it answers, and its process."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def scoring(folder: Path, models: list[Path], server: str, *options: str) -> Iterator[Started]:
    """``trainer serve`` for the time of a block."""
    arguments = ["serve", *map(str, models), f"--server={server}", "--port=0", f"--folder={folder}", "--json", *options]
    folder.mkdir(exist_ok=True)
    # In the foreground, so that it is of this session: a scheduler that shares cores by sessions treats both alike.
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "crossmedia.trainer", *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield Started(json.loads(process.stdout.readline())["address"], process)
        finally:
            process.terminate()


@contextmanager
def peer(kind: str, *arguments: str) -> Iterator[int]:
    """One of ``serving_peers`` for the time of a block: its port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = int(opened.getsockname()[1])
    with subprocess.Popen([sys.executable, "-m", "benchmarks.serving_peers", kind, str(port), *arguments]) as process:
        try:
            yield port
        finally:
            process.terminate()


def warm(send: Send) -> None:
    """Ask until answers come, and then for a moment more."""
    for _ in range(600):
        ended = threading.Event()
        codes: list[str] = []

        def done(code: str, codes: list[str] = codes, ended: threading.Event = ended) -> None:
            codes.append(code)
            ended.set()

        send(0, done)
        if ended.wait(30) and codes == ["OK"]:
            closed(send, CORES, 2.0)
            return
        time.sleep(0.1)
    raise RuntimeError("a server did not answer within a minute")
