"""Ctrl-C, which reaches all processes of a terminal, and SIGTERM: an end within seconds, one sentence, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_command

ENDS_WITHIN_S = 8.0  # two at most, and a machine with other work


def of_session(session: int) -> list[str]:
    """Processes that a command left."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (process / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(process.name)
    return found


def interrupted(arguments: list[str], after_s: float, *signals: signal.Signals, says: str = "Interrupted.") -> str:
    """Start a program, send signals to its session, and check its end; return what it said."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        time.sleep(after_s)
        assert process.poll() is None, process.communicate()[0]
        started = time.monotonic()
        for number in signals:
            if process.poll() is None:
                os.killpg(process.pid, number)
            time.sleep(0.2)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signals[0], said
    assert time.monotonic() - started < ENDS_WITHIN_S
    assert said.count(says) == 1, said
    assert "Traceback" not in said
    assert "rethrown" not in said
    assert not of_session(process.pid)
    return said


@pytest.fixture(scope="module")
def many_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = [str(path) for path in sorted(photos.glob("*.jpg"))]
    manifest = tmp_path_factory.mktemp("many") / "manifest.parquet"
    uris = [files[i % len(files)] for i in range(20_000)]
    pq.write_table(pa.table({"image_id": np.arange(1000, 21_000), "uri": uris}), manifest)
    return manifest


def precompute(store: Path, photos: Path, many_photos: Path) -> list[str]:
    options = [f"--catalogue={many_photos}", f"--photo-root={photos}", "--dim=16"]
    return ["-m", "crossmedia.imgserver", "precompute", f"--store={store}", *options]


def test_an_interrupted_precompute(store: Path, photos: Path, many_photos: Path) -> None:
    said = interrupted(precompute(store, photos, many_photos), 5.0, signal.SIGINT)
    assert "What was committed is kept: the same command goes on with the rest." in said


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_precompute_interrupted_at_any_time(store: Path, photos: Path, many_photos: Path) -> None:
    arguments = precompute(store, photos, many_photos)
    for n, after_s in enumerate(np.linspace(1.0, 8.0, 12)):
        interrupted(arguments, float(after_s), signal.SIGTERM if n % 3 == 2 else signal.SIGINT)
    interrupted(arguments, 4.0, signal.SIGINT, signal.SIGINT)
    assert not list(store.rglob("*.unfinished"))


COMPUTES = """
import hashlib
from crossmedia.interrupts import end_on_signals, say_when_interrupted
end_on_signals()
say_when_interrupted("Said.")
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # of no Python for minutes
"""
FORKS = """
import multiprocessing, time
from crossmedia.interrupts import end_on_signals, say_when_interrupted, undone_if_interrupted
end_on_signals()
say_when_interrupted("Said.")
for _ in range(2):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
with undone_if_interrupted(lambda: [time.sleep(1), print("tidied up", flush=True)]):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            print("raised")
"""


def test_who_computes_in_c_is_ended() -> None:
    interrupted(["-c", COMPUTES], 2.0, signal.SIGINT, says="Said.")
    interrupted(["-c", COMPUTES], 2.0, signal.SIGTERM, signal.SIGTERM, says="Said.")


def test_processes_that_were_forked_end_too_and_do_not_count_twice() -> None:
    assert "tidied up" in interrupted(["-c", FORKS], 2.0, signal.SIGINT, says="Said.")


@pytest.fixture(scope="module")
def many_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 300,000 vectors, the file that they came from, and a log of 3 million rows."""
    folder = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300_000, 32)).astype(np.float16)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 32)
    pq.write_table(pa.table({"image_id": np.arange(300_000), "vector": lists}), folder / "vectors.parquet")
    run_command("imgserver", "import", str(folder / "vectors.parquet"), "--name=net", f"--store={folder / 'store'}")
    rows = 3_000_000
    columns = {name: rng.integers(0, most, rows) for name, most in (("user", 100_000), ("item", 50_000), ("click", 2))}
    pq.write_table(pa.table({**columns, "time": np.sort(rng.integers(0, 10**7, rows))}), folder / "log.parquet")
    (folder / "schema.toml").write_text(
        '[log]\npath = "log.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\n[log.labels]\nclick = "click"\n'
        '[split]\nmethod = "time"\ntest = 0.2\nvalidation = 0.1\n'
    )
    return folder


LONG = {
    "import": "imgserver import {0}/vectors.parquet --name again --store {0}/store",
    "index": "imgserver index --kind hnsw --store {0}/store",
    "compress": "imgserver compress --bytes 16 --store {0}/store",
    "semantic-ids": "imgserver semantic-ids --store {0}/store --out {0}/semantic.parquet",
    "reshard": "imgserver reshard --servers one:1,other:1 --me one:1 --store {0}/store --out {0}/moved",
    "features": "features build {0}/schema.toml --out {0}/samples",
}


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", LONG)
def test_long_commands(many_vectors: Path, command: str) -> None:
    arguments = ["-m", *LONG[command].format(many_vectors).split()]
    for after_s, number in ((2.0, signal.SIGINT), (3.0, signal.SIGTERM)):
        interrupted(arguments, after_s, number)
    left = [path for path in many_vectors.rglob("*") if path.name.endswith(".unfinished")]
    assert not left
    run_command("imgserver", "doctor", f"--store={many_vectors / 'store'}")


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_training(many_vectors: Path) -> None:
    samples, run = many_vectors / "whole", many_vectors / "run"
    run_command("features", "build", str(many_vectors / "schema.toml"), f"--out={samples}", timeout_s=240)
    fit = [
        "-m",
        "crossmedia.trainer",
        "fit",
        "--model=embedding_mlp",
        "--no-images",
        f"--samples={samples}",
        f"--out={run}",
    ]
    for after_s, number in ((3.0, signal.SIGINT), (8.0, signal.SIGINT), (8.0, signal.SIGTERM)):
        interrupted(fit, after_s, number)
