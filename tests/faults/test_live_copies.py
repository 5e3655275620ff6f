"""A store that is copied file by file while it is written: opened as of some moment, every row right, or refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command

from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.store import Store

COPIES = 20
WRITES = """
import sys
import numpy as np
from crossmedia.imgserver.storage.records import SOURCE
from crossmedia.imgserver.storage.store import Store
store = Store(sys.argv[1])
space = store.index.ensure_space("net@1+imported/8", "vector", 8, "float16")
rng = np.random.default_rng(1)
for n in range(10**6):
    ids = np.sort(rng.choice(1_000_000, 300, replace=False)) if n else np.arange(0, 1_000_000, 4)
    values = np.repeat((ids % 1000).astype(np.float16)[:, None], 8, axis=1)
    sources = np.zeros(len(ids), SOURCE)
    sources["content"] = n
    store.put(Rows(space, ids, np.ones(len(ids), np.uint8), sources, values))
    if not n:
        store.index.activate(space.name)
        print("there", flush=True)
"""


def opened_right(copy: Path) -> bool:
    """Whether a copy could be opened; then it is right."""
    try:
        store: Store | None = Store(copy, create=False)
    except StoreError as error:
        refused = str(error)
        store = None
    if store is None:
        assert "is a copy of files, and not whole" in refused
        assert "imgserver backup" in refused
        return False
    space = store.index.space(store.index.active)
    assert space is not None
    ids, entries, _ = store.index.load(space.name)
    try:
        rows = store.read(space, entries)
    except StoreError:  # rows were copied before the index, and their checksum says so
        return False
    finally:
        store.close()
    assert np.isin(np.arange(0, 1_000_000, 4), ids).all()
    assert (rows == (ids % 1000).astype(np.float16)[:, None]).all()
    return True


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_copies_of_a_store_under_writes(tmp_path: Path) -> None:
    store, copy = tmp_path / "store", tmp_path / "copy"
    right = 0
    with subprocess.Popen([sys.executable, "-c", WRITES, str(store)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        for n in range(COPIES):
            subprocess.run(["cp", "-a", store, copy], check=True)
            right += opened_right(copy)
            shutil.rmtree(copy)
            if n == COPIES // 2:
                run_command("imgserver", "backup", f"--store={store}", f"--to={tmp_path / 'backup'}")
            time.sleep(0.2)
        writer.kill()
    print(f"\n{COPIES} copies of a store under writes: {right} opened and right, {COPIES - right} refused")
    subprocess.run(["cp", "-a", store, copy], check=True)
    assert opened_right(copy), "the writer was killed, and a copy of what it left is whole"
    run_command("imgserver", "restore", str(tmp_path / "backup"), f"--store={tmp_path / 'restored'}")
    assert opened_right(tmp_path / "restored")


def test_a_copy_of_a_store_at_rest_is_opened_and_written(store: Path, tmp_path: Path) -> None:
    Store(store).close()
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    for _ in range(2):  # examined once, then its own
        opened = Store(copy, create=False)
        space = opened.index.space(opened.index.active)
        assert space is not None
        assert len(opened.index.load(space.name)[0]) == 100
        opened.index.activate(space.name)
        opened.close()
    assert (copy / "index" / "data.file").read_text() != (store / "index" / "data.file").read_text()
