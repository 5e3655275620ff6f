"""Backups of a store in use, restored bit for bit; a damaged one is refused by the name of the file."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DaemonProcess, copy_store, run_command
from operations_stores import content, fill, python

from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.operations.backup import backup, restore
from crossmedia.imgserver.operations.doctor import examine
from crossmedia.imgserver.storage.store import Store, row_folder

WRITER = """
import time
from operations_stores import fill
from crossmedia.imgserver.storage.store import Store
store = Store(sys.argv[1])
for number in range(10**6):
    fill(store, "written/64", range(100 * number, 100 * number + 100), 1.0)
    if number == 3:
        print("go", flush=True)
    time.sleep(0.02)
"""


def test_a_backup_of_a_store_that_is_served_and_written(store: Path, photos: Path, tmp_path: Path) -> None:
    """A daemon computes misses and another process writes without end while the backup is taken."""
    served = DaemonProcess(store, photos)
    writer = python(WRITER, store)
    done = threading.Event()

    def ask() -> None:
        with ImageClient(served.address) as client:
            for image_id in range(100, 243):
                if done.is_set():
                    return
                client.get([image_id])

    asking = threading.Thread(target=ask)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "go\n"
        asking.start()
        backups = [tmp_path / "first", tmp_path / "second"]
        made = [
            json.loads(run_command("imgserver", "backup", f"--store={store}", f"--to={to}", "--json").stdout)
            for to in backups
        ]
        with ImageClient(served.address) as client:
            expected = client.get(range(100))
    finally:
        done.set()
        if asking.ident:
            asking.join()
        writer.kill()
        writer.communicate()
        served.stop()
    assert made[1]["images"] > made[0]["images"] > 200 + 400
    assert (
        made[0]["bytes"]
        == sum(file.stat().st_size for file in backups[0].rglob("*") if file.is_file())
        - (backups[0] / "backup.json").stat().st_size
    )
    live = content(store)
    for to in backups:
        back = tmp_path / f"{to.name}-store"
        run_command("imgserver", "restore", str(to), f"--store={back}")
        found = content(back)
        written = found["written/64"]
        assert len(written) % 100 == 0  # whole commits
        assert sorted(written) == list(range(len(written)))
        for name, entries in found.items():
            assert entries.items() <= live[name].items()
        with ImageClient(open_local(back)) as client:
            vectors = client.get(range(100))
        assert vectors.version == expected.version
        assert vectors.ok.all()
        assert vectors.values.tobytes() == expected.values.tobytes()


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory, graph_cache: Path) -> Path:
    """A backup of a small store."""
    folder = tmp_path_factory.mktemp("backup") / "day"
    store = copy_store(graph_cache, folder.parent / "store")
    run_command("imgserver", "index", f"--store={store}")
    run_command("imgserver", "compress", f"--store={store}", "--bytes=4")
    run_command("imgserver", "semantic-ids", f"--store={store}", "--codes=4", f"--out={folder.parent / 'ids.parquet'}")
    (store / "rejects.csv").write_text("image_id,reason\n70,CORRUPT: image file is truncated\n")
    backup(store, folder)
    return folder


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "pattern",
    ["index/data.mdb", "rows/*/*.rows", "heads/*", "similarity/*.faiss", "codebooks/*", "semantic/*", "rejects.csv"],
)
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-1])])
def test_a_damaged_backup_is_refused_by_name(
    taken: Path, tmp_path: Path, pattern: str, damage: Callable[[Path], object]
) -> None:
    copy = copy_store(taken, tmp_path / "backup")
    files = sorted(copy.glob(pattern))
    damage(files[-1])
    with pytest.raises(StoreError, match=re.escape(f"The file {files[-1]} of the backup is ")):
        restore(copy, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    restore(taken, tmp_path / "store")


def test_every_file_is_in_the_manifest_and_comes_back(taken: Path, tmp_path: Path) -> None:
    told = json.loads((taken / "backup.json").read_text())
    files = {str(file.relative_to(taken)) for file in taken.rglob("*") if file.is_file()}
    assert set(told["files"]) == files - {"backup.json"}
    assert {name.split("/")[0] for name in files} >= {"index", "rows", "heads", "codebooks", "semantic", "similarity"}
    restore(taken, tmp_path / "store")
    for name in told["files"]:
        # A backup has of row files what is in use.
        rest = (tmp_path / "store" / name).read_bytes().removeprefix((taken / name).read_bytes())
        assert not rest.strip(b"\0")
        assert name.startswith("rows/") or not rest
    assert content(tmp_path / "store") == content(taken.parent / "store")


def test_a_damaged_manifest_or_none_is_no_backup(taken: Path, tmp_path: Path) -> None:
    copy = copy_store(taken, tmp_path / "backup")
    text = (copy / "backup.json").read_text()
    for damaged in (text[:-20], "[]", text.replace('"heads/', '"../heads/')):
        (copy / "backup.json").write_text(damaged)
        with pytest.raises(BadInput, match=r"backup.json is damaged"):
            restore(copy, tmp_path / "store")
    (copy / "backup.json").unlink()
    with pytest.raises(BadInput, match="is no backup"):
        restore(copy, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_damaged_row_is_not_backed_up(store: Path, tmp_path: Path) -> None:
    file = sorted(store.glob("rows/*/*.rows"))[-1]
    with open(file, "r+b") as opened:
        opened.write(b"\xff\xff")
    done = run_command("imgserver", "backup", f"--store={store}", f"--to={tmp_path / 'day'}", "--json", check=False)
    assert done.returncode == 1
    assert f"in {file} do not match their checksum" in json.loads(done.stdout)["message"]
    assert not list(tmp_path.glob("day*"))


def test_nothing_is_overwritten(taken: Path, store: Path, tmp_path: Path) -> None:
    before = content(store)
    for command in (["restore", str(taken), f"--store={store}"], ["backup", f"--store={store}", f"--to={taken}"]):
        done = run_command("imgserver", *command, check=False)
        assert done.returncode == 2
        assert "is not empty" in done.stderr or "is there already" in done.stderr
    assert content(store) == before
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)  # a new volume of ext4
    restore(taken, tmp_path / "volume")
    assert content(tmp_path / "volume") == content(taken.parent / "store")


KILLED = """
import os, signal
from crossmedia.imgserver.operations import backup as work
copy, times = work._copy, []
def copy_some(*given):
    times.append(1)
    if len(times) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return copy(*given)
