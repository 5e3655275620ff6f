"""Processes that train one model together: the numbers of one process, no row lost, and a killed one resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import ROOT, DaemonProcess
from made_samples import make_samples
from safetensors.torch import load_file
from test_ladder import folder as ladder_folder  # noqa: F401  # a fixture

from crossmedia.features.reading.samples import Samples
from crossmedia.trainer import processes
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.models import MODELS

WORKER = Path(__file__).parent / "together_worker.py"
ENVIRONMENT = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def torchrun(world: int, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", *arguments]
    return subprocess.Popen(
        command, text=True, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def trained(ladder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Every model, trained by one process and by three; some by three that share their tables."""
    out = tmp_path_factory.mktemp("together")
    for name, world, models, rows in (
        ("1", 1, ",".join(MODELS), 0),
        ("3", 3, ",".join(MODELS), 0),
        ("shared", 3, "din,rocket", 20),
    ):
        options = (f"--models={models}", f"--out={out / name}", f"--shard-tables={rows}")
        code, _, err = finished(torchrun(world, str(WORKER), f"--folder={ladder_folder}", *options))
        assert code == 0, err
    return out


@pytest.mark.parametrize(
    ("model", "of_three"), [*((name, "3") for name in MODELS), *(("din", "shared"), ("rocket", "shared"))]
)
def test_three_processes_train_the_model_of_one(trained: Path, model: str, of_three: str) -> None:
    one, three = (load_file(trained / world / model / "model.safetensors") for world in ("1", of_three))
    assert one.keys() == three.keys()
    # At the kink of a PReLU, and where a batch has hardly any variance, rounding shows: 18 steps of 3e-3 each later the
    # weights are within 2e-3.
    for name, tensor in one.items():
        assert np.allclose(tensor.numpy(), three[name].numpy(), atol=2e-3), name
    found = [json.loads((trained / world / model / "metrics.json").read_text()) for world in ("1", of_three)]
    for split in ("validation", "test"):
        for metric in ("auc", "log_loss"):
            assert found[0][split]["all"][metric] == pytest.approx(found[1][split]["all"][metric], abs=1e-3)
    assert [point["train_log_loss"] for point in found[0]["curve"]] == pytest.approx(
        [point["train_log_loss"] for point in found[1]["curve"]], abs=2e-5
    )
    assert [run["train"]["processes"] for run in found] == [1, 3]


def test_predictions_are_in_file_order_and_of_every_row(trained: Path) -> None:
    tables = [pq.read_table(trained / world / "din" / "predictions.parquet") for world in ("1", "3")]
    one, three = (np.asarray(table["probability"]) for table in tables)
    assert len(np.unique(one)) > 100
    assert np.allclose(one, three, atol=5e-3)


def test_normalisation_is_over_the_rows_of_all(trained: Path) -> None:
    one, three = (load_file(trained / world / "layers.safetensors") for world in ("1", "3"))
    for name, tensor in one.items():
        assert np.allclose(tensor.numpy(), three[name].numpy(), rtol=1e-4, atol=1e-5 * abs(tensor).max()), name


def test_a_table_whose_rows_are_spread_is_one_table(trained: Path) -> None:
    found = load_file(trained / "shared" / "layers.safetensors")
    table = np.arange(20.0).reshape(10, 2)
    assert (found["rows"].numpy() == table[[9, 0, 4, 4, 4, 3]]).all()
    assert (found["whole"].numpy() == table).all()
    assert found["holder"].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    expected = np.zeros((10, 2))
    for place, weight in ((9, 1), (0, 1), (4, 1), (4, 1), (4, 3), (3, 3)):
        expected[place] += weight / 3  # the mean over processes
    assert found["gradients"].numpy() == pytest.approx(expected)


def test_processes_that_see_other_samples_are_refused(
    ladder_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    others = make_samples(tmp_path, 60, 1500, {i: i for i in range(60)})
    options = (f"--folder={ladder_folder}", "--models=lr", f"--out={tmp_path}", f"--others-samples={others}")
    code, _, err = finished(torchrun(2, str(WORKER), *options))
    assert code != 0
    assert "Process 1 has samples" in err
    assert "All processes must see the same files" in err


def test_a_comparison_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = CliRunner().invoke(trainer, ["compare"])
    assert refused.exit_code == 2
    assert "torchrun starts 'trainer fit'" in refused.output


def test_a_killed_process_resumes(daemon: DaemonProcess, tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 100, 4000, {i: i for i in range(100)})

    def start(out: str) -> subprocess.Popen[str]:
        options = (
            f"--samples={samples}",
            f"--server={daemon.address}",
            "--head=learn",
            "--head-widths=16,8",
            "--shard-tables=40",
        )
        settings = ("--epochs=3", "--patience=9", "--batch-size=512", f"--out={tmp_path / out}", "--json")
        return torchrun(2, "-m", "crossmedia.trainer", "fit", *options, *settings)

    code, out, err = finished(start("whole"))
    assert code == 0, err
    whole = json.loads(out)  # of one process, or it would be no JSON
    process = start("killed")
    state = tmp_path / "killed" / "state.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children()
    os.kill(ranks[-1].pid, signal.SIGKILL)
    code, _, _ = finished(process)
    assert code != 0
    assert state.exists()
    code, out, err = finished(start("killed"))
    assert code == 0, err
    resumed = json.loads(out)
    assert resumed["curve"] == whole["curve"]
    assert resumed["test"] == whole["test"]
    assert not state.exists()


@pytest.mark.parametrize("world", [2, 5])
def test_rows_are_split_without_loss_or_repetition(
    ladder_folder: Path,  # noqa: F811
    world: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = Samples(ladder_folder / "samples")
    monkeypatch.setattr(processes, "world", lambda: world)
    streams = []
    for rank in range(world):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        streams.append(list(processes.own_rows(samples.batches("train", 64, shuffle_seed=3))))
    for batch, *parts in zip(samples.batches("train", 64, shuffle_seed=3), *streams, strict=True):
        times = np.concatenate([part.timestamp for part in parts])
        assert sorted(times) == sorted(batch.timestamp)  # each row has a time of its own
