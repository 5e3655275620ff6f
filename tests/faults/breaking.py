"""Commands of a user, broken at a chosen step: killed before it, or from there on the disk is full."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
NOT, KILL, FULL = range(3)
SOCKETS = "socket:"  # in the place of a folder: steps are what is sent


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, the steps that it took, and all that it printed."""

    code: int
    steps: int
    said: str


class Breaker:
    """Runs commands in forks of a process that has imported everything, so that one takes no seconds to start."""

    def __init__(self, folder: Path):
        if (compiler := shutil.which("cc")) is None:
            pytest.skip("There is no C compiler, which makes the library that breaks commands.")
        library = folder / "breaking.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "breaking.c", "-ldl"], check=True)
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "breakable.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )

    def run(self, *arguments: object, how: int = NOT, step: int = 0, below: Path | str = "/nowhere") -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        told = {"arguments": [str(a) for a in arguments], "mode": how, "step": step, "below": str(below)}
        print(json.dumps(told), file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        with self._process:  # closes what it reads from, which ends it
            pass


def spread(steps: int, times: int) -> list[int]:
    """So many of the steps 1, 2, …, from the first to the last."""
    found: list[int] = np.unique(np.linspace(1, steps, min(times, steps)).round().astype(int)).tolist()
    return found
