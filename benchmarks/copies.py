"""Do callers notice when one of three servers is killed?

    python -m benchmarks.copies

Three servers with the same vectors, and one client that goes round them (``a,b,c``), four callers at a time, 1,000 ids
a call. First as fast as it goes, for the peak; then for 60 seconds at a part of it, while one server is killed with
SIGKILL a third of the way in and is started again after another sixth.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.fetch import make_store, make_vectors
from benchmarks.parts import copy_store, daemon, finish
from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.client import ImageClient

COPIES, CALLERS, IDS, VECTORS = 3, 4, 1_000, 100_000
LOAD = 0.6  # of the peak
BACK_AFTER_S = 3.0  # a restarted server is healthy and found again


@dataclass
class Phase:
    """What callers saw.

    Attributes:
        seconds: of each call that was answered.
        failed: calls that raised.
        retries: calls that the client made again.
        ids: answered by each server.
        length_s: of the phase.
    """

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    retries: int = 0
    ids: list[int] = field(default_factory=list)
    length_s: float = 0.0


def call_for(client: ImageClient, length_s: float, rate: float | None, phase: Phase) -> None:
    """Callers ask for random ids for a while, all together at ``rate`` calls a second, or as fast as it goes."""
    started, lock, numbers = time.perf_counter(), threading.Lock(), iter(range(10**9))
    retries = client.stats.retries

    def caller() -> None:
        while True:
            with lock:
                number = next(numbers)
            due = started + (number / rate if rate else 0.0)
            if max(due, time.perf_counter()) > started + length_s:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            ids = np.random.default_rng(number).integers(0, VECTORS, IDS)
            begun = time.perf_counter()
            try:
                client.get(ids)
                phase.seconds.append(time.perf_counter() - begun)
            except CrossMediaError as error:
                phase.failed.append(f"{type(error).__name__}: {error}")

    with ThreadPoolExecutor(CALLERS) as pool:
        for done in [pool.submit(caller) for _ in range(CALLERS)]:
            done.result()
    phase.retries = client.stats.retries - retries
    phase.length_s = time.perf_counter() - started


def answered(addresses: list[str], up: list[bool]) -> list[int]:
    """Ids that each server answered since its start; 0 for one that is down."""
    found = []
    for address, there in zip(addresses, up, strict=True):
        if there:
            with ImageClient(address) as client:
                found.append(client.info().counters.ids_requested)
        else:
            found.append(0)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="One of three servers is killed under load.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="12 seconds")
    arguments = parser.parse_args()
    seconds = 12.0 if arguments.quick else arguments.seconds
    phases: dict[str, Phase] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        stores = [Path(folder) / f"store{number}" for number in range(COPIES)]
        make_store(stores[0], make_vectors(VECTORS))
        for other in stores[1:]:
            copy_store(stores[0], other)
        mortal = ExitStack()
        running = [(mortal if n == 1 else servers).enter_context(daemon(store)) for n, store in enumerate(stores)]
        addresses = [address for address, _ in running]
        up = [True] * COPIES
        with ImageClient(",".join(addresses)) as client:

            def measured(name: str, length_s: float, rate: float | None) -> Phase:
                phase = phases[name] = Phase()
                before = answered(addresses, up)
                call_for(client, length_s, rate, phase)
                phase.ids = [now - then for now, then in zip(answered(addresses, up), before, strict=True)]
                return phase

            peak = measured("as fast as it goes", seconds / 6, None)
            rate = LOAD * len(peak.seconds) / peak.length_s
            measured("three servers", seconds / 3, rate)
            killer = threading.Timer(1.0, lambda: os.kill(running[1][1], signal.SIGKILL))
            killer.start()
            up[1] = False
            measured("one is killed", seconds / 6, rate)
            with suppress(subprocess.CalledProcessError):  # there is nothing to stop
                mortal.close()
            port = addresses[1].rpartition(":")[2]
            servers.enter_context(daemon(stores[1], f"--port={port}"))
            time.sleep(BACK_AFTER_S)
            up[1] = True
            back = measured("it is back", seconds / 2, rate)
    table = Table("", "calls/s", "calls", "failed", "retries", "p50 ms", "p99 ms", "ids of each server, %")
    rows = []
    for name, phase in phases.items():
        p50, p99 = (1e3 * float(np.quantile(phase.seconds, q)) for q in (0.5, 0.99))
        shares = [round(100 * count / max(sum(phase.ids), 1), 1) for count in phase.ids]
        row = {"phase": name, "calls_per_s": len(phase.seconds) / phase.length_s, "calls": len(phase.seconds)}
        row |= {"failed": len(phase.failed), "retries": phase.retries, "p50_ms": p50, "p99_ms": p99, "shares": shares}
        rows.append(row)
        counts = (str(row["calls"]), str(row["failed"]), str(row["retries"]))
        table.add_row(
            name, f"{row['calls_per_s']:,.0f}", *counts, f"{p50:.1f}", f"{p99:.1f}", " / ".join(map(str, shares))
        )
    Console(width=130).print(table)
    for error in sorted({error for phase in phases.values() for error in phase.failed}):
        print(error)
    failed = sum(len(phase.failed) for phase in phases.values())
    share_back = back.ids[1] / max(sum(back.ids), 1) * COPIES
    finish("copies", {"load": LOAD, "failed": failed, "share_of_the_restarted": share_back}, phases=rows)


if __name__ == "__main__":
    main()
