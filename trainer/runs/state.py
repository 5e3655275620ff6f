"""What a run leaves after each epoch, so that a run that was killed goes on and ends with the same numbers."""

from __future__ import annotations

import io
import json
import math
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.trainer import processes
from crossmedia.trainer.layers.sharded import gathered, spread, spread_optimizer
from crossmedia.trainer.runs.checkpoint import STATE
from crossmedia.trainer.runs.sealed import opened, replacing_whole, seal
from crossmedia.trainer.training.averaging import Averaging


@dataclass
class Epochs:
    """What has happened so far in what is trained epoch by epoch; saved after each.

    Attributes:
        epoch, step, rows: done.
        seconds: of training.
        wait_s: of ``seconds``, what was waited for vectors.
        best_epoch: which epoch was the best one, from 0 on; -1: none yet.
        curve: a line an epoch.
    """

    epoch: int = 0
    step: int = 0
    rows: int = 0
    seconds: float = 0.0
    wait_s: float = 0.0
    best_epoch: int = -1
    curve: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Progress(Epochs):
    """The same of ``fit``.

    Attributes:
        first_rows, first_s: of ``rows`` and ``seconds``, what the first step of each process took, in which everything
            starts.
        best_auc: on the validation part.
    """

    first_rows: int = 0
    first_s: float = 0.0
    best_auc: float = -math.inf

    @property
    def rows_per_s(self) -> float:
        """How fast it trains, the start left out; with the start where there was nothing else."""
        if self.rows > self.first_rows:
            return (self.rows - self.first_rows) / (self.seconds - self.first_s)
        return self.rows / self.seconds


@dataclass
class Trained:
    """The weights of a run, and what steps them.

    Attributes:
        learner: gives the loss; all that is trained is in it.
        optimizers: of its parameters.
        average: of its state over the steps.
        best: its state after the best epoch so far; empty before the first has ended.
    """

    learner: nn.Module
    optimizers: list[torch.optim.Optimizer]
    average: Averaging
    best: dict[str, Tensor] = field(default_factory=dict)

    def restore(self, saved: dict[str, Any]) -> None:
        """Take the place of what ``save_state`` was given; each process takes its part of a table that is spread."""
        like = self.learner.state_dict()
        self.learner.load_state_dict(spread(saved["model"], like))
        for optimizer, of_optimizer in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(spread_optimizer(of_optimizer, optimizer))
        self.average.state = spread(saved["average"], like)
        self.best = spread(saved["best"], like)


def save_state(out: Path, identity: dict[str, Any], trained: Trained, progress: Epochs) -> None:
    """Put the state in the place of the former one; the first of several processes does so.

    Raises:
        StoreError: it cannot be written; the former one stands.
    """
    learned = gathered(
        {
            "model": trained.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in trained.optimizers],
            "average": trained.average.state,
            "best": trained.best,
        }
    )
    if processes.rank() == 0:
        with replacing_whole(out / STATE) as part:
            torch.save({"identity": identity, **learned, "progress": asdict(progress)}, part)
            seal(part)


def load_state(out: Path, identity: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """What a killed run of the same configuration left, or None; of several processes the first one reads it for all.

    Args:
        out: run folder.
        identity: of this run.
        device: that trains.

    Raises:
        BadInput: it is damaged.
    """
    path = out / STATE
    data = b""
    if processes.rank() == 0:
        data = b"there:" + path.read_bytes() if path.exists() else b""
    if not (data := processes.from_first(data, device)):
        return None
    return _of_run(path, data.removeprefix(b"there:"), identity)


def is_interrupted(out: Path, identity: dict[str, Any]) -> bool:
    """Whether ``load_state`` would find something; for one process alone.

    Raises:
        BadInput: what is there is damaged.
    """
    path = out / STATE
    return path.exists() and _of_run(path, path.read_bytes(), identity) is not None


def _of_run(path: Path, data: bytes, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state in the bytes of a file, where it is of the run of this identity."""
    try:
        saved: dict[str, Any] = torch.load(io.BytesIO(opened(data)), map_location="cpu", weights_only=True)
        there = json.loads(json.dumps(saved["identity"]))
        return saved if {name: there.get(name) for name in identity} == identity else None
    except (ValueError, TypeError, LookupError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BadInput(
            f"{path}, from which the run would go on, is damaged: {str(error)[:100]}. Delete it, and the run "
            f"starts anew; or give another --out."
        ) from error
