"""Does the server stay as it is when everything happens at once, for an hour?

    python -m benchmarks.soak --minutes 60 --out soak.png

The demo's photos and samples. Callers ask for stored images, for photos that nobody embedded, and for ids that do not
exist; new photos come into the catalogue and into ``PutImages``; precompute embeds what is there; another version
becomes active; models are trained on vectors and with a head that learns. Every few seconds: the daemon's memory, open
files and threads, and the time of the calls since the last look. The picture is drawn again with each look.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import psutil
from PIL import Image
from rich.console import Console

from benchmarks.parts import daemon, finish
from crossmedia.imgserver.client import ImageClient

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "grocery"
PHOTOS = EXAMPLE / "images"
LOOK_S, CALLERS, IDS, PAUSE_S = 10.0, 3, 200, 0.02
WARM_UP = 0.25  # of the time: what a process takes once is no leak
NEW_PHOTOS, ROUND_S = 20, 45.0
FIRST_NEW, FIRST_PUT, NOWHERE = 1_000, 1_000_000, 2_000_000
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Look:
    """What was seen at one moment.

    Attributes:
        minute: since the start.
        resident: bytes of the daemon.
        files: that it has open.
        threads: that it runs.
        calls: since the last look.
        p50_ms, p99_ms: of those.
    """

    minute: float
    resident: int
    files: int
    threads: int
    calls: int
    p50_ms: float
    p99_ms: float


@dataclass
class Happened:
    """What the work did: seconds of each call, how often each thing was done, and errors by the start of their text."""

    seconds: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        """So many more of something."""
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + number

    def failed(self, error: Exception | str) -> None:
        """One more error."""
        with self.lock:
            text = f"{type(error).__name__}: {error}"[:160] if isinstance(error, Exception) else error[:160]
            self.errors[text] = self.errors.get(text, 0) + 1


class Soak:
    """A daemon's surroundings: everybody who works with it.

    Args:
        folder: for everything.
        address: of the daemon.
        happened: what is told.
    """

    def __init__(self, folder: Path, address: str, happened: Happened):
        self.folder, self.address, self.happened = folder, address, happened
        self.store, self.catalogue = folder / "store", folder / "photos"
        self.newest = FIRST_NEW
        self.over = threading.Event()

    def command(self, what: str, *arguments: str) -> str:
        """A command of ours, counted; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False
        )
        if done.returncode:
            self.happened.failed(f"{what}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ''}")
        else:
            self.happened.count(what)
        return done.stdout

    def ask(self, seed: int) -> None:
        """Fetch, each time with a client that follows the active version."""
        rng = np.random.default_rng([seed, time.time_ns()])
        with ImageClient(self.address, timeout_s=30) as client:
            for _ in range(50):
                known = rng.choice(243, IDS - 4)
                others = [
                    self.newest - 1 - rng.integers(3),
                    FIRST_PUT + rng.integers(50),
                    NOWHERE + rng.integers(9),
                    -1,
                ]
                started = time.perf_counter()
                found = client.get(np.concatenate([known, others]))
                self.happened.seconds.append(time.perf_counter() - started)
                self.happened.count("vectors", int(found.ok.sum()))
                if self.over.wait(PAUSE_S):
                    return

    def bring(self, number: int) -> None:
        """New photos: some into the catalogue, some by the wire; then precompute."""
        rng = random.Random(number)
        for _ in range(NEW_PHOTOS):
            (self.catalogue / f"{self.newest}.jpg").write_bytes(_crop(rng))
            self.newest += 1
        with ImageClient(self.address, timeout_s=30) as client:
            client.put({FIRST_PUT + rng.randrange(50): _crop(rng) for _ in range(4)})
        self.happened.count("photos brought", NEW_PHOTOS + 4)
        time.sleep(ROUND_S / 3)  # time for callers to ask for them first
        self.command("precompute", "imgserver", "precompute", f"--store={self.store}", f"--catalogue={self.catalogue}")
        self.over.wait(ROUND_S / 2)

    def change(self, number: int) -> None:
        """Make another version the active one."""
        versions = ("imgserver", "versions", f"--store={self.store}")
        told = json.loads(self.command("listings", *versions, "--json"))
        names = [entry["name"] for entry in told if entry["kind"] == "vector"]
        self.command("version changes", *versions, f"--activate={names[number % len(names)]}")
        self.over.wait(ROUND_S)

    def train(self, number: int) -> None:
        """Train a model: on vectors, then with a head that learns."""
        head = ("frozen", "learn")[number % 2]
        options = (f"--samples={self.folder / 'samples'}", f"--server={self.address}", "--epochs=1", f"--head={head}")
        out = self.folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        self.command(f"models trained, {head}", "trainer", "fit", *options, f"--out={out}")
        self.over.wait(ROUND_S / 3)

    def again(self, work: Callable[[int], None]) -> None:
        """Do some work until the end; an error is noted and does not end it."""
        for number in itertools.count():
            if self.over.is_set():
                return
            try:
                work(number)
            except Exception as error:  # whatever it is, a thread that ends would be load that is missing
                self.happened.failed(error)
                self.over.wait(0.5)


