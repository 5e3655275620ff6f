"""How long does a score take under load, what is refused, and what do a switch of models and a killed copy cost?

    python -m benchmarks.serving [latency] [overload] [switch] [copies] [memory]

Models trained for a moment (their weights do not matter here) behind ``trainer serve``: 200 candidates and 50
behaviours by id, open-loop load whose times are drawn before (``load.py``). The load comes from this machine, which is
stated with its cores and its load. Without names of parts all are run but ``memory``, which takes long.

``latency``: DIN with and without pictures, Rocket's light net and ``concepts`` (of ids alone), in turn with an empty
handler of the same gRPC server, with the same ``Scorer`` behind FastAPI, and with a DIN of FuxiCTR's layers behind our
door, where those are installed. ``fastapi``: candidates a second, ours over FastAPI's; ``fuxictr`` likewise.
``images_ms``: what pictures add at the median. ``p50_ms``, ``p99_ms``: ours at ``--rate`` less those of the empty
handler. ``offline_difference``: the largest one to ``Scorer``. ``cpu_ms``: of a core, for a request of DIN.

``overload``: three times the peak, with a deadline of a second. ``goodput_3x``: answers in time over the peak;
``refused_ms``: median of a refusal; ``beside_ms``: of calls of the empty handler meanwhile.

``switch``: ``switch_failed``: calls that failed around a switch of models at half of the peak; ``switch_p99``: 99th
percentile around it over that before, of 500 requests each.

``copies``: ``processes``: requests a second at most, of two processes that share the cores over one of threads;
``cores_for_10000_rps``: how many cores so many requests a second need by that of the two.
``copies_failed``: calls that failed when one of two copies was killed (SIGKILL) in the middle of the load, by a client
with gRPC's own ``round_robin`` and retries.

``memory``: ``rss_mib_a_window``: slope of the resident memory over the last 9 of 10 windows of 10,000 small requests.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load import Answers, Send, by_grpc, by_http, closed, poisson
from benchmarks.parts import cpu_seconds, finish
from benchmarks.serving_setup import CANDIDATES, CORES, INFER, NOW, Shop, peer, requests, scoring, shop, warm
from crossmedia import Scorer
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.serving.control import Control

Found = tuple[dict[str, float], dict[str, Any]]  # ratios, and what else is told
REFUSED = "RESOURCE_EXHAUSTED"
# Copies in turn, and another one where one has gone: what a caller gives gRPC as its service config.
COPIES = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def difference(address: str, model: Path, server: str, asked: list[Any]) -> float:
    """The largest difference between served scores and those of ``Scorer``."""
    scorer, most = Scorer.load(model, server=server, items=""), 0.0
    with grpc.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary(INFER)
        for one in asked:
            reply = pb.ModelInferResponse.FromString(ask(one.message(model.stem), timeout=30))
            served = np.frombuffer(reply.raw_output_contents[0], "<f4")
            most = max(most, float(np.abs(served - scorer.score(one.user, one.candidates, NOW)).max()))
    return most


def peers(given: Shop, reply: Path, stack: ExitStack) -> dict[str, Send]:
    """Who is compared with, as far as they are installed."""
    messages = [one.message("din") for one in given.asked]

    def at(port: int) -> Send:
        return by_grpc(f"127.0.0.1:{port}", INFER, messages)

    found = {"empty": at(stack.enter_context(peer("empty", str(reply))))}
    if find_spec("fastapi") and find_spec("uvicorn"):
        port = stack.enter_context(peer("fastapi", str(given.model("din")), given.images))
        found["fastapi"] = by_http(port, "/score", [one.body for one in given.asked])
    if find_spec("fuxictr"):
        found["fuxictr"] = at(stack.enter_context(peer("fuxictr", str(given.folder / "data" / "items.parquet"))))
    for send in found.values():
        warm(send)
    return found


def latency(given: Shop) -> Found:
    """Latencies and peaks of all sides, in turn, round by round."""
    names = ("din", "ids", "light", "concepts")
    taken: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        models = [given.model(name) for name in names]
        server = stack.enter_context(scoring(given.folder / "serving", models, given.images))
        sends = {name: given.send(server.address, name) for name in names}
        with grpc.insecure_channel(server.address) as channel:
            ask: Any = channel.unary_unary(INFER)
            (given.folder / "reply").write_bytes(ask(given.asked[0].message("din"), timeout=60))
        sends |= peers(given, given.folder / "reply", stack)
        apart = difference(server.address, given.model("din"), given.images, given.asked[:20])
        cpu, answered = 0.0, 0.0
        for number in range(given.rounds):
            for name in list(sends)[:: 1 if number % 2 else -1]:
                before = cpu_seconds(server.process.pid)
                answers = poisson(sends[name], given.rate, given.seconds, seed=number)
                if name == "din":
                    cpu, answered = cpu + cpu_seconds(server.process.pid) - before, answered + len(answers.code)
                peak = closed(sends[name], 2 * CORES, given.seconds / 2)
                into = taken.setdefault(name, {"p50": [], "p99": [], "peak": []})
                for key, value in {"p50": answers.ms(50), "p99": answers.ms(99), "peak": peak}.items():
                    into[key].append(value)
    parts = {name: {key: statistics.median(values) for key, values in found.items()} for name, found in taken.items()}
    show(parts, given.rate)
    empty, din = parts["empty"], parts["din"]
    ratios = {f"{name}_p50_ms": parts[name]["p50"] - empty["p50"] for name in ("ids", "light", "concepts")}
    ratios |= {"p50_ms": din["p50"] - empty["p50"], "p99_ms": din["p99"] - empty["p99"]}
    ratios |= {
        "concepts_p99_ms": parts["concepts"]["p99"] - empty["p99"],
        "images_ms": din["p50"] - parts["ids"]["p50"],
    }
    ratios |= {name: din["peak"] / parts[name]["peak"] for name in ("fastapi", "fuxictr") if name in parts}
    ratios |= {"offline_difference": apart, "cpu_ms": 1e3 * cpu / answered}
    return ratios, {"parts": parts}


def show(parts: dict[str, dict[str, float]], rate: float) -> None:
    """A table of what each side took; who is not installed is named."""
    table = Table("", "p50 ms", "p99 ms", "requests/s at most", title=f"{CANDIDATES} candidates, {rate:.0f} requests/s")
    for name, found in parts.items():
        table.add_row(name, *(f"{found[key]:,.2f}" for key in ("p50", "p99", "peak")))
    for name in ("fastapi", "fuxictr"):
        if name not in parts:
            table.add_row(name, "not", "installed", "here")
    Console(width=100).print(table)


def overload(given: Shop) -> Found:
    """Three times the peak, with an empty handler of the same server beside."""
    goodput, refused, beside, told = [], [], [], []
    with scoring(given.folder / "flooded", [given.model("din")], given.images) as server, ExitStack() as stack:
        send, hurried = given.send(server.address, "din"), given.send(server.address, "din", 1.0)
        (given.folder / "nothing").write_bytes(b"")
        port = stack.enter_context(peer("empty", str(given.folder / "nothing")))
        idle = by_grpc(f"127.0.0.1:{port}", INFER, [b""])
        warm(idle)
        for number in range(given.rounds):
            peak = closed(send, 2 * CORES, given.seconds / 2)
            other: list[Answers] = []
            thread = threading.Thread(target=lambda into=other: into.append(poisson(idle, 20, given.seconds)))
            thread.start()
            flood = poisson(hurried, 3 * peak, given.seconds, seed=number)
            thread.join()
            goodput.append(flood.code.count("OK") / given.seconds / peak)
            refused.append(flood.ms(50, REFUSED))
            beside.append(other[0].ms(50))
            told.append({"peak": peak, "codes": {code: flood.code.count(code) for code in sorted(set(flood.code))}})
    medians = map(statistics.median, (goodput, refused, beside))
    return dict(zip(("goodput_3x", "refused_ms", "beside_ms"), medians, strict=True)), {"floods": told}


def switch(given: Shop) -> Found:
    """A switch in the middle of the load."""
    given.model("other")
    with scoring(given.folder / "switching", [given.model("din")], given.images) as server:
        send = given.send(server.address, "din")
        rate = closed(send, 2 * CORES, given.seconds / 2) / 2
        window = max(10.0, 520 / rate)  # 500 requests, give or take
        middle = 2.0 + 1.5 * window
        timer = threading.Timer(middle, lambda: Control(server.address).load("din", file="other.pt2"))
        timer.start()
        found = poisson(send, rate, middle + window / 2)
        timer.join()
    before, around = found.ms(99, between=(2.0, 2.0 + window)), found.ms(99, between=(2.0 + window, middle + window))
    ratios = {"switch_failed": float(len(found.code) - found.code.count("OK")), "switch_p99": around / before}
    return ratios, {"switch": {"requests": len(found.code), "rate": rate, "window_s": window, "before_ms": before}}


def copies(given: Shop) -> Found:
    """Two processes of a thread each beside one of two threads; then one of the two is killed under load."""
    model, messages = given.model("din"), [each.message("din") for each in given.asked]
    with ExitStack() as stack:
        both = [
            stack.enter_context(scoring(given.folder / name, [model], given.images, f"--threads={CORES // 2 or 1}"))
            for name in ("one", "two")
        ]
        alone = stack.enter_context(scoring(given.folder / "alone", [model], given.images))
        options = [("grpc.service_config", json.dumps(COPIES))]
        address = ",".join(server.address for server in both)
        send = by_grpc(grpc.insecure_channel(f"ipv4:{address}", options=options), INFER, messages)
        threads = given.send(alone.address, "din")
        warm(send)
        peaks: list[tuple[float, float]] = []
        for number in range(given.rounds):
            pair = [closed(each, 2 * CORES, given.seconds / 2) for each in (send, threads)[:: 1 if number % 2 else -1]]
            peaks.append((pair[0], pair[1]) if number % 2 else (pair[1], pair[0]))
        timer = threading.Timer(given.seconds / 2, both[1].process.kill)
        timer.start()
        found = poisson(send, given.rate / 2, given.seconds)
        timer.join()
    codes = {code: found.code.count(code) for code in sorted(set(found.code))}
    ratios = {"processes": statistics.median(two / one for two, one in peaks)}
    return ratios | {"copies_failed": float(len(found.code) - found.code.count("OK"))}, {
        "copies": codes,
        "peaks": peaks,
    }


def memory(given: Shop, windows: int = 10, size: int = 10_000) -> Found:
    """Resident memory after each window of small requests."""
    with scoring(given.folder / "long", [given.model("din")], given.images) as server:
        small = [one.message("din") for one in requests(50, candidates=5, behaviours=5)]
        send, taken = by_grpc(server.address, INFER, small), []
        warm(send)
        process = psutil.Process(server.process.pid)
        for _ in range(windows):
            many(send, size)
            taken.append(process.memory_info().rss / (1 << 20))
    slope = float(np.polyfit(range(windows - 1), taken[1:], 1)[0])
    return {"rss_mib_a_window": slope}, {"rss_mib": [round(one, 1) for one in taken]}


def many(send: Send, count: int) -> None:
    """So many requests, four at a time."""
    free = threading.Semaphore(2 * CORES)
    for number in range(count):
        free.acquire()
        send(number, lambda code: free.release())
    for _ in range(2 * CORES):
        free.acquire()


PARTS: dict[str, Callable[[Shop], Found]] = {
    "latency": latency,
    "overload": overload,
    "switch": switch,
    "copies": copies,
    "memory": memory,
}


def main() -> None:
    """Measure, and print a table and the line of JSON."""
    parser = argparse.ArgumentParser(description="Scores under open-loop load.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all but memory when not given")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep samples and models there, for parts that are run one by one")
    parser.add_argument("--quick", action="store_true", help="one round of 4 s")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {sorted(unknown)[0]!r}; there are: {', '.join(PARTS)}")
    rounds, seconds = (1, 4.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    ratios: dict[str, float] = {}
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        with shop(folder, arguments.rate, seconds, rounds) as given:
            for name in arguments.parts or [name for name in PARTS if name != "memory"]:
                found, more = PARTS[name](given)
                ratios, told = ratios | found, told | more
    load = [round(one, 1) for one in os.getloadavg()]
    finish("serving", ratios, **told, cores=CORES, load=load, rate=arguments.rate, rounds=rounds)


if __name__ == "__main__":
    main()
