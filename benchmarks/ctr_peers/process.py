"""Peers from our environment: as a part of a benchmark, and trained to the end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ctr_peers.environment import ROOT, peers_python
from benchmarks.parts import Part, Taken


def _command(*arguments: str) -> list[str]:
    return [str(peers_python()), "-m", "benchmarks.ctr_peers.worker", *arguments]


def _environment() -> dict[str, str]:
    # What they print of themselves, ray's use statistics and the like, stays off.
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
    return os.environ | paths | {"RAY_USAGE_STATS_ENABLED": "0", "CUDA_VISIBLE_DEVICES": ""}


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-12:])


class PeerPart(Part):
    """Steps of a peer's model in a process of the peers' environment, for ``benchmarks.parts.run_rounds``.

    Args:
        peer: ``fuxi`` or ``deepctr``.
        model: ``lr``, ``din`` or ``dien``.
        samples: folder of samples.
        steps: batches of 1,024 rows a round.
    """

    def __init__(self, peer: str, model: str, samples: Path, steps: int):
        self._servers: Sequence[int] = ()
        self.taken = Taken()
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        options = [f"--peer={peer}", f"--model={model}", f"--samples={samples}", f"--steps={steps}"]
        self._worker = subprocess.Popen(
            _command("rounds", *options),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self._read()  # ready: the data is loaded and one round was done

    def _read(self) -> dict[str, Any]:
        assert self._worker.stdout is not None
        line = self._worker.stdout.readline()
        if not line:
            code = self._worker.wait()
            self._said.seek(0)
            raise RuntimeError(f"The peer's process ended with {code}:\n{_tail(self._said.read())}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _ask(self) -> dict[str, float]:
        assert self._worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; reading says why
            print("round", file=self._worker.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        try:
            self._worker.wait(5)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._said.close()


def train_peer(
    peer: str,
    model: str,
    samples: Path,
    out: Path,
    seed: int,
    learning_rate: float,
    regularisation: float,
) -> dict[str, Any]:
    """Train a peer's model, early-stopped on the validation part.

    Args:
        peer: ``fuxi`` or ``deepctr``.
        model: ``lr``, ``din`` or ``dien``.
        samples: folder of samples.
        out: JSON file; the probabilities of the test part go beside it.
        seed: of weights and of the order of the rows.
        learning_rate: of Adam.
        regularisation: L2 weight in the library's scale.

    Returns:
        what ``worker`` writes: ``curve``, ``best_epoch``, ``samples_per_s``, ``parameters``, and ``probabilities``,
        the path of a ``.npy`` of shape (R,), float32, in file order.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    options = [f"--peer={peer}", f"--model={model}", f"--samples={samples}", f"--out={out}", f"--seed={seed}"]
    options += [f"--learning-rate={learning_rate}", f"--regularisation={regularisation}"]
    done = subprocess.run(_command("train", *options), env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Training {model} of {peer} ended with {done.returncode}:\n{_tail(done.stderr)}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found
