"""Compaction and formats: rows are kept bit for bit, whatever is killed; kept stores of the old and today's format."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import DaemonProcess, copy_store, run_command
from operations_stores import content, fail, fill, python

from crossmedia import imgserver
from crossmedia.errors import BadInput, NoStore, StoreError
from crossmedia.imgserver.client import ImageClient, Status
from crossmedia.imgserver.operations.compact import compact
from crossmedia.imgserver.storage.checksums import row_checksums
from crossmedia.imgserver.storage.environment import FORMAT
from crossmedia.imgserver.storage.exclusive import alone
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store, row_folder
from crossmedia.imgserver.storage.table import Table

FIXTURES = Path(__file__).parent / "fixtures"


def kept_store(number: int, to: Path) -> Path:
    """The fixture of a format, unpacked; tar keeps the holes of its row files."""
    to.mkdir()
    subprocess.run(["tar", "-xzf", FIXTURES / f"store-format-{number}.tar.gz", "-C", to], check=True)
    return to / "store"


def check_serves(store: Path, number: int) -> None:
    """The store serves what the fixture's store served when it was made."""
    told = json.loads((FIXTURES / f"store-format-{number}.json").read_text())
    vectors = told["spaces"][told["active"]]
    ids = [int(image_id) for image_id in vectors["status"]]
    with ImageClient(imgserver.open_local(store)) as client:
        found = client.get(ids)
    assert found.version == told["active"]
    assert found.generation == told["generation"]
    assert dict(zip(map(str, ids), found.status.tolist(), strict=True)) == vectors["status"]
    served = {str(i): row.tobytes().hex() for i, row, ok in zip(ids, found.values, found.ok, strict=True) if ok}
    assert served == vectors["rows"]
    assert len(served) == 7
    assert set(content(store)) == set(told["spaces"])


def test_a_store_of_todays_format_serves_what_it_served(tmp_path: Path) -> None:
    """If this fails, the format changed: see fixtures/README.md."""
    assert FORMAT == 3
    check_serves(kept_store(FORMAT, tmp_path / "kept"), FORMAT)


