"""How long does a score take under load, what is refused, and what does a switch of models cost?

    python -m benchmarks.serving

DIN with and without pictures and Rocket's light net, trained for a moment (their weights do not matter here), behind
``trainer serve``: 200 candidates and 50 behaviours by id, open-loop load whose times are drawn before (``load.py``), in
turn with an empty handler of the same gRPC server, and with the same ``Scorer`` behind FastAPI where that is installed.
The load comes from this machine, which is stated with its cores and its load.

``fastapi``: candidates a second, ours over FastAPI's. ``goodput_3x``: answers within a second at three times the peak,
over the peak. ``switch_failed``: calls that failed around a switch; ``switch_p99``: 99th percentile in the 10 s around
it over that before. ``offline_difference``: the largest one to ``Scorer``. ``images_ms``: what pictures add at the
median. ``p50_ms`` and ``p99_ms`` are ours at 50 requests a second less those of the empty handler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.fetch import make_store, make_vectors
from benchmarks.load import Answers, Send, by_grpc, by_http, closed, poisson
from benchmarks.parts import daemon, finish
from benchmarks.scoring import IMAGES
from benchmarks.train import ITEMS, make_samples
from crossmedia import Scorer, export_model
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.serving.control import Control

CANDIDATES, BEHAVIOURS, NOW = 200, 50, 1_000
INFER = "/inference.GRPCInferenceService/ModelInfer"


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


def requests(count: int) -> list[Asked]:
    """Users with their behaviours, and candidates, by id alone."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        user = {
            "user_id": str(rng.integers(0, 100)),
            "hist_item_id": [str(one) for one in rng.integers(0, ITEMS, BEHAVIOURS)],
            "hist_action": ["click"] * BEHAVIOURS,
            "hist_time": list(range(BEHAVIOURS)),
        }
        found.append(Asked(user, {"item_id": [str(one) for one in rng.integers(0, ITEMS, CANDIDATES)]}))
    return found


@contextmanager
def process(*arguments: str) -> Iterator[None]:
    """A module of Python as a process of its own, for the time of a block."""
    started = subprocess.Popen([sys.executable, "-m", *arguments])
    try:
        yield
    finally:
        started.terminate()
        started.wait(30)


@contextmanager
def scoring(folder: Path, models: list[Path], server: str, *options: str) -> Iterator[str]:
    """``trainer serve``: its address."""
    arguments = ["serve", *map(str, models), f"--server={server}", "--port=0", f"--folder={folder}", "--json", *options]
    command = [sys.executable, "-m", "crossmedia.trainer", *arguments]
    # In the foreground, so that it is of this session: a scheduler that shares cores by sessions treats both alike.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield json.loads(started.stdout.readline())["address"]
        finally:
            started.terminate()


def train(folder: Path, address: str) -> dict[str, Path]:
    """The models, exported, by name."""
    made = {}
    for name, settings in {
        "din": {"model": "din"},
        "other": {"model": "din", "seed": 1},
        "ids": {"model": "din", "images": False},
        "light": {"model": "rocket", "options": {"light": "embedding_mlp", "booster": "din"}},
    }.items():
        config = FitConfig(str(folder / "data" / "samples"), str(folder / name), server=address, epochs=1)
        fit(replace(config, **settings))  # type: ignore[arg-type]
        made[name] = export_model(folder / name, out=folder / f"{name}.pt2")
    return made


