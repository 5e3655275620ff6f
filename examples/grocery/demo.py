"""The whole pipeline on the photos that ship with the project: ``make demo``.

Runs the commands that a user would, prints each before its output and behind it what it took, and stops the server that
it started. The models are trained with the defaults of ``trainer compare``. The clicks are simulated (see
``simulate.py``); the photos, the server and the training are real. Everything is written below ``demo/``, which is made
anew.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PHOTOS = HERE / "images"
OUT = Path("demo")
LEFT_OUT = 24
SEED = 1


def run(*arguments: str, quiet: bool = False, work_s: Callable[[str], float] | None = None) -> str:
    """Run ``python -m …``, showing the command line and, unless ``quiet``, its output; return its standard output.

    Args:
        arguments: of the command.
        quiet: say nothing of its output.
        work_s: seconds of the work itself, from the output; what else the command took is shown as its start.

    Raises:
        SystemExit: the command failed; its output is shown.
    """
    shown = arguments[0] if arguments[0].endswith(".py") else "crossmedia " + " ".join(arguments[:1])
    print(f"\n$ {shown} {' '.join(arguments[1:])}", flush=True)
    command = [sys.executable, *([] if arguments[0].endswith(".py") else ["-m"]), *arguments]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if not quiet or done.returncode:
        print(done.stdout, end="")
    if done.returncode:
        raise SystemExit(f"The demo stops here: the command ended with exit code {done.returncode}.")
    took_s, parts = time.monotonic() - started, ""
    if work_s is not None:
        worked_s = work_s(done.stdout)
        parts = f": {worked_s:.1f} s of work, {took_s - worked_s:.1f} s to start, load and measure"
    print(f"  ({took_s:.1f} s{parts})", flush=True)
    return done.stdout


def training_s(runs: Path) -> float:
    """What the runs of a comparison say that their epochs took."""
    lines = (runs / "results.jsonl").read_text().splitlines()
    return sum(float(json.loads(line)["train"]["seconds"]) for line in lines)


def main() -> None:
    """Run the demo."""
    started = time.monotonic()
    store, logs, samples, runs = OUT / "store", OUT / "logs", OUT / "samples", OUT / "runs"
    if (store / "daemon.json").exists():  # a demo that was killed may have left its server
        subprocess.run([sys.executable, "-m", "crossmedia.imgserver", "stop", f"--store={store}"], capture_output=True)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    photos = sorted(int(path.stem) for path in PHOTOS.glob("*.jpg"))
    left_out = set(random.Random(SEED).sample(photos, LEFT_OUT))
    ids = OUT / "ids.txt"
    ids.write_text("".join(f"{i}\n" for i in photos if i not in left_out))
    print(
        f"{len(photos)} real photos (MIT licence), simulated clicks. {LEFT_OUT} photos, drawn by seed {SEED}, are left "
        f"out of precompute: the server meets them when training asks for them."
    )
    run("imgserver", "precompute", f"--store={store}", f"--catalogue={PHOTOS}", f"--ids={ids}")
    run("imgserver", "serve", f"--store={store}", f"--catalogue={PHOTOS}", "--port=0", "--background")
    try:
        run("imgserver", "health", f"--store={store}", "--wait")
        address = json.loads((store / "daemon.json").read_text())["address"]
        run(str(HERE / "simulate.py"), f"--out={logs}", f"--seed={SEED}")
        shutil.copy(HERE / "samples.toml", logs)
        run("features", "build", str(logs / "samples.toml"), f"--out={samples}", "--overwrite")
        run(
            *("trainer", "compare", f"--samples={samples}", f"--server={address}", "--models=embedding_mlp,din"),
            *("--seeds=3", f"--reference={logs / 'reference.json'}", f"--out={runs}"),
            work_s=lambda output: training_s(runs),
        )
        status = json.loads(run("imgserver", "info", f"--server={address}", "--json", quiet=True))
        print(
            f"images computed on demand: {status['computed_on_demand']}, CNN passes for them: "
            f"{status['cnn_passes_on_demand']} (in {status['cnn_batches_on_demand']} batches); "
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
    missed = LEFT_OUT - status["computed_on_demand"]
    print(f"\nDone in {time.monotonic() - started:.0f} s. Open {report} in a browser.")
    if missed or status["cnn_passes_on_demand"] != LEFT_OUT:
        raise SystemExit(f"{LEFT_OUT} images should have been computed on demand, one CNN pass each.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
