"""kill -9 at random moments: of the process that writes the store, of the whole daemon, and of precompute.

How many of the kills hit an open transaction of LMDB is printed (pytest -s) and must be at least half.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import storage_writer
from conftest import DaemonProcess, copy_store, run_command

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.storage.records import Entries
from crossmedia.imgserver.storage.store import Store
from crossmedia.service.running import running_daemon

KILLS_A_STORE = 40  # then a new one, for each kill leaves some megabytes of rows that newer ones have replaced
DAEMON_KILLS, PRECOMPUTE_KILLS = 10, 5


class Expected:
    """What the killed writers have said so far: the last batch of each id that was acknowledged, and what was begun."""

    def __init__(self) -> None:
        self.batch: dict[int, int] = {}
        self.next = 1
        self.open: int | None = None  # begun and not acknowledged: there as a whole, or not at all
        self.in_transaction = False

    def follow(self, lines: list[str]) -> None:
        self.open = None
        for line in lines:
            what, number = line.split()
            if what == "begin":
                self.open = int(number)
            elif what == "ack":
                self.open = None
                self.take(int(number))
            self.in_transaction = what == "transaction"
            self.next = int(number) + 1

    def take(self, batch: int) -> None:
        self.batch.update(dict.fromkeys(storage_writer.ids_of(batch).tolist(), batch))


def kill_while_it_writes(source: Path, store: Path, expected: Expected, pause_s: float) -> None:
    """Start a writer, kill it ``pause_s`` seconds after its first acknowledgement, and note what it said."""
    arguments = [sys.executable, str(Path(storage_writer.__file__)), str(source), str(store), str(expected.next)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("ack"), "it goes on with what the last one left behind, without any repair"
        time.sleep(pause_s)
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    expected.follow([line for line in lines if line.endswith("\n")])


def check(store: Path, known: npt.NDArray[Any], expected: Expected) -> None:
    """Every acknowledged row is there with its checksum, and there is no other, save one open batch as a whole."""
    opened = Store(store, create=False)
    try:
        for space in storage_writer.spaces(opened, known.shape[1]):
            ids, entries, _ = opened.index.load(space.name)
            rows = opened.read(space, entries)  # raises when a checksum does not match
            found = dict(zip(ids.tolist(), entries["content"].tolist(), strict=True))
            if expected.open is not None and expected.open in found.values():
                expected.take(expected.open)  # committed, and killed before it said so
            assert found == expected.batch
            for batch in np.unique(entries["content"]).tolist():
                of_batch = entries["content"] == batch
                right = storage_writer.rows_of(known, ids[of_batch], batch)[:, : space.dim]
                assert (rows[of_batch] == right).all()
    finally:
        opened.close()


def kill_writers(source: Path, folder: Path, kills: int, seed: int) -> int:
    """Kill so many writers, checking the store after each; return how many hit an open transaction."""
    rng = np.random.default_rng(seed)
    prepared = Store(source, create=False)
    known = storage_writer.features_in(prepared)
    prepared.close()
    in_a_transaction = 0
    for start in range(0, kills, KILLS_A_STORE):
        store, expected = folder / f"store-{start}", Expected()
        for _ in range(min(KILLS_A_STORE, kills - start)):
            kill_while_it_writes(source, store, expected, float(rng.uniform(0, 0.1)))
            in_a_transaction += expected.in_transaction
            check(store, known, expected)
        shutil.rmtree(store)
    return in_a_transaction


def test_a_few_killed_writers_lose_nothing(graph_cache: Path, tmp_path: Path) -> None:
    kill_writers(graph_cache, tmp_path, kills=5, seed=1)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_killed_writers_lose_nothing(graph_cache: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    kills, started = pytestconfig.getoption("--kills"), time.monotonic()
    in_a_transaction = kill_writers(graph_cache, tmp_path, kills, seed=2)
    took = time.monotonic() - started
    print(
        f"\n{kills} writers killed in {took:.0f} s, {in_a_transaction} of them in an open transaction; "
        f"nothing acknowledged was lost"
    )
    assert in_a_transaction >= kills / 2


@pytest.fixture(scope="module")
def many_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 20,000 image ids, from 1000 on, over the 243 photos."""
    files = [str(path) for path in sorted(photos.glob("*.jpg"))]
    ids = list(range(1000, 21_000))
    manifest = tmp_path_factory.mktemp("many") / "manifest.parquet"
    pq.write_table(pa.table({"image_id": ids, "uri": [files[i % len(files)] for i in ids]}), manifest)
    return manifest