def free_port() -> int:
    """A port at which nobody listens now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def wait_for(send: Send) -> None:
    """Ask until an answer comes."""
    for _ in range(600):
        ended = threading.Event()
        codes: list[str] = []

        def done(code: str, codes: list[str] = codes, ended: threading.Event = ended) -> None:
            codes.append(code)
            ended.set()

        send(0, done)
        if ended.wait(30) and codes == ["OK"]:
            return
        time.sleep(0.1)
    raise RuntimeError("a server did not answer within a minute")


def difference(address: str, model: Path, server: str, every: list[Asked]) -> float:
    """The largest difference between served scores and those of ``Scorer``."""
    scorer = Scorer.load(model, server=server, items="")
    ask: Any = grpc.insecure_channel(address).unary_unary(INFER)
    most = 0.0
    for one in every:
        reply = pb.ModelInferResponse.FromString(ask(one.message(model.stem), timeout=30))
        served = np.frombuffer(reply.raw_output_contents[0], "<f4")
        most = max(most, float(np.abs(served - scorer.score(one.user, one.candidates, NOW)).max()))
    return most


def switched(address: str, send: Send, rate: float, seconds: float) -> Answers:
    """Load with a switch in its middle."""
    timer = threading.Timer(seconds / 2, lambda: Control(address).load("din", file="other.pt2"))
    timer.start()
    found = poisson(send, rate, seconds)
    timer.join()
    return found


def main() -> None:
    """Measure, and print a table and the line of JSON."""
    parser = argparse.ArgumentParser(description="Scores under open-loop load.")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each part of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of 4 s")
    arguments = parser.parse_args()
    rate, rounds = arguments.rate, 1 if arguments.quick else arguments.rounds
    seconds = 4.0 if arguments.quick else arguments.seconds
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        make_store(folder / "store", make_vectors(IMAGES))
        make_samples(folder / "data", BEHAVIOURS, 6_000, IMAGES)
        images, _ = stack.enter_context(daemon(folder / "store"))
        models = train(folder, images)
        served = [models[name] for name in ("din", "ids", "light")]
        address = stack.enter_context(scoring(folder / "serving", served, images))
        every = requests(50)
        sends = {
            name: by_grpc(address, INFER, [one.message(name) for one in every]) for name in ("din", "ids", "light")
        }
        ask: Any = grpc.insecure_channel(address).unary_unary(INFER)
        (folder / "reply").write_bytes(ask(every[0].message("din"), timeout=60))
        port = free_port()
        stack.enter_context(process("benchmarks.serving_peers", "empty", str(port), str(folder / "reply")))
        sends["empty"] = by_grpc(f"127.0.0.1:{port}", INFER, [one.message("din") for one in every])
        if find_spec("fastapi") and find_spec("uvicorn"):
            port = free_port()
            peer = ("benchmarks.serving_peers", "fastapi", str(port), str(models["din"]), images)
            stack.enter_context(process(*peer))
            sends["fastapi"] = by_http(port, "/score", [one.body for one in every])
        for send in sends.values():
            wait_for(send)
            closed(send, 2, 2.0)  # warm
        ratios, parts = measured(sends, rate, seconds, rounds)
        ratios["offline_difference"] = difference(address, models["din"], images, every[:20])
        around = switched(address, sends["din"], max(30.0, rate / 2), 50.0 if not arguments.quick else 34.0)
        middle = (50.0 if not arguments.quick else 34.0) / 2
        ratios["switch_failed"] = len(around.code) - around.code.count("OK")
        near = (middle - 5, middle + 5)
        ratios["switch_p99"] = around.ms(99, between=near) / around.ms(99, between=(2.0, middle - 5))
    load = [round(one, 1) for one in os.getloadavg()]
    finish("serving", ratios, parts=parts, cores=os.cpu_count(), load=load, rate=rate, rounds=rounds)


def measured(
    sends: dict[str, Send], rate: float, seconds: float, rounds: int
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Latencies and peaks of all sides, in turn, round by round; and three times our peak at once."""
    taken: dict[str, dict[str, list[float]]] = {name: {"p50": [], "p99": [], "peak": []} for name in sends}
    goodput, refused = [], []
    for number in range(rounds):
        names = list(sends)[:: 1 if number % 2 else -1]
        for name in names:
            answers = poisson(sends[name], rate, seconds, seed=number)
            taken[name]["p50"].append(answers.ms(50))
            taken[name]["p99"].append(answers.ms(99))
            taken[name]["peak"].append(closed(sends[name], 4, seconds / 2))
        flood = poisson(sends["din"], 3 * taken["din"]["peak"][-1], seconds, seed=number)
        in_time = sum(code == "OK" and took < 1 for code, took in zip(flood.code, flood.took, strict=True))
        goodput.append(in_time / seconds / taken["din"]["peak"][-1])
        refused.append(flood.ms(50, "RESOURCE_EXHAUSTED"))
    parts = {name: {key: statistics.median(values) for key, values in found.items()} for name, found in taken.items()}
    table = Table("", "p50 ms", "p99 ms", "requests/s at most", title=f"{CANDIDATES} candidates, {rate:.0f} requests/s")
    for name, found in parts.items():
        table.add_row(name, *(f"{found[key]:,.2f}" for key in ("p50", "p99", "peak")))
    Console(width=100).print(table)
    ratios = {
        "goodput_3x": statistics.median(goodput),
        "refused_ms": statistics.median(refused),
        "images_ms": parts["din"]["p50"] - parts["ids"]["p50"],
        "p50_ms": parts["din"]["p50"] - parts["empty"]["p50"],
        "p99_ms": parts["din"]["p99"] - parts["empty"]["p99"],
        "light_p50_ms": parts["light"]["p50"] - parts["empty"]["p50"],
    }
    if "fastapi" in parts:
        ratios["fastapi"] = parts["din"]["peak"] / parts["fastapi"]["peak"]
    return ratios, parts


if __name__ == "__main__":
    main()
