from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossmedia.disk import replacing, unwritable, used_bytes
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.operations.doctor import examine
from crossmedia.imgserver.storage import changes, index_reading
from crossmedia.imgserver.storage.checksums import name_rows, row_checksums
from crossmedia.imgserver.storage.hashtable import ABSENT, IdTable
from crossmedia.imgserver.storage.records import SOURCE, Rows, Space
from crossmedia.imgserver.storage.rows import RowFile
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.imgserver.storage.versions import delete
from crossmedia.status import DAMAGED, Status


def put(store: Store, name: str, ids: list[int], value: float, content: int = 1, status: int = Status.OK) -> None:
    space = store.index.ensure_space(name, "vector", 4, "float16")
    values = np.full((len(ids), 4), value)
    states = np.full(len(ids), status, dtype=np.uint8)
    store.put(Rows(space, np.array(ids), states, np.array([(1, 2, content)] * len(ids), dtype=SOURCE), values))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(-5, 2**40)), max_size=200))
def test_hash_table_equals_a_dict(pairs: list[tuple[int, int]]) -> None:
    table, plain = IdTable(4), dict[int, int]()
    for start in range(0, len(pairs), 7):
        part = dict(pairs[start : start + 7])
        table.put(np.array(list(part), dtype=np.int64), np.array(list(part.values()), dtype=np.int64))
        plain.update(part)
    asked = [*plain, 3, 2**61 + 1]
    expected = [plain.get(i, ABSENT) for i in asked]
    assert table.get(np.array(asked, dtype=np.int64)).tolist() == expected
    assert len(table) == len(plain)


def test_rows_cross_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossmedia.imgserver.storage.rows.SEGMENT_BYTES", 8 * 12)
    rows = RowFile(tmp_path, 3, "float32")
    values = np.arange(105, dtype=np.float32).reshape(35, 3)
    rows.write(0, values[:7])
    rows.write(7, values[7:])
    assert len(list(tmp_path.glob("*.rows"))) == 5
    chosen = np.array([0, 34, 7, 8, 9, 16, 7])
    for opened in (rows, RowFile(tmp_path, 3, "float32")):
        found, bad = opened.gather(name_rows(chosen, row_checksums(values[chosen])))
        assert (found == values[chosen]).all()
        assert bad is None


def test_the_table_follows_what_another_opening_of_the_store_adds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "v/4", [5, 1, 9], 1.0)
    space = store.index.space("v/4")
    assert space is not None
    table = Table(store, space)
    table.load()
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from test_storage import put; from crossmedia.imgserver.storage.store import Store\n"
        "put(Store(sys.argv[1]), 'v/4', [7, 8], 2.0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], check=True)
    assert table.get(np.array([7]))[1][0] == 0
    assert table.refresh() == 2
    values, status = table.get(np.array([7, 1, 100]))
    assert values[:, 0].tolist() == [2.0, 1.0, 0.0]
    assert status.tolist() == [Status.OK, Status.OK, 0]
    assert len(table) == 5
    store.close()


def test_failures_are_known_and_have_no_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "v/4", [5], 1.0)
    put(store, "v/4", [6], 0.0, status=Status.CORRUPT)
    space = store.index.space("v/4")
    assert space is not None
    table = Table(store, space)
    for loaded in (False, True):  # answers are the same before and after loading
        assert table.loaded == loaded
        values, status = table.get(np.array([6, 5, 7]))
        assert status.tolist() == [Status.CORRUPT, Status.OK, 0]
        assert values[:, 0].tolist() == [0.0, 1.0, 0.0]
        table.load()
    store.close()


def test_generation_grows_when_content_changes_and_only_then(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "v/4", [1, 2], 1.0, content=1)
    first = store.index.generation
    put(store, "v/4", [3], 1.0, content=1)
    put(store, "v/4", [1], 1.0, content=1)
    assert store.index.generation == first
    put(store, "v/4", [2], 1.5, content=2)
    assert store.index.generation == first + 1
    store.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.integers(0, 60), max_size=40))
