"""Metrics over processes are those of all rows together, ties and uneven parts included."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from crossmedia.trainer.metrics import auc, calibration, gauc, log_loss
from crossmedia.trainer.metrics.gather import gather_rows


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 500).astype(np.int8)
    predictions = np.round(rng.random(500), 1).astype(np.float32)  # many ties
    return labels, predictions, rng.integers(0, 20, 500)


def measure(rank: int, world: int, meeting: str, out: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    part = slice(0, 123) if rank == 0 else slice(123, None)  # users are in both parts
    labels, predictions, users = gather_rows(*(column[part] for column in rows()))
    grouped = gauc(labels, predictions, users)
    np.save(
        f"{out}-{rank}.npy", [auc(labels, predictions), grouped.value, grouped.users, log_loss(labels, predictions)]
    )
    torch.distributed.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    labels, predictions, users = rows()
    grouped = gauc(labels, predictions, users)
    expected = [auc(labels, predictions), grouped.value, grouped.users, log_loss(labels, predictions)]
    out = str(tmp_path / "found")
    spawn(measure, (2, str(tmp_path / "meeting"), out), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        assert np.load(f"{out}-{rank}.npy") == pytest.approx(expected)


def test_one_process_gets_its_own_rows() -> None:
    labels, predictions, _ = rows()
    assert calibration(*gather_rows(labels, predictions)) == calibration(labels, predictions)