def stored(store: Path) -> tuple[dict[int, int], Entries, npt.NDArray[Any]]:
    """Place of each id, entries and rows of the active version; a row that does not match its checksum is an error."""
    opened = Store(store, create=False)
    try:
        space = opened.index.space(opened.index.active)
        assert space is not None
        ids, entries, _ = opened.index.load(space.name)
        return dict(zip(ids.tolist(), range(len(ids)), strict=True)), entries, opened.read(space, entries)
    finally:
        opened.close()


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_daemons_lose_nothing(store: Path, photos: Path, many_photos: Path) -> None:
    rng = np.random.default_rng(3)
    known: dict[int, npt.NDArray[Any]] = {}
    called, ended, lock = 0, 0, threading.Lock()
    failures: list[CrossMediaError] = []
    for kill in range(DAEMON_KILLS):
        daemon = DaemonProcess(store, many_photos, "--threads=1", f"--photo-root={photos}")
        stop, next_id = threading.Event(), iter(range(1000 + 2000 * kill, 3000 + 2000 * kill))

        def ask(address: str = daemon.address, stop: threading.Event = stop, next_id: Any = next_id) -> None:
            nonlocal called, ended
            with ImageClient(address, timeout_s=4) as client:  # it tries until then
                while not stop.is_set():
                    with lock:
                        ids = [next(next_id) for _ in range(4)]
                        called += 1
                    try:
                        found = client.get(ids)
                    except CrossMediaError as error:
                        if not stop.is_set():
                            failures.append(error)
                        return
                    assert found.ok.all()
                    with lock:
                        ended += 1
                        known.update(zip(ids, found.values, strict=True))

        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        before = len(known)
        while len(known) == before and not failures:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 1.0)))
        stop.set()
        os.kill(daemon.pid, signal.SIGKILL)
        assert not failures, "before it was killed every call was answered"
        stop_waiting = time.monotonic() + 10
        while running_daemon(store) is not None and time.monotonic() < stop_waiting:
            time.sleep(0.01)
        places, _, rows = stored(store)
        for image_id, vector in known.items():
            assert (rows[places[image_id]] == vector).all()
        for caller in callers:
            caller.join()
    print(
        f"\n{DAEMON_KILLS} daemons killed with {called - ended} calls under way; {len(known)} acknowledged vectors "
        f"are there"
    )
    again = DaemonProcess(store, None)  # without a catalogue nothing can be computed
    try:
        with ImageClient(again.address) as client:
            found = client.get(list(known))
    finally:
        again.stop()
    assert found.ok.all()
    assert (found.values == np.stack(list(known.values()))).all()


def wait_until_it_writes(store: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when a process has committed something to a store, or has ended."""
    opened = Store(store, create=False)
    try:
        before = len(opened.index)
        while len(opened.index) == before and process.poll() is None:
            time.sleep(0.01)
    finally:
        opened.close()


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_precompute_killed_again_and_again_gives_what_one_gives(
    photos: Path, many_photos: Path, tmp_path: Path, store: Path
) -> None:
    rng = np.random.default_rng(4)
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(str(i) for i in range(1000, 3000)))
    at_once = copy_store(store, tmp_path / "at-once")
    photos_of = (f"--catalogue={many_photos}", f"--photo-root={photos}", f"--ids={ids}")
    common = ("imgserver", "precompute", *photos_of, "--dim=16", "--threads=1")
    run_command(*common, f"--store={at_once}")
    killed = 0
    for _ in range(PRECOMPUTE_KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", *common, f"--store={store}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until_it_writes(store, process)
        time.sleep(float(rng.uniform(0, 0.5)))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        places, _, rows = stored(store)
        assert np.isfinite(rows).all()
        assert set(range(100)) <= set(places), "what was there stays there"
    report = json.loads(run_command(*common, f"--store={store}", "--json").stdout)
    print(f"\n{killed} of {PRECOMPUTE_KILLS} killed while they wrote; the last one had {report['embedded']} left")
    assert killed >= PRECOMPUTE_KILLS - 1
    there, _, rows = stored(store)
    expected, _, right = stored(at_once)
    assert there.keys() == expected.keys() == {*range(100), *range(1000, 3000)}
    order = list(there)
    np.testing.assert_array_equal(rows[[there[i] for i in order]], right[[expected[i] for i in order]])
