"""The whole pipeline on the photos that ship with the project: ``make demo``.

Runs the commands that a user would, prints each before its output and behind it what it took, and stops the server that
it started. The models are trained with the defaults of ``trainer compare``. The clicks are simulated (see
``simulate.py``); the photos, the server and the training are real. Everything is written below ``demo/``. A demo that
was interrupted goes on with what it had not done; one that ended is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from crossmedia.interrupts import end_on_signals, say_when_interrupted, undone_if_interrupted
from crossmedia.service.running import running_daemon

HERE = Path(__file__).resolve().parent
PHOTOS = HERE / "images"
OUT = Path("demo")
LEFT_OUT = 24
SEED = 1
GOES_ON = f"What is done is kept in {OUT}/: the same command goes on with the rest."


class Steps:
    """Which commands of a demo are done, in a file that is there until all of them are.

    Args:
        file: the file; of a demo by other code it does not count.
    """

    def __init__(self, file: Path):
        self._file, self._done = file, list[str]()
        own = ("demo.py", "simulate.py", "shop.py", "samples.toml")
        code = b"".join((HERE / name).read_bytes() for name in own)
        self._code = f"{version('crossmedia')} {hashlib.sha256(code).hexdigest()}"
        try:
            kept = json.loads(file.read_text())
            self.goes_on = kept["code"] == self._code
        except (OSError, ValueError, LookupError, TypeError):
            self.goes_on = False
        if self.goes_on:
            self._done = kept["done"]

    def done(self, command: str) -> bool:
        """Whether a command is done."""
        return command in self._done

    def add(self, *commands: str) -> None:
        """Commands are done, too."""
        self._done += commands
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps({"code": self._code, "done": self._done}))
        part.replace(self._file)

    def finish(self) -> None:
        """Everything is done."""
        self._file.unlink()


def run(
    *arguments: str, quiet: bool = False, work_s: Callable[[], float] | None = None, steps: Steps | None = None
) -> str:
    """Run ``python -m …``, showing the command line and, unless ``quiet``, its output; return its standard output.

    Args:
        arguments: of the command.
        quiet: say nothing of its output.
        work_s: seconds of the work itself, so far; what else the command took is shown as its start.
        steps: those where the command is done already are not repeated.

    Raises:
        SystemExit: the command failed; its output is shown.
    """
    shown = arguments[0] if arguments[0].endswith(".py") else "crossmedia " + " ".join(arguments[:1])
    step = " ".join(arguments[:2])
    print(f"\n$ {shown} {' '.join(arguments[1:])}", flush=True)
    if steps is not None and steps.done(step):
        print("  (done before)", flush=True)
        return ""
    command = [sys.executable, *([] if arguments[0].endswith(".py") else ["-m"]), *arguments]
    started, worked_s = time.monotonic(), work_s() if work_s else 0.0
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    with child, undone_if_interrupted(child.terminate):
        output, _ = child.communicate()
    if not quiet or child.returncode:
        print(output, end="")
    if child.returncode:
        raise SystemExit(f"The demo stops here: the command ended with exit code {child.returncode}. {GOES_ON}")
    took_s, parts = time.monotonic() - started, ""
    if work_s is not None:
        worked_s = min(work_s() - worked_s, took_s)  # a run that goes on counts what it took before
        parts = f": {worked_s:.1f} s of work, {took_s - worked_s:.1f} s to start, load and measure"
    print(f"  ({took_s:.1f} s{parts})", flush=True)
    if steps is not None:
        steps.add(step)
    return output


def training_s(runs: Path) -> float:
    """What the runs of a comparison that have ended say that their epochs took; means beside them are not trained."""
    file = runs / "results.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(float(json.loads(line)["train"].get("seconds", 0)) for line in lines)


def end_server(store: Path) -> None:
    """Have the server of a store end, without waiting for it."""
    if daemon := running_daemon(store):
        os.kill(daemon.pid, signal.SIGTERM)


def main() -> None:
    """Run the demo."""
    end_on_signals()
    say_when_interrupted(f"The demo was interrupted. {GOES_ON}")
    started = time.monotonic()
    store, logs, samples, runs = OUT / "store", OUT / "logs", OUT / "samples", OUT / "runs"
    if running_daemon(store):  # a demo that was killed may have left its server
        subprocess.run([sys.executable, "-m", "crossmedia.imgserver", "stop", f"--store={store}"], capture_output=True)
    steps = Steps(OUT / "steps.json")
    if steps.goes_on:
        print(f"A demo was interrupted here, and goes on. Remove {OUT}/ to begin anew.")
    else:
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir()
        steps.add()
    photos = sorted(int(path.stem) for path in PHOTOS.glob("*.jpg"))
    left_out = set(random.Random(SEED).sample(photos, LEFT_OUT))
    ids = OUT / "ids.txt"
    ids.write_text("".join(f"{i}\n" for i in photos if i not in left_out))
    print(
        f"{len(photos)} real photos (MIT licence), simulated clicks. {LEFT_OUT} photos, drawn by seed {SEED}, are left "
        f"out of precompute: the server meets them when training asks for them."
    )
    run("imgserver", "precompute", f"--store={store}", f"--catalogue={PHOTOS}", f"--ids={ids}", steps=steps)
    with undone_if_interrupted(lambda: end_server(store)):
        run("imgserver", "serve", f"--store={store}", f"--catalogue={PHOTOS}", "--port=0", "--background")
        try:
            run("imgserver", "health", f"--store={store}", "--wait")
            address = json.loads((store / "daemon.json").read_text())["address"]
            before = told_by(address)["images_stored"] - (len(photos) - LEFT_OUT)
            run(str(HERE / "simulate.py"), f"--out={logs}", f"--seed={SEED}", steps=steps)
            shutil.copy(HERE / "samples.toml", logs)
            run("features", "build", str(logs / "samples.toml"), f"--out={samples}", "--overwrite", steps=steps)
            run(
                *("trainer", "compare", f"--samples={samples}", f"--server={address}", "--models=embedding_mlp,din"),
                *("--seeds=3", f"--reference={logs / 'reference.json'}", f"--out={runs}"),
                work_s=lambda: training_s(runs),
                steps=steps,
            )
            status = told_by(address)
            earlier = f" and {before} before the demo was interrupted" if before else ""
            print(
                f"images computed on demand: {status['computed_on_demand']}, CNN passes for them: "
                f"{status['cnn_passes_on_demand']} (in {status['cnn_batches_on_demand']} batches){earlier}; "
                f"{status['ids_from_table']:,} of {status['ids_requested']:,} ids came from the table"
            )
            report = OUT / "report.html"
            run(
                *("trainer", "report", str(runs), f"--server={address}", f"--out={report}", f"--seed={SEED}"),
                "--title=Grocery photos, simulated clicks",
                "--note=The photos are real (Grocery Store Dataset, MIT). The clicks are simulated: nobody clicked.",
            )
        finally:
            run("imgserver", "stop", f"--store={store}")
    steps.finish()
    print(f"\nDone in {time.monotonic() - started:.0f} s. Open {report} in a browser.")
    if {status["computed_on_demand"], status["cnn_passes_on_demand"]} != {LEFT_OUT - before}:
        raise SystemExit(f"{LEFT_OUT} images should have been computed on demand, one CNN pass each.")


def told_by(address: str) -> dict[str, int]:
    """What ``imgserver info`` says of the server."""
    found: dict[str, int] = json.loads(run("imgserver", "info", f"--server={address}", "--json", quiet=True))
    return found


if __name__ == "__main__":
    main()
