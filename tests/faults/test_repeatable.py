"""The same input and the same seed give the same samples, the same vectors and the same metrics."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, DaemonProcess, run_command

MACHINE = ("second", "wait", "address", "server", "memory", "date")
GROCERY = ROOT / "examples" / "grocery"


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    """sha256 of the files of a folder, by their path in it."""
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob(pattern)
    }
    assert found
    return found


def without_times(found: Any) -> Any:
    """Metrics but for what depends on the machine: how long it took, and how fast it was."""
    if not isinstance(found, dict):
        return found
    return {
        k: without_times(v) for k, v in found.items() if not (k.endswith("_s") or any(word in k for word in MACHINE))
    }


def one_line(folder: Path, photos: Path, engine: Path) -> tuple[dict[str, str], str, list[object], dict[str, str]]:
    """Photos and a seed to samples, vectors, metrics and weights, every step a process of its own."""
    store = folder / "store"
    shutil.copytree(engine, store / "engine")
    run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", "--dim=16")
    run_command("imgserver", "export", f"--store={store}", f"--out={folder / 'vectors.npy'}")
    logs = folder / "logs"
    subprocess.run([sys.executable, GROCERY / "simulate.py", f"--out={logs}", "--seed=1"], check=True)
    shutil.copy(GROCERY / "samples.toml", logs)
    run_command("features", "build", str(logs / "samples.toml"), f"--out={folder / 'samples'}")
    daemon = DaemonProcess(store, photos)
    try:
        for model in ("embedding_mlp", "din"):
            run_command(
                *(
                    "trainer",
                    "fit",
                    f"--samples={folder / 'samples'}",
                    f"--server={daemon.address}",
                    f"--model={model}",
                ),
                *("--epochs=1", "--seed=3", f"--out={folder / 'runs' / model}"),
            )
    finally:
        daemon.stop()
    metrics = [without_times(json.loads(path.read_text())) for path in sorted((folder / "runs").rglob("metrics.json"))]
    vectors = hashlib.sha256((folder / "vectors.npy").read_bytes()).hexdigest()
    return (hashes(folder / "samples", "*.parquet"), vectors, metrics, hashes(folder / "runs", "*.safetensors"))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_two_runs_with_a_seed_are_the_same(photos: Path, graph_cache: Path, tmp_path: Path) -> None:
    first = one_line(tmp_path / "1", photos, graph_cache / "engine")
    again = one_line(tmp_path / "2", photos, graph_cache / "engine")
    assert first[0] == again[0], "samples"
    assert first[1] == again[1], "vectors"
    assert first[3] == again[3], "weights"
    assert first[2] == again[2], "metrics"
