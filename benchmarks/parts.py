"""What every benchmark needs: parts in processes of their own, run in turn, and a table of what they took.

A part is a function in its own process, called once a round, so that its CPU seconds and its memory are its own. All
parts of a benchmark run in each round, one after the other, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

Work = Callable[[], int]


@dataclass
class Taken:
    """What one part did: items, seconds and CPU seconds a round, peak memory of client and server, and what it told.

    A part tells what it has in the attribute ``told`` of its work.
    """

    items: list[int] = field(default_factory=list)
    told: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    client_cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    client_peak: int = 0
    server_peak: int = 0

    @property
    def rates(self) -> list[float]:
        """Items a second, a round each."""
        return [n / s for n, s in zip(self.items, self.seconds, strict=True)]

    @property
    def rate(self) -> float:
        """Median of ``rates``."""
        return statistics.median(self.rates)

    def cpu_us(self, cpu: Sequence[float]) -> float:
        """CPU microseconds an item, over all rounds."""
        return 1e6 * sum(cpu) / sum(self.items)


class Part:
    """Work in a process of its own.

    Args:
        make: called there with ``arguments``; returns the work of one round, which returns how many items it did.
        arguments: of ``make``; must be picklable.
        servers: processes whose CPU seconds and memory count as the server's.
    """

    def __init__(self, make: Callable[..., Work], *arguments: Any, servers: Sequence[int] = ()):
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve_rounds, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._servers = servers
        self.taken = Taken()
        self._ask()  # made, and a first round, which warms up

    def _ask(self) -> dict[str, Any]:
        self._pipe.send("round")
        found: dict[str, Any] = self._pipe.recv()
        if "error" in found:
            raise RuntimeError(found["error"])
        return found

    def round(self) -> None:
        """Do the work once, and note what it took."""
        before = sum(cpu_seconds(pid) for pid in self._servers)
        found = self._ask()
        taken = self.taken
        taken.items.append(int(found["items"]))
        taken.told.append(found["told"])
        taken.seconds.append(found["seconds"])
        taken.client_cpu.append(found["cpu"])
        taken.server_cpu.append(sum(cpu_seconds(pid) for pid in self._servers) - before)
        taken.client_peak = int(found["peak"])
        taken.server_peak = sum(peak_bytes(pid) for pid in self._servers)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        self._process.kill()


def _serve_rounds(pipe: Any, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    work: Work | None = None
    told: dict[str, Any]
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            work = work or make(*arguments)
            cpu, started = time.process_time(), time.perf_counter()
            items = work()
            seconds = time.perf_counter() - started
            cpu = time.process_time() - cpu
            told = {"items": items, "seconds": seconds, "cpu": cpu, "peak": peak_bytes(os.getpid())}
            told["told"] = getattr(work, "told", {})
        except Exception as error:  # tell the parent, which otherwise would wait
            told = {"error": f"{type(error).__name__}: {error}"}
        pipe.send(told)


def run_rounds(parts: dict[str, Part], rounds: int) -> dict[str, Taken]:
    """Every part once a round, in turn; the order is reversed every other round."""
    for number in range(rounds):
        for part in list(parts.values())[:: 1 if number % 2 else -1]:
            part.round()
    return {name: part.taken for name, part in parts.items()}


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, its children included."""
    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)])


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def show(title: str, taken: dict[str, Taken], unit: str, scale: float = 1.0) -> None:
    """Print what every part took."""
    headings = ("", f"{unit} min", "median", "max", "CPU µs client", "server", "MiB client", "server")
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for name, part in taken.items():
        rates = [f"{rate / scale:,.2f}" for rate in (min(part.rates), part.rate, max(part.rates))]
        cpu = [f"{part.cpu_us(part.client_cpu):,.2f}", f"{part.cpu_us(part.server_cpu):,.2f}"]
        peak = [f"{part.client_peak >> 20:,}", f"{part.server_peak >> 20:,}"]
        table.add_row(name, *rates, *cpu, *peak)
    Console(width=120).print(table)


def as_dict(taken: Taken) -> dict[str, Any]:
    """For the JSON line."""
    return {
        "rate": [round(rate, 3) for rate in (min(taken.rates), taken.rate, max(taken.rates))],
        "client_cpu_us": round(taken.cpu_us(taken.client_cpu), 4),
        "server_cpu_us": round(taken.cpu_us(taken.server_cpu), 4),
        "client_peak_bytes": taken.client_peak,
        "server_peak_bytes": taken.server_peak,
    }


def finish(benchmark: str, ratios: dict[str, float], **more: Any) -> None:
    """Print the one line of JSON that ends a benchmark."""
    print(json.dumps({"benchmark": benchmark, "ratios": ratios, **more}))


def copy_store(source: Path, target: Path) -> None:
    """A copy; cp keeps the holes in row files, which Python's copytree would fill."""
    subprocess.run(["cp", "-a", source, target], check=True)


@contextmanager
def daemon(store: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Our image server over ``store``, healthy: its address and its process.

    It is a child of this process, as every other server of a benchmark is: in the background it would be in a session
    of its own, which the kernel gives a share of its own of the processor.
    """
    command = [sys.executable, "-m", "crossmedia.imgserver"]
    arguments = ["serve", f"--store={store}", "--port=0", "--json", *options]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout is not None
        try:
            found = json.loads(running.stdout.readline())
            subprocess.run([*command, "health", f"--store={store}", "--wait"], check=True, capture_output=True)
            yield found["address"], found["pid"]
        finally:
            running.terminate()
