"""The Ray recipe: workers that Ray starts train the model that one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, DaemonProcess, run_command
from made_samples import make_samples


@pytest.mark.slow
@pytest.mark.timeout(600)  # the run on Ray alone may take 300 s where the machine is busy
def test_ray_trains_what_one_process_trains(daemon: DaemonProcess, tmp_path: Path) -> None:
    pytest.importorskip("ray.train.torch", reason="the packages of ray[train] are not installed")
    samples = make_samples(tmp_path, 100, 2000, {i: i for i in range(100)})
    settings = {"samples": str(samples), "server": daemon.address, "epochs": 2, "batch_size": 256, "patience": 9}
    command = [sys.executable, str(ROOT / "examples" / "ray" / "train.py"), "--workers=2"]
    done = subprocess.run(
        [*command, f"--fit={json.dumps(settings | {'out': str(tmp_path / 'ray')})}"],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    options = ("--epochs=2", "--batch-size=256", "--patience=9", "--json")
    alone = run_command(
        "trainer", "fit", f"--samples={samples}", f"--server={daemon.address}", f"--out={tmp_path / 'one'}", *options
    )
    by_ray = json.loads((tmp_path / "ray" / "metrics.json").read_text())
    assert by_ray["train"]["processes"] == 2
    assert by_ray["test"]["all"]["log_loss"] == pytest.approx(
        json.loads(alone.stdout)["test"]["all"]["log_loss"], abs=1e-3
    )
