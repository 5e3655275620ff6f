"""Damage of each kind in a store: what is noticed, what is served all the same, what mends it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import lmdb
import numpy as np
import pytest
import xxhash
from conftest import DaemonProcess, run_command
from hypothesis import given
from hypothesis import strategies as st
from operations_stores import content, fill

from crossmedia.errors import StoreError
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.head import fit_pca
from crossmedia.imgserver.operations.mend import mend
from crossmedia.imgserver.storage import page_walk
from crossmedia.imgserver.storage import rows as row_files
from crossmedia.imgserver.storage.checksums import name_rows, open_fact, row_checksums, seal_fact
from crossmedia.imgserver.storage.pages import check_pages, readable
from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.rows import RowFile
from crossmedia.imgserver.storage.snapshots import load_snapshot
from crossmedia.imgserver.storage.store import Store, row_folder
from crossmedia.imgserver.storage.table import Table
from crossmedia.notes import note, read_note
from crossmedia.status import DAMAGED, Status

NAME = "v@0+imported/64"


def flip(file: Path, at: int, bit: int = 0) -> None:
    with open(file, "r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1 << bit]))


def made(folder: Path, images: int = 40) -> tuple[Store, Space]:
    store = Store(folder)
    fill(store, NAME, range(images), 1.0)
    store.index.activate(NAME)
    space = store.index.space(NAME)
    assert space is not None
    return store, space


def table_of(store: Store, space: Space) -> Table:
    table = Table(store, space)
    table.load()
    return table


def row_file(store: Path) -> Path:
    (file,) = store.glob("rows/*/00000.rows")
    return file


@given(st.binary(min_size=1, max_size=300), st.integers(1, 3))
def test_checksums_are_those_of_xxhash(row: bytes, n: int) -> None:
    rows = np.frombuffer(row * n, dtype=np.uint8).reshape(n, -1)
    assert row_checksums(rows).tolist() == [xxhash.xxh32_intdigest(row)] * n


def test_a_damaged_row_is_no_vector_also_while_it_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, space = made(tmp_path)
    table = table_of(store, space)
    flip(row_file(tmp_path), 128 * 7 + 5)
    values, status = table.get(np.arange(40))
    assert np.flatnonzero(status != Status.OK).tolist() == [7]
    assert status[7] == DAMAGED
    assert (values[7] == 0).all()
    flip(row_file(tmp_path), 128 * 8 + 5)  # was compared just now
    monkeypatch.setattr(row_files, "VERIFY_EVERY_S", 0.0)
    assert np.flatnonzero(table.get(np.arange(40))[1] == DAMAGED).tolist() == [7, 8]
    assert np.flatnonzero(table.get(np.arange(40))[1] == DAMAGED).tolist() == [7, 8]
    assert store.damaged == 2, "each once"
    store.close()


@pytest.mark.parametrize("rows", [0, 10])
def test_a_row_file_that_is_cut_is_never_made_longer(rows: int, tmp_path: Path) -> None:
    store, space = made(tmp_path)
    table = table_of(store, space)
    assert (table.get(np.arange(40))[1] == Status.OK).all()
    for opened in (table, None):  # while it is served, and after a start
        os.truncate(row_file(tmp_path), 128 * rows + 3)
        if opened is None:
            store.close()
            store = Store(tmp_path)
            opened = table_of(store, space)
        values, status = opened.get(np.arange(40))
        assert status.tolist() == [Status.OK] * rows + [DAMAGED] * (40 - rows)
        assert (values[:rows, 0] == np.arange(rows) / 8 + 1).all()
    fill(store, NAME, range(30, 50), 2.0)  # what is written now goes into the next file
    opened = table_of(store, space)
    assert opened.get(np.arange(30, 50))[1].tolist() == [Status.OK] * 20
    assert opened.get(np.arange(30, 50))[0][:, 0].tolist() == [i / 8 + 2 for i in range(30, 50)]
    assert row_file(tmp_path).stat().st_size == 128 * rows + 3
    store.close()


def test_a_file_that_a_killed_writer_left_short_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossmedia.imgserver.storage.rows.SEGMENT_BYTES", 8 * 8)
    (tmp_path / "00000.rows").touch()
    file = RowFile(tmp_path, 4, "float16")
    values = np.arange(48, dtype=np.float16).reshape(12, 4)
    assert file.write(0, values) == 0
    found, bad = file.gather(name_rows(np.arange(12), row_checksums(values)))
    assert (found == values).all()
    assert bad is None


def test_every_bit_of_an_entry_counts(tmp_path: Path) -> None:
    store, space = made(tmp_path)
    right, _ = table_of(store, space).get(np.arange(40))
    with store.index._env.read() as txn:
        entries = {key: bytes(value) for key, value in txn.cursor(db=store.index._env.entries)}
    for bit in range(0, 8 * 52, 3):
        key, value = list(entries.items())[bit % 40]
        changed = bytearray(key + value)
        changed[bit // 8] ^= 1 << bit % 8
        with store.index._env.write() as txn:
            txn.delete(key, db=store.index._env.entries)
            txn.put(bytes(changed[:12]), bytes(changed[12:]), db=store.index._env.entries)
        for table in (Table(store, space), table_of(store, space)):
            values, status = table.get(np.arange(40))
            assert (values[status == Status.OK] == right[status == Status.OK]).all()
            assert status[bit % 40] != Status.OK
            assert (status != Status.OK).sum() <= 2, "its key may have become that of another image"
        with pytest.raises(StoreError, match=r"entries of v@0\+imported/64 are not what was written"):
            store.index.load(NAME)
        with store.index._env.write() as txn:
            txn.delete(bytes(changed[:12]), db=store.index._env.entries)
            for right_key, right_value in entries.items():
                txn.put(right_key, right_value, db=store.index._env.entries)
    store.close()


def test_a_lost_entry_is_no_image_that_nobody_knows(tmp_path: Path) -> None:
    store, space = made(tmp_path)
    with store.index._env.write() as txn:
        cursor = txn.cursor(db=store.index._env.entries)
        assert cursor.first()
        cursor.delete()
    table = table_of(store, space)
    assert table.get(np.array([0, 1, 4711]))[1].tolist() == [DAMAGED, Status.OK, DAMAGED]
    store.close()
    assert mend(tmp_path).entries == {NAME: 1}
    store = Store(tmp_path)
    assert table_of(store, space).get(np.array([0, 1, 4711]))[1].tolist() == [0, Status.OK, 0]
    store.close()


def test_a_damaged_log_or_snapshot_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossmedia.imgserver.storage.table.SNAPSHOT_FROM", 10)
    store, space = made(tmp_path)
    table = table_of(store, space)
    assert load_snapshot(store.index, NAME) is not None
    (file,) = (tmp_path / "index").glob("table-*")
    flip(file, file.stat().st_size - 3)
    assert load_snapshot(store.index, NAME) is None
    fill(store, NAME, range(5), 3.0)
    with store.index._env.write() as txn:
        cursor = txn.cursor(db=store.index._env.changes)
        assert cursor.last()
        key, value = bytes(cursor.key()), bytearray(cursor.value())
        value[9] ^= 1  # another image changed, it says
        txn.put(key, bytes(value), db=store.index._env.changes)
    assert table.refresh() == 40
    assert table.get(np.arange(5))[0][:, 0].tolist() == [i / 8 + 3 for i in range(5)]
    store.close()


def test_a_page_that_is_damaged_is_noticed_before_it_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_walk, "FEW_PAGES", 0)  # by what is compiled; Python itself looks at some of them too
    store, _ = made(tmp_path / "store", images=3000)
    file = tmp_path / "store/index/data.mdb"
    with store.index._env.read() as txn:
        number = txn.id()
        assert check_pages(file, number) == ""
    store.close()
    before, whole = content(tmp_path / "store"), file.read_bytes()
    said = set()
    for page in range(2, len(whole) // 4096):
        for at in (0, 9, 10, 12, 14, 16, 17):  # number, flags, bounds, the first node
            flip(file, 4096 * page + at, 2)
            trouble = check_pages(file, number)
            if (page + at) % 40 == 0:
                with monkeypatch.context() as by_python:
                    by_python.setattr(page_walk, "FEW_PAGES", 1 << 20)
                    assert check_pages(file, number) == trouble
            if trouble:
                said.add(trouble.partition(" of ")[2].partition("'")[0])
                readable(file)
            flip(file, 4096 * page + at, 2)
    assert len(said) >= 3
    leaf = next(
        page for page in range(2, len(whole) // 4096) if whole[4096 * page + 10] == 2 and whole[4096 * page + 14] < 200
    )
    flip(file, 4096 * leaf + 3, 1)
    report = json.loads(run_command("imgserver", "mend", f"--store={tmp_path / 'store'}", "--json").stdout)
    assert report["rebuilt"]
    after = content(tmp_path / "store")[NAME]
    assert after.items() <= before[NAME].items()
    assert len(after) + report["entries"].get(NAME, 0) == 3000


def test_free_pages_that_lmdb_never_wrote_are_no_damage(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=1 << 30, max_dbs=1) as env:
        db = env.open_db(b"entries")
        for _ in range(3):  # each takes pages and gives some back before it ends
            with env.begin(write=True, db=db) as txn:
                for key in range(50):
                    txn.put(b"%04d" % key, b"x" * 1500)
                for key in range(3):
                    txn.put(b"b%04d" % key, b"x" * 9000)
                for key in range(3):
                    txn.delete(b"b%04d" % key)
                for key in range(20, 50):
                    txn.delete(b"%04d" % key)
        file = tmp_path / "data.mdb"
        with env.begin() as txn:
            assert file.stat().st_size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            assert check_pages(file, txn.id()) == ""
            os.truncate(file, file.stat().st_size + 1001)  # a page that is not whole, where a free one may be missing
            assert check_pages(file, txn.id()) == ""
        os.truncate(file, file.stat().st_size // 2)
    assert "it is cut" in check_pages(file, 3)
    os.truncate(file, file.stat().st_size - 1001)  # within a page, at an odd place
    assert "it is cut" in check_pages(file, 3)


def test_the_daemon_makes_damaged_rows_anew_from_features_or_says_that_it_failed(store: Path) -> None:
    with ImageClient(open_local(store)) as client:
        right = client.get(list(range(100)))
    opened = Store(store)
    for kind, ids in (("feature", [20]), ("vector", [20, 30])):
        (space,) = opened.index.spaces(kind)
        for entry in opened.index.get(space.name, np.array(ids))[0]:
            flip(row_folder(store, space) / "00000.rows", space.row_bytes * int(entry["row"]) + 1)
    opened.close()
    daemon = DaemonProcess(store, None)
    try:
        with ImageClient(daemon.address, timeout_s=10) as client:
            found = client.get([i for i in range(100) if i != 20])
            assert found.ok.all(), "30 was made anew"
            assert (found.values == np.delete(right.values, 20, axis=0)).all()
            with pytest.raises(Exception, match="id 20, FAILED"):
                client.get([20])
            assert client.info().counters.rows_damaged == 3
        report = json.loads(run_command("imgserver", "mend", f"--store={store}", "--json").stdout)
        assert list(report["rows"].values()) == [[20], [20]]
        assert "--catalogue FOLDER" in report["advice"][0]
    finally:
        daemon.stop()
    assert "Traceback" not in (store / "daemon.log").read_text()
    assert mend(store).advice == []


def test_a_vector_does_not_depend_on_how_many_are_made(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((500, 1280)).astype(np.float16)
    head = fit_pca(features, 64)
    every = head.apply_numpy(features).astype(np.float16)
    for n in (1, 2, 7, 33, 100):
        alone = np.concatenate([head.apply_numpy(features[i : i + n]).astype(np.float16) for i in range(0, 500, n)])
        assert (alone == every).all()


def test_notes_and_facts_say_that_they_are_damaged() -> None:
    text = note({"a": 1, "b": ["c"]})
    assert read_note(text) == {"a": 1, "b": ["c"]}
    with pytest.raises(ValueError, match="checksum"):
        read_note(text.replace('"c"', '"d"'))
    sealed = seal_fact(b"key", b"value")
    assert open_fact(b"key", sealed) == b"value"
    assert open_fact(b"kez", sealed) is None
    assert open_fact(b"key", sealed[:-1]) is None
    assert open_fact(b"key", b"") is None


def test_an_index_that_has_gone_is_not_begun_anew(tmp_path: Path) -> None:
    store, _ = made(tmp_path)
    store.close()
    os.truncate(tmp_path / "index/data.mdb", 0)
    for remove in (False, True):
        if remove:
            (tmp_path / "index/data.mdb").unlink()
        with pytest.raises(StoreError, match="has gone, without which its rows mean nothing"):
            Store(tmp_path)
