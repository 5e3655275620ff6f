"""No room, no larger file, no larger map, no permission: an error that says so, nothing lost, and on afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import DaemonProcess, copy_store, run_command

from crossmedia.errors import DeadlineExceeded, StoreError
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.storage import environment, table
from crossmedia.imgserver.storage.records import SOURCE, Rows, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.status import Status

DIM = 64


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"A small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def put(store: Store, start: int, count: int = 200) -> Space:
    """Rows ``start`` to ``start + count``, each of its id's remainder."""
    space = store.index.ensure_space("v/64", "vector", DIM, "float16")
    ids = np.arange(start, start + count)
    values = np.repeat((ids % 1000).astype(np.float16)[:, None], DIM, axis=1)
    store.put(Rows(space, ids, np.full(count, Status.OK, np.uint8), np.zeros(count, SOURCE), values))
    return space


def put_until_it_fails(store: Store) -> tuple[int, str]:
    """Rows that were acknowledged, and what the store said of the others."""
    for start in range(0, 1_000_000, 200):
        try:
            put(store, start)
        except StoreError as error:
            return start, str(error)
    raise AssertionError("It never failed.")


def check(store: Store, rows: int) -> None:
    """Exactly these rows are there, as they were written."""
    ids, entries, _ = store.index.load("v/64")
    assert ids.tolist() == list(range(rows))
    space = store.index.space("v/64")
    assert space is not None
    assert (store.read(space, entries)[:, 0] == (ids % 1000)).all()


def test_a_full_disk(mount: Path) -> None:
    store = Store(mount / "store")
    put(store, 0)
    ballast = fill(mount)
    with open(ballast, "r+b") as file:
        file.truncate(ballast.stat().st_size - (4 << 20))
    rows, said = put_until_it_fails(store)
    assert rows > 0
    assert "Is the disk full?" in said  # LMDB itself says no more than "Input/output error"
    check(store, rows)
    with pytest.raises(StoreError):
        put(store, rows)
    check(store, rows)
    ballast.unlink()
    put(store, rows)
    check(store, rows + 200)
    store.close()
    again = Store(mount / "store", create=False)
    check(again, rows + 200)
    again.close()


def test_a_full_disk_costs_a_snapshot_and_no_vector(
    mount: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(table, "SNAPSHOT_FROM", 100)
    store = Store(mount / "store")
    space = put(store, 0, 2000)
    ballast = fill(mount)
    full = Table(store, space)
    full.load()
    assert "The snapshot" in caplog.text
    assert "Is the disk full?" in caplog.text
    assert not list((mount / "store" / "index").glob("table-*"))
    assert (full.get(np.arange(2000))[0][:, 0] == np.arange(2000) % 1000).all()
    ballast.unlink()
    Table(store, space).load()
    assert len(list((mount / "store" / "index").glob("table-*"))) == 1
    store.close()


def test_a_daemon_on_a_full_disk(graph_cache: Path, mount: Path, photos: Path) -> None:
    store = copy_store(graph_cache, mount / "store")
    daemon = DaemonProcess(store, photos)
    try:
        with ImageClient(daemon.address, timeout_s=20) as client:
            before = client.get(list(range(100)))
            ballast = fill(mount)
            with pytest.raises(DeadlineExceeded, match=r"FAILED.*its log says why"):
                client.get(list(range(100, 110)), timeout_s=8)
            during = client.get(list(range(100)))
            assert during.ok.all()
            assert (during.values == before.values).all()
            run_command("imgserver", "health", f"--server={daemon.address}")
            ballast.unlink()
            assert client.get(list(range(100, 110))).ok.all(), "without a restart"
    finally:
        daemon.stop()
    log = (store / "daemon.log").read_text()
    assert "Traceback" not in log
    with ImageClient((again := DaemonProcess(store, None)).address) as client:
        assert client.get(list(range(110))).ok.all()
    again.stop()


def test_a_full_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAP_BYTES", 1 << 20)
    small = Store(tmp_path)
    rows, said = put_until_it_fails(small)
    assert rows > 0
    assert "MDB_MAP_FULL" in said
    check(small, rows)
    small.close()
    monkeypatch.undo()
    large = Store(tmp_path)
    check(large, rows)
    put(large, rows)
    check(large, rows + 200)
    large.close()


LIMITED = """
import resource, sys
sys.path[:0] = sys.argv[3:]
import test_disk
from crossmedia.imgserver.storage import rows
from crossmedia.imgserver.storage.store import Store
rows.SEGMENT_BYTES = int(sys.argv[2])
store = Store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
acknowledged, said = test_disk.put_until_it_fails(store)
print(said)
test_disk.check(store, acknowledged)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
test_disk.put(store, acknowledged)
test_disk.check(store, acknowledged + 200)
"""


@pytest.mark.parametrize(("segment_bytes", "what"), [(2 << 20, "The row file"), (64 << 10, "The index")])
def test_a_limit_on_the_size_of_files(tmp_path: Path, segment_bytes: int, what: str) -> None:
    """It is met by a new segment of rows, or by the index."""
    places = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "store"), str(segment_bytes), *places],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert what in done.stdout
    assert "Is the disk full" in done.stdout


@pytest.fixture
def read_only(graph_cache: Path, mount: Path) -> Iterator[Path]:
    """A store on a disk that cannot be written."""
    store = copy_store(graph_cache, mount / "store")
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    yield store
    subprocess.run(["mount", "-o", "remount,rw", mount], check=True)


@pytest.mark.parametrize("command", ["serve", "precompute", "versions", "export", "doctor"])
def test_a_folder_that_cannot_be_written(read_only: Path, photos: Path, tmp_path: Path, command: str) -> None:
    options = {
        "serve": ("--port=0",),
        "precompute": (f"--catalogue={photos}", "--dim=16"),
        "versions": ("--activate=x",),
        "export": (f"--out={tmp_path / 'vectors.parquet'}",),
        "doctor": (),
    }[command]
    done = run_command("imgserver", command, f"--store={read_only}", *options, check=False)
    assert done.returncode in (1, 2)
    said = done.stdout + done.stderr
    assert "Read-only file system" in said
    assert str(read_only) in said
    assert "cannot be written" in said
    assert "Traceback" not in said


def test_rows_that_may_no_longer_be_written(tmp_path: Path) -> None:
    """Somebody takes the permission away from a store that is open."""
    if os.getuid():
        who = None
    else:
        who = 65534  # permissions do not bind root
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(folder.stat().st_mode | 0o055)
        os.chown(tmp_path, who, who)
    code = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
import test_disk
from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.store import Store
test_disk.put(Store(sys.argv[1] + "-other"), 0)  # so that all of Python that is needed is there
if sys.argv[2] != "None":
    os.setuid(int(sys.argv[2]))
store = Store(sys.argv[1])
test_disk.put(store, 0)
(rows,) = Path(sys.argv[1]).rglob("*.rows")
rows.chmod(0o444)
try:
    test_disk.put(store, 200)
except StoreError as error:
    print(error)
test_disk.check(store, 200)
rows.chmod(0o644)
test_disk.put(store, 200)
test_disk.check(store, 400)
"""
    places = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store"), str(who), *places], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Permission denied" in done.stdout