def test_many_entries_at_once_are_those_of_one_by_one(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / str(len(list(tmp_path.iterdir()))))
    put(store, "other/4", [7, 8], 3.0)
    put(store, "v/4", list(range(0, 50, 3)), 1.0)
    put(store, "later/4", [9, 10], 3.0)
    ids = np.array(asked, dtype=np.int64)
    for name in ("v/4", "none/4"):
        plain = store.index.get(name, ids)
        with monkeypatch.context() as patch:
            patch.setattr(index_reading, "SCAN_FROM", -1)
            patch.setattr(index_reading, "SCAN_SHARE", 10**9)
            walked = store.index.get(name, ids)
        assert (walked[0] == plain[0]).all()
        assert (walked[1] == plain[1]).all()
    store.close()


def test_a_damaged_row_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "v/4", [1], 1.0)
    space = store.index.space("v/4")
    assert space is not None
    with open(next((tmp_path / "rows").rglob("*.rows")), "r+b") as file:
        file.write(b"\xff")
    _, entries, _ = store.index.load("v/4")
    with pytest.raises(StoreError, match="do not match their checksum"):
        store.read(space, entries)
    store.close()


def test_acknowledged_batches_survive_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_storage import put; from crossmedia.imgserver.storage.store import Store\n"
        "store = Store(sys.argv[1]); n = 0\n"
        "while True:\n"
        "    put(store, 'v/4', list(range(n, n + 50)), n % 1000, content=n + 1); n += 50; print(n, flush=True)"
    )
    acknowledged = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.15)
        os.kill(process.pid, signal.SIGKILL)
        lines = process.communicate()[0].split()
        acknowledged = max(acknowledged, *(int(line) for line in lines[:-1]), 50)
    store = Store(tmp_path)
    ids, entries, _ = store.index.load("v/4")
    space = store.index.space("v/4")
    assert space is not None
    values = store.read(space, entries)
    assert set(range(acknowledged)) <= set(ids.tolist())
    assert (values[:, 0] == np.float16((ids // 50 * 50) % 1000)).all()
    store.close()


def big_store(folder: Path, n: int) -> tuple[Store, Space]:
    store = Store(folder)
    put(store, "v/4", list(range(n)), 1.0)
    space = store.index.space("v/4")
    assert space is not None
    return store, space


def test_a_large_table_starts_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, space = big_store(tmp_path, 120_000)
    first = Table(store, space)
    first.load()
    assert len(list((tmp_path / "index").glob("table-*"))) == 1
    put(store, "v/4", [500_000, 7], 3.0)
    with monkeypatch.context() as patch:
        patch.setattr(store.index, "load", lambda name: pytest.fail("the entries were walked over"))
        second = Table(store, space)
        second.load()
    values, status = second.get(np.array([7, 8, 500_000, 999_999]))
    assert values[:, 0].tolist() == [3.0, 1.0, 3.0, 0.0]
    assert status.tolist() == [Status.OK, Status.OK, Status.OK, 0]
    assert len(second) == 120_001
    for file in (tmp_path / "index").glob("table-*"):  # a copy of the store may lack it
        file.unlink()
    third = Table(store, space)
    third.load()
    assert len(third) == 120_001
    store.close()


def test_a_table_says_that_it_is_loaded_when_it_has_followed_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, space = big_store(tmp_path, 120_000)
    Table(store, space).load()
    put(store, "v/4", [500_000, 7], 3.0)
    table, seen = Table(store, space), []
    changes_since = store.index.changes_since

    def asked_meanwhile(sequence: int, name: str) -> Any:
        seen.append(table.get(np.array([7, 500_000]))[0][:, 0].tolist())
        return changes_since(sequence, name)

    monkeypatch.setattr(store.index, "changes_since", asked_meanwhile)
    table.load()
    assert table.loaded
    assert seen == [[3.0, 3.0]], "the index answered, and not the snapshot"
    store.close()


def test_readers_never_wait_for_a_writer(tmp_path: Path) -> None:
    store, space = big_store(tmp_path, 1000)
    table = Table(store, space)
    table.load()
    code = (
        "import sys, time; sys.path[:0] = sys.argv[2:]\n"
        "from crossmedia.imgserver.storage.store import Store\n"
        "with Store(sys.argv[1]).index._env.write(): print('writing', flush=True); time.sleep(3)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        started = time.monotonic()
        for _ in range(100):
            assert (table.get(np.arange(1000))[1] == Status.OK).all()
            assert table.refresh() == 0
            store.index.get("v/4", np.arange(10))
        assert time.monotonic() - started < 2.5
        assert writer.poll() is None, "it held the lock all the while"
    store.close()


def test_what_a_killed_reader_held_is_given_free(tmp_path: Path) -> None:
    store, _ = big_store(tmp_path, 10)
    code = (
        "import os, sys, signal\n"
        "from crossmedia.imgserver.storage.store import Store\n"
        "txn = Store(sys.argv[1]).index._env._lmdb.begin(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    readers = store.index._env._lmdb.readers()
    assert readers.count("\n") >= 2, readers  # a heading and the dead one
    store.close()
    again = Store(tmp_path)
    assert again.index._env._lmdb.reader_check() == 0, "opening has cleared it"
    again.close()


def test_a_deleted_version_frees_its_disk(tmp_path: Path) -> None:
    store, space = big_store(tmp_path, 5000)
    put(store, "w/4", [1, 2], 2.0)
    before = store.used_bytes()
    assert store.delete(space) == 5000
    assert store.index.space("v/4") is None
    assert store.used_bytes() < before
    put(store, "v/4", [9], 4.0)
    again, other = store.index.space("v/4"), store.index.space("w/4")
    assert again is not None
    assert other is not None
    table = Table(store, again)
    table.load()
    assert table.get(np.array([9, 1]))[1].tolist() == [Status.OK, 0]
    table = Table(store, other)
    table.load()
    assert table.get(np.array([1, 9]))[0][:, 0].tolist() == [2.0, 0.0]
    store.close()


def elsewhere(folder: Path, code: str) -> None:
    """Run ``code`` in another process, which has the store ``folder`` open as ``store``."""
    head = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_storage import put\n"
        "from crossmedia.imgserver.storage.store import Store\nstore = Store(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", head + code, str(folder), str(Path(__file__).parent)], check=True)


MADE_AGAIN = "store.delete(store.index.space('{0}')); put(store, '{0}', [2, 1], {1})"


def test_a_version_that_is_deleted_and_made_again_has_rows_of_its_own(tmp_path: Path) -> None:
    """Another process does it, while this one has the former rows mapped and is about to write."""
    store = Store(tmp_path)
    put(store, "v/4", [1, 2], 1.0)
    former = store.index.space("v/4")
    assert former is not None
    table = Table(store, former)
    table.load()
    assert table.get(np.array([2]))[0][0, 0] == 1.0
    elsewhere(tmp_path, MADE_AGAIN.format("v/4", 5.0))
    again = store.index.space("v/4")
    assert again is not None
    assert again.number > former.number, "so that who removes the former rows does not meet the new ones"
    table = Table(store, again)
    table.load()
    assert table.get(np.array([1, 2]))[0][:, 0].tolist() == [5.0, 5.0]
    late = np.full(1, Status.OK, dtype=np.uint8), np.array([(1, 2, 3)], dtype=SOURCE)
    with pytest.raises(StoreError, match="was deleted from the store"):
        store.put(Rows(former, np.array([3]), *late, np.full((1, 4), 9.0)))
    store.index.restamp("v/4", np.array([1, 77]), np.array([(8, 9, 1)] * 2, dtype=SOURCE))  # 77 has gone
    entries, found = store.index.get("v/4", np.array([1, 77]))
    assert (entries["stamp"].tolist(), found.tolist()) == ([9, 0], [True, False])
    store.close()


def test_a_version_made_again_is_served_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a@1+imported/4", "b@1+imported/4"):
        put(store, name, [1, 2], 1.0)
    store.index.activate("a@1+imported/4")
    store.close()
    with ImageClient(open_local(tmp_path)) as client:
        for name, value in (("b@1+imported/4", 5.0), ("a@1+imported/4", 6.0)):
            assert client.get([1], version=name).values[0, 0] == 1.0
            elsewhere(tmp_path, MADE_AGAIN.format(name, value))
            deadline = time.monotonic() + 10
            while client.get([1], version=name).values[0, 0] != value:
                assert time.monotonic() < deadline, "a server follows within seconds"
                time.sleep(0.1)


def test_a_row_file_that_is_missing_is_not_taken_for_zeros(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "v/4", [1], 1.0)
    space = store.index.space("v/4")
    assert space is not None
    store.close()
    (file,) = (tmp_path / "rows").rglob("*.rows")
    file.unlink()
    store = Store(tmp_path)
    table = Table(store, space)
    table.load()
    values, status = table.get(np.array([1]))
    assert (values == 0).all()
    assert status.tolist() == [DAMAGED]
    with pytest.raises(StoreError, match="do not match their checksum"):
        store.read(space, store.index.load("v/4")[1])
    assert not file.exists()
    store.close()


def test_a_table_that_fell_behind_the_log_reads_all_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "KEEP_CHANGES", 3)
    store = Store(tmp_path)
    put(store, "v/4", [1], 1.0)
    space = store.index.space("v/4")
    assert space is not None
    table = Table(store, space)
    table.load()
    for image_id in (2, 3, 4):
        put(store, "v/4", [image_id], 2.0)
    assert table.refresh() == 3
    for image_id in (5, 6, 7, 8, 1):
        put(store, "v/4", [image_id], 3.0)
    assert store.index.changes_since(1, "v/4") is None
    assert table.refresh() == 8
    assert table.get(np.arange(1, 9))[0][:, 0].tolist() == [3.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]
    store.close()


def test_a_file_takes_the_place_of_another_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    with replacing(file) as part:
        part.write_bytes(b"one")

    def stopped() -> None:
        with replacing(file) as part:
            part.write_bytes(b"two")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    with pytest.raises(StoreError, match=r"file/below cannot be written: .*exists"), replacing(file / "below"):
        pass
    assert [path.name for path in file.parent.iterdir()] == ["file"]
    assert file.read_bytes() == b"one"
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(1 << 30)
    assert 0 < used_bytes(tmp_path) < 1 << 20
    assert used_bytes(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/proc/store", "The store /proc/store cannot be made: the file system of /proc takes no new files"),
        ("{tmp}/file", "{tmp}/file is a file. Choose another place, or move that file away"),
        ("{tmp}/file/below/store", "{tmp}/file is a file. Choose"),
        ("{tmp}/read-only/store", "the disk of {tmp}/read-only is read-only. Choose another place"),
        ("{tmp}/full/store", "there is no space left on the disk of {tmp}/full/.* Make room, or choose another disk"),
        ("{tmp}/st\udce9", r"'.*st.udce9', is no UTF-8 text. Rename it"),
    ],
)
def test_where_no_store_can_be_made(place: str, said: str, tmp_path: Path) -> None:
    """A full disk would end the process with SIGBUS, where LMDB writes its lock as memory."""
    (tmp_path / "file").touch()
    options = {"read-only": "ro", "full": "size=64k"}
    mounted = [tmp_path / name for name in options if f"/{name}/" in place]
    for folder in mounted:
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options[folder.name], "tmpfs", folder], check=False)
        if done.returncode:
            pytest.skip("A small disk cannot be mounted here.")
    try:
        if "full" in place:
            (tmp_path / "full" / "ballast").write_bytes(bytes(50_000))
        with pytest.raises(BadInput, match=said.format(tmp=tmp_path)):
            Store(place.format(tmp=tmp_path))
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_copied_store_whose_name_is_no_text_says_that_alone(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    copy = tmp_path / "st\udce9"
    shutil.copytree(tmp_path / "store", copy)
    with pytest.raises(BadInput, match=r"^The name of the store, .* is no UTF-8 text"):
        Store(copy, create=False)
    copy.rename(tmp_path / "named")
    Store(tmp_path / "named", create=False).close()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "takes no new files"),
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "no space left"),
    ],
)
def test_why_a_place_cannot_be_written(number: int, said: str, tmp_path: Path) -> None:
    assert said in unwritable(tmp_path / "a" / "b", OSError(number, os.strerror(number)))


