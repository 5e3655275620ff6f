"""A wall clock that is set back, and photos of the future: what is served stays right, and the doctor says so."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from clock import moved_clock
from conftest import DaemonProcess, run_command

from crossmedia.imgserver.client import ImageClient, Status

DAY = 86_400


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_server_whose_clock_is_set_back(
    store: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset, env = moved_clock(tmp_path)
    catalogue = tmp_path / "photos"
    shutil.copytree(photos, catalogue)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    daemon = DaemonProcess(store, catalogue, "--negative-ttl-s=2")
    try:
        with ImageClient(daemon.address, timeout_s=30) as client:
            known = client.get(list(range(100))).values
            assert client.get([5000]).status.tolist() == [Status.NOT_FOUND]
            for n, seconds in enumerate((-DAY, -400 * DAY, DAY)):
                offset.write_text(str(seconds))
                assert (client.get(list(range(100))).values == known).all()
                assert client.get(list(range(100 + 10 * n, 110 + 10 * n))).ok.all(), "the CNN, and its commit"
                photo = catalogue / f"{5000 + n}.jpg"
                shutil.copy(photos / "001.jpg", photo)
                os.utime(photo, (time.time() + 10 * seconds,) * 2)
                deadline = time.monotonic() + 20
                while not client.get([5000 + n]).ok.all():  # forgotten after two seconds, whatever the clock says
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                assert (client.get([5000 + n]).values[0] == known[1]).all()
                run_command("imgserver", "health", f"--server={daemon.address}")
        offset.write_text(str(-DAY))
        report = json.loads(run_command("imgserver", "doctor", f"--store={store}", "--json").stdout)
        assert "in the future" in report["checks"]["clock"]["found"]
    finally:
        daemon.stop()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_shards_whose_clock_is_set_back(
    graph_cache: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos that are replaced after the clock was set back are embedded again, once, and merged."""
    offset, env = moved_clock(tmp_path)
    catalogue, out = tmp_path / "photos", tmp_path / "embedded"
    catalogue.mkdir()
    shutil.copytree(graph_cache / "engine", out / "engine")
    for number in range(20):
        shutil.copy(photos / f"{number:03d}.jpg", catalogue)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def embed() -> int:
        shard = run_command(
            "imgserver", "precompute", "--part=1/1", f"--out={out}", f"--catalogue={catalogue}", "--json"
        )
        return int(json.loads(shard.stdout)["embedded"])

    def merge() -> int:
        merged = run_command("imgserver", "merge", str(out), f"--store={tmp_path / 'merged'}", "--dim=8", "--json")
        return int(json.loads(merged.stdout)["added"])

    assert (embed(), merge()) == (20, 20)
    offset.write_text(str(-DAY))
    os.replace(catalogue / "001.jpg", catalogue / "000.jpg")
    shutil.copy(photos / "002.jpg", catalogue / "001.jpg")
    assert (embed(), merge()) == (2, 2)
    assert embed() == 0, "the later row counts, though the clock said that it was earlier"