def _crop(rng: random.Random) -> bytes:
    """A photo that nobody has: a crop of one of the demo's."""
    image = Image.open(rng.choice(sorted(PHOTOS.iterdir()))).convert("RGB")
    left, top = rng.randrange(20), rng.randrange(20)
    out = io.BytesIO()
    image.crop((left, top, image.width - rng.randrange(20), image.height - rng.randrange(20))).save(out, "jpeg")
    return out.getvalue()


def prepare(folder: Path) -> None:
    """A store with two versions, and samples."""

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    shutil.copytree(PHOTOS, folder / "photos")
    precompute = (
        "-m",
        "crossmedia.imgserver",
        "precompute",
        f"--store={folder / 'store'}",
        f"--catalogue={folder / 'photos'}",
    )
    run(*precompute)
    run(*precompute, "--new-head", "--dim=32")
    run(str(EXAMPLE / "simulate.py"), f"--out={folder / 'logs'}", "--seed=1")
    shutil.copy(EXAMPLE / "samples.toml", folder / "logs")
    run("-m", "crossmedia.features", "build", str(folder / "logs" / "samples.toml"), f"--out={folder / 'samples'}")


def draw(looks: list[Look], title: str, out: Path) -> None:
    """Four curves over time."""
    minutes = [look.minute for look in looks]
    files, threads = [float(look.files) for look in looks], [float(look.threads) for look in looks]
    panels: list[tuple[str, list[list[float]], list[str]]] = [
        ("daemon's memory, MiB", [[look.resident / 2**20 for look in looks]], [""]),
        (
            "open files, threads",
            [files, threads],
            ["files", "threads"],
        ),
        ("time of a call, ms", [[look.p50_ms for look in looks], [look.p99_ms for look in looks]], ["p50", "p99"]),
        ("calls a second", [[look.calls / LOOK_S for look in looks]], [""]),
    ]
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 8), sharex=True)
    for axis, (name, curves, labels) in zip(axes, panels, strict=True):
        for curve, label in zip(curves, labels, strict=True):
            axis.plot(minutes, curve, label=label, linewidth=1)
        axis.set_ylim(bottom=0)
        axis.set_title(name, fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        if labels[0]:
            axis.legend(fontsize=8, frameon=False, loc="upper right")
    axes[-1].set_xlabel("minutes")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def slope(looks: list[Look], what: Callable[[Look], float]) -> float:
    """How much something grows in an hour, after the warm-up, by least squares."""
    late = looks[int(len(looks) * WARM_UP) :]
    return float(np.polyfit([look.minute / 60 for look in late], [what(look) for look in late], 1)[0])


def look_at(process: psutil.Process, started: float, happened: Happened) -> Look:
    """What is to be seen now."""
    with happened.lock:
        seconds, happened.seconds = happened.seconds, []
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3 if seconds else (0.0, 0.0)
    with process.oneshot():
        resident, files, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
    return Look((time.monotonic() - started) / 60, resident, files, threads, len(seconds), float(p50), float(p99))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="Everything at once, for a long time.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("soak.png"))
    arguments = parser.parse_args()
    happened, looks = Happened(), list[Look]()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with daemon(folder / "store", f"--catalogue={folder / 'photos'}", "--threads=1") as (address, pid):
            soak, process, started = Soak(folder, address, happened), psutil.Process(pid), time.monotonic()
            works: list[Callable[[int], None]] = [soak.bring, soak.change, soak.train, *[soak.ask] * CALLERS]
            threads = [threading.Thread(target=soak.again, args=(work,), daemon=True) for work in works]
            for thread in threads:
                thread.start()
            while time.monotonic() - started < 60 * arguments.minutes:
                time.sleep(LOOK_S)
                looks.append(look_at(process, started, happened))
                last = looks[-1]
                console.print(
                    f"{last.minute:5.1f} min  {last.resident / 2**20:7.1f} MiB  {last.files} files  "
                    f"{last.threads} threads  p50 {last.p50_ms:.1f} ms  p99 {last.p99_ms:.1f} ms  {last.calls} calls"
                )
                if len(looks) > 1:
                    draw(looks, f"everything at once for {last.minute:.0f} minutes", arguments.out)
            soak.over.set()
            for thread in threads:
                thread.join(120)
    grown = slope(looks, lambda look: look.resident / 2**20)
    for what, number in sorted(happened.counts.items()):
        console.print(f"{number:12,} {what}")
    console.print(f"{sum(happened.errors.values()):12,} errors")
    for text, number in happened.errors.items():
        console.print(f"{number:12,}   {text}", markup=False)
    console.print(f"memory grows by {grown:.1f} MiB an hour after the first quarter; drawn in {arguments.out}")
    more: dict[str, Any] = {
        "counts": happened.counts,
        "errors": happened.errors,
        "looks": [asdict(look) for look in looks],
    }
    finish("soak", {"memory_mib_per_hour": grown, "files_per_hour": slope(looks, lambda look: look.files)}, **more)


if __name__ == "__main__":
    main()
