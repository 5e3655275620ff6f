"""Damage in every file of a store, at random places: never a wrong vector that is called right, never a trace.

What a damaged store answers is compared with what it answered when it was whole; then what ``imgserver mend`` advises
is done, and every vector must be right again. The tally is printed (pytest -s).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_store

WORKER = Path(__file__).parent / "damage_worker.py"
KINDS = ("flip", "noise", "cut", "emptied", "removed")
PASSED_OVER = ("lock.mdb", "rejects.csv")  # LMDB's lock is made anew at each start; the list is read by nobody
MEND_EVERY = 8


class Worker:
    """A process that opens damaged stores; another one when it has ended."""

    def __init__(self, log: Path):
        self.log, self.died = log, 0
        self._process: subprocess.Popen[str] | None = None

    def do(self, name: str, store: Path, photos: Path) -> dict[str, Any]:
        """What ``damage_worker`` found."""
        if self._process is None or self._process.poll() is not None:
            with open(self.log, "a") as log:
                self._process = subprocess.Popen(
                    [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, str(store), str(photos)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.died += 1
            self.close()
            return {"died": self._process.returncode}
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[tuple[Path, Worker]]:
    """A store with all that there can be in one, never changed, and a worker."""
    folder = tmp_path_factory.mktemp("damage")
    worker = Worker(folder / "log.txt")
    built = worker.do("build", folder / "store", photos)
    assert "versions" in built, built
    (folder / "versions.json").write_text(json.dumps(built["versions"]))
    found = worker.do("good", folder / "store", photos)
    assert len(found.get("versions", [])) == 4, found
    assert worker.do("embed", folder / "store", photos)["wrong"] == 0
    yield folder / "store", worker
    worker.close()


def damage(file: Path, kind: str, rng: random.Random) -> str:
    """Do it; return what was done."""
    size = file.stat().st_size
    used = min(size, file.stat().st_blocks * 512) or 1  # of a sparse file what is written
    at = rng.randrange(used)
    if kind == "removed":
        file.unlink()
    elif kind == "emptied":
        os.truncate(file, 0)
    elif kind == "cut":
        os.truncate(file, at)
    else:
        with open(file, "r+b") as opened:
            at = at if kind == "flip" else at // 4096 * 4096
            opened.seek(at)
            before = opened.read(1 if kind == "flip" else min(4096, size - at))
            opened.seek(at)
            opened.write(bytes([before[0] ^ 1 << rng.randrange(8)]) if kind == "flip" else rng.randbytes(len(before)))
    return f"{kind} at {at}"


def try_damages(whole: Path, worker: Worker, photos: Path, tries: int, seed: int) -> None:
    """So many damages, each of a store of its own."""
    rng = random.Random(seed)
    started, tally = time.monotonic(), Counter[str]()
    for attempt in range(tries):
        store = whole.parent / "tried"
        shutil.rmtree(store, ignore_errors=True)
        copy_store(whole, store)
        files = sorted(file for file in store.rglob("*") if file.is_file() and file.name not in PASSED_OVER)
        folder = rng.choice(sorted({file.parent for file in files}))  # so that the few of a kind have their turn
        if folder.name == "engine" and attempt % 10:  # it takes seconds
            folder = store / "index"
        file = rng.choice([file for file in files if file.parent == folder])
        what = f"{file.relative_to(store)}: {damage(file, rng.choice(KINDS), rng)}, seed {seed}, try {attempt}"
        found = worker.do("embed" if folder.name == "engine" else "look", store, photos)
        assert "trace" not in found, f"{what}: {found}"
        if "died" in found:
            tally["the process ended"] += 1
            continue
        assert not found["wrong"], f"{what}: {found}"
        tally["refused" if found["errors"] else "in part" if found["failed"] + found["missing"] else "all right"] += 1
        if attempt % MEND_EVERY == 0:
            told = worker.do("mend", store, photos)
            assert "said" in told, f"{what}: {told}"
            if not told["mended"]:
                assert "Restore a backup" in told["said"], f"{what}: {told}"
                tally["from a backup"] += 1
                continue
            after = worker.do("look", store, photos)
            if "--new-head" in told["said"]:  # another head may have come to another version
                after["errors"] = []
            assert after == {"wrong": 0, "failed": 0, "missing": 0, "errors": []}, f"{what}: after {told}: {after}"
            tally["mended"] += 1
    print(f"\n{tries} damages in {time.monotonic() - started:.0f} s: {dict(tally)}")
    assert not worker.died
    assert "Traceback" not in worker.log.read_text()


def test_a_damaged_store_is_noticed_and_mended(whole: tuple[Path, Worker], photos: Path) -> None:
    try_damages(*whole, photos, tries=40, seed=1)


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_two_thousand_damages(whole: tuple[Path, Worker], photos: Path) -> None:
    try_damages(*whole, photos, tries=2000, seed=2)