def test_a_table_costs_at_most_forty_bytes_an_image() -> None:
    for n in (100_000, 150_000, 1_000_000, 1_300_000):
        table = IdTable()
        for start in range(0, n, 50_000):
            table.put(np.arange(start, start + 50_000), np.arange(start, start + 50_000))
        assert table._slots.nbytes <= 40 * n


MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


def test_a_catalogue_larger_than_memory_is_served(tmp_path: Path) -> None:
    """Rows of 600 MB, looked up by a process that may hold 350 MB, page cache included."""
    group = MEMORY_GROUPS / f"crossmedia-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(350 << 20))
    except OSError as error:
        pytest.skip(f"memory cannot be limited here: {error}")
    try:
        n, dim = 300_000, 1024
        store = Store(tmp_path)
        space = store.index.ensure_space(f"v/{dim}", "vector", dim, "float16")
        for start in range(0, n, 10_000):
            ids = np.arange(start, start + 10_000)
            values = np.repeat((ids % 2048).astype(np.float16)[:, None], dim, axis=1)
            store.put(Rows(space, ids, np.full(len(ids), Status.OK, np.uint8), np.zeros(len(ids), SOURCE), values))
        store.close()
        code = f"""
import numpy as np, pathlib, resource
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.imgserver.storage.versions import delete
store = Store({str(tmp_path)!r})
table = Table(store, store.index.space("v/{dim}"))
table.load()
for seed in range(30):
    ids = np.random.default_rng(seed).integers(0, {n}, 5000)
    values, status = table.get(ids)
    assert (status == {int(Status.OK)}).all()
    assert (values == (ids % 2048)[:, None]).all()
print("served")
"""
        inside = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n{code}"
        done = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, timeout=200)
        assert done.stdout == "served\n", done.stderr
        peak = int((group / "memory.max_usage_in_bytes").read_text())
        assert peak <= 350 << 20
    finally:
        group.rmdir()


def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    """Files under way are locked by who writes them."""
    code = """
import os, signal, sys
from pathlib import Path
from crossmedia.disk import replacing
with replacing(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with replacing(tmp_path / "live") as part:
        part.write_text("whole")
        with replacing(tmp_path / "file") as other:
            other.write_text("whole")
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "live"]
    assert (tmp_path / "live").read_text() == "whole"


def test_a_deletion_that_was_killed_is_ended_by_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("v", "w"):
        put(store, name, [1, 2], 1.0)
    store.index.activate("w")
    space = store.index.space("v")
    assert space is not None
    store.index.delete_space("v")  # killed here
    store.close()
    rows = tmp_path / "rows" / f"{space.number:04d}"
    assert rows.exists()
    assert "which was deleted" in examine(tmp_path)["dropped rows"].found
    store = Store(tmp_path)
    assert delete(store, "v") == 0
    assert not rows.exists()
    with pytest.raises(BadInput, match="does not hold"):
        delete(store, "v")
    store.close()