@pytest.mark.parametrize(
    ("more", "words"), [(1, "A newer release made it"), (-1, "It is from before the first release")]
)
def test_a_store_of_another_format_is_refused_with_what_to_do(more: int, words: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    fill(store, "v/64", range(3), 1.0)
    set_format(store, FORMAT + more)
    store.close()
    for command in ("doctor", "compact", "serve"):
        done = run_command("imgserver", command, f"--store={tmp_path / 'store'}", check=False)
        assert done.returncode == 1, command
        assert f"has format {FORMAT + more}, and this release reads format {FORMAT}" in done.stdout + done.stderr
        assert words in done.stdout + done.stderr


def set_format(store: Store, number: int) -> None:
    with store.index._env.write() as txn:
        txn.put(b"format", str(number).encode(), db=store.index._env.meta)


def make_wasteful(folder: Path) -> None:
    """A store most of whose rows nobody names."""
    store = Store(folder)
    fill(store, "kept/64", range(500), 1.0)
    for value in range(4):
        fill(store, "v/64", range(0, 4000, 2), float(value))
    fail(store, "v/64", range(1, 50, 2))
    fail(store, "v/64", range(0, 20, 2))  # they had a row
    fill(store, "gone/64", range(3000), 5.0)
    gone = store.index.space("gone/64")
    assert gone is not None
    store.delete(gone)
    store.index.activate("v/64")
    store.close()


@pytest.fixture(scope="module")
def wasteful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wasteful") / "store"
    make_wasteful(folder)
    return folder


def bytes_of(store: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in store.rglob("*") if file.is_file())


def test_compact_gives_back_what_nobody_names(wasteful: Path, tmp_path: Path) -> None:
    store = copy_store(wasteful, tmp_path / "store")
    before, taken = content(store), bytes_of(store)
    report = json.loads(run_command("imgserver", "compact", f"--store={store}", "--json").stdout)
    assert content(store) == before
    assert report["rows"] == 500 + 2000 - 10
    assert report["rows_dropped"] == 3 * 2000 + 10
    assert report["bytes_after"] < 0.55 * report["bytes_before"]
    assert bytes_of(store) < 0.55 * taken
    opened, former = Store(store), Store(wasteful)
    assert opened.index.active == former.index.active == "v/64"
    assert opened.index.generation == former.index.generation > 1
    former.close()
    kept, space = opened.index.space("kept/64"), opened.index.space("v/64")
    assert kept is not None
    assert kept.number == 1  # nothing of it was dropped, so nothing was written
    assert space is not None
    assert space.next_row == 1990
    fill(opened, "v/64", range(0, 40, 2), 9.0)  # it takes more, as before
    table = Table(opened, space)
    table.load()
    values, status = table.get(np.array([0, 38, 40, 1]))
    opened.close()
    assert values[:, 0].tolist() == [9.0, 9.0 + 38 / 8, 3.0 + 40 / 8, 0.0]
    assert status.tolist() == [1, 1, 1, 3]


def test_compact_keeps_the_codes_of_a_compressed_version(store: Path) -> None:
    run_command("imgserver", "compress", f"--store={store}", "--bytes=4")
    opened = Store(store)
    (coded,) = [space for space in opened.index.spaces("vector") if space.codebook]
    ids, values = np.arange(50), np.random.default_rng(0).standard_normal((50, 16))
    opened.put(Rows(coded, ids, np.ones(50, np.uint8), np.ones(50, SOURCE), values))
    opened.close()
    before = content(store)
    report = compact(store)
    assert report.rows_dropped == 50
    assert content(store) == before
    assert len(before[coded.name]) == 100


KILLED = """
import os, signal
from crossmedia.imgserver.operations import compact as work
from crossmedia.imgserver.storage.rows import RowFile
step = sys.argv[2]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
write, replaced, clean, times = RowFile.write, os.replace, work._clean, []
if step == "rows":
    work.BLOCK_BYTES = 64 << 10
    def write_some(self, *given):
        times.append(1)
        write(self, *given) if len(times) < 3 else die()
    RowFile.write = write_some
if step == "before the swap":
    os.replace = die
if step == "after the swap":
    os.replace = lambda *given: (replaced(*given), die())
if step == "cleaning":
    import shutil
    removed = shutil.rmtree
    clean_times = []
    def clean_some(*given):
        clean_times.append(1)
        if len(clean_times) == 2:
            shutil.rmtree = lambda folder, **_: (next(Path(folder).iterdir()).unlink(), die())
        clean(*given)
    work._clean = clean_some
work.compact(Path(sys.argv[1]))
print("never killed")
"""


@pytest.mark.parametrize("step", ["rows", "before the swap", "after the swap", "cleaning"])
def test_compact_killed_at_any_step_loses_nothing(wasteful: Path, tmp_path: Path, step: str) -> None:
    store = copy_store(wasteful, tmp_path / "store")
    before = content(store)
    process = python(KILLED, store, step)
    out, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, out + error
    assert content(store) == before
    compact(store)
    assert content(store) == before
    reference = copy_store(wasteful, tmp_path / "reference")
    compact(reference)
    assert abs(bytes_of(store) - bytes_of(reference)) <= 64 << 10
    opened = Store(store)
    spaces = opened.index.spaces("vector")
    opened.close()
    assert set((store / "rows").iterdir()) == {row_folder(store, space) for space in spaces}


@pytest.mark.slow
def test_compact_killed_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_wasteful(store)
    before = content(store)
    code = "from crossmedia.imgserver.operations.compact import compact\n"
    code += "print('go', flush=True)\ncompact(Path(sys.argv[1]))"
    for round_ in range(25):
        process = python(code, store)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(round_ * 0.004)
        process.kill()
        process.communicate()
        assert content(store) == before


def test_compact_refuses_a_damaged_row_and_changes_nothing(wasteful: Path, tmp_path: Path) -> None:
    store = copy_store(wasteful, tmp_path / "store")
    opened = Store(store)
    space = opened.index.space("v/64")
    assert space is not None
    last = opened.index.load("v/64")[1]["row"].max()
    opened.close()
    with open(row_folder(store, space) / "00000.rows", "r+b") as file:
        file.seek(int(last) * 128)
        file.write(b"\xff\xff")
    with pytest.raises(StoreError, match=r"1 rows of v/64 .* nothing was changed"):
        compact(store)
    opened = Store(store)
    assert opened.index.space("v/64") == space
    opened.close()


def test_compact_refuses_a_store_that_is_in_use(graph_cache: Path, tmp_path: Path) -> None:
    process = DaemonProcess(copy_store(graph_cache, tmp_path / "store"), None)
    try:
        done = run_command("imgserver", "compact", f"--store={process.store}", check=False)
        assert done.returncode == 2
        assert f"is open in process {process.pid} (" in done.stderr
        assert "imgserver stop" in done.stderr
        with ImageClient(process.address) as client:
            assert client.get([1, 2]).status.tolist() == [Status.OK, Status.OK]
    finally:
        process.stop()
    run_command("imgserver", "compact", f"--store={process.store}")


def test_who_comes_while_a_store_is_held_alone_waits(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    fill(store, "v/64", range(10), 1.0)
    store.close()
    code = (
        "from operations_stores import fill; from crossmedia.imgserver.storage.store import Store\n"
        "print('go', flush=True)\nfill(Store(sys.argv[1]), 'v/64', range(10, 20), 1.0)"
    )
    with alone(tmp_path / "store"):
        process = python(code, tmp_path / "store")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1.0)
        assert process.poll() is None
    assert process.communicate(timeout=30)[1] == ""
    assert len(content(tmp_path / "store")["v/64"]) == 20


def test_a_store_held_by_another_process_is_not_had_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = python(
        "from crossmedia.imgserver.storage.store import Store\n"
        "s = Store(sys.argv[1]); print('go', flush=True); input()",
        store,
    )
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(BadInput, match=rf"open in process {process.pid} "), alone(store):
        pass
    process.kill()
    process.communicate()
    with alone(store):
        pass
    with pytest.raises(NoStore, match="There is no store"), alone(tmp_path / "none"):
        pass


def test_checksums_of_the_fixture_are_those_of_its_rows(tmp_path: Path) -> None:
    """What verifies rows is part of the format too."""
    told = json.loads((FIXTURES / f"store-format-{FORMAT}.json").read_text())
    store = Store(kept_store(FORMAT, tmp_path / "kept"))
    ids, entries, _ = store.index.load(told["active"])
    for image_id, entry in zip(ids.tolist(), entries, strict=True):
        if row := told["spaces"][told["active"]]["rows"].get(str(image_id)):
            assert row_checksums(np.frombuffer(bytes.fromhex(row), "<f2")[None])[0] == entry["checksum"]
    store.close()