work._copy = copy_some
getattr(work, sys.argv[1])(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_killed_backup_or_restore_is_done_again(taken: Path, store: Path, tmp_path: Path) -> None:
    for work, source, target in (("backup", store, tmp_path / "day"), ("restore", taken, tmp_path / "store-again")):
        process = python(KILLED, work, source, target)
        out, error = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, out + error
        if work == "backup":
            assert not target.exists()
            backup(source, target)
            assert not target.with_name("day.part").exists()
        else:
            for create in (False, True):
                with pytest.raises(StoreError, match=r"being restored.*imgserver restore"):
                    Store(target, create=create)
            restore(source, target)
            assert content(target) == content(taken.parent / "store")


def test_a_version_deleted_meanwhile_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmedia.imgserver.operations import backup as work

    store = Store(tmp_path / "store")
    fill(store, "v/64", range(10), 1.0)
    space = store.index.space("v/64")
    assert space is not None
    store.close()
    fill_backup = work._fill

    def deleting(folder: Path, *rest: Any) -> Any:
        shutil.rmtree(row_folder(folder, space))
        return fill_backup(folder, *rest)

    monkeypatch.setattr(work, "_fill", deleting)
    with pytest.raises(StoreError, match=r"was v/64 deleted while the backup was made"):
        backup(tmp_path / "store", tmp_path / "day")
    assert not list(tmp_path.glob("day*"))


def test_a_volume_of_its_own_is_restored_to(taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lost+found belongs to root, and is not opened."""
    from crossmedia.imgserver.operations import backup as work

    synced = []
    monkeypatch.setattr(work, "sync", lambda path: synced.append(path.relative_to(tmp_path / "volume").as_posix()))
    (tmp_path / "volume" / "lost+found").mkdir(parents=True, mode=0)
    restore(taken, tmp_path / "volume")
    assert {".", "index", "rows", "heads"} < set(synced)
    assert "lost+found" not in synced
    assert content(tmp_path / "volume") == content(taken.parent / "store")


def test_a_full_disk_leaves_nothing_half_made(
    taken: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossmedia.imgserver.operations import backup as work

    copy, times = work._copy, []

    def copy_some(*given: Any) -> Any:
        times.append(1)
        if len(times) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(*given)

    monkeypatch.setattr(work, "_copy", copy_some)
    with pytest.raises(StoreError, match=r"The backup .*day cannot be made: .*No space left"):
        backup(store, tmp_path / "day")
    assert not list(tmp_path.glob("day*"))
    times.clear()
    with pytest.raises(StoreError, match=r"The store .*again cannot be made: .*No space left"):
        restore(taken, tmp_path / "again")
    assert not list((tmp_path / "again").iterdir())


def test_rows_behind_the_last_one_are_left_out(tmp_path: Path) -> None:
    """A file has its full size from the start, and what a killed writer left is named by nobody."""
    store = Store(tmp_path / "store")
    fill(store, "v/64", range(10), 1.0)
    space = store.index.space("v/64")
    assert space is not None
    store.rows(space).write(10, np.ones((5, 64)))
    store.close()
    backup(tmp_path / "store", tmp_path / "day")
    (file,) = (tmp_path / "day").glob("rows/*/*.rows")
    assert file.stat().st_size == 10 * 64 * 2
    assert time.time() - json.loads((tmp_path / "day" / "backup.json").read_text())["made_at"] < 60


def test_a_restored_store_is_written_as_the_first_one_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    fill(store, "v/64", range(40), 1.0)
    store.index.activate("v/64")
    store.close()
    backup(tmp_path / "store", tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "again")
    (first,) = (tmp_path / "store").glob("rows/*/*.rows")
    (again,) = (tmp_path / "again").glob("rows/*/*.rows")
    assert again.stat().st_size == first.stat().st_size
    store = Store(tmp_path / "again")
    fill(store, "v/64", range(40, 50), 1.0)
    store.close()
    assert len(list((tmp_path / "again").glob("rows/*/*.rows"))) == 1
    assert examine(tmp_path / "again", full=True)["dropped rows"].level == "ok"
