"""The doctor finds each thing that is broken in a real store, machine or server, and says what to do."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import DaemonProcess, copy_store, run_command
from operations_stores import fill

from crossmedia.imgserver.operations import machine_checks
from crossmedia.imgserver.operations.doctor import CHECKS, examine
from crossmedia.imgserver.operations.findings import Finding
from crossmedia.imgserver.storage.environment import Environment
from crossmedia.imgserver.storage.index import Index
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision import engines

SERVER_CHECKS = {"health", "served"}


def say(finding: Finding) -> str:
    return f"{finding.level}: {finding.found} -> {finding.advice}"


def test_a_sound_store_has_no_problem(store: Path) -> None:
    found = examine(store, full=True)
    assert set(found) == set(CHECKS) - SERVER_CHECKS
    assert [say(finding) for finding in found.values() if finding.level != "ok"] == []
    assert "200 compared" in found["rows"].found  # 100 features, 100 vectors
    assert "cosine 1.00" in found["engine"].found
    done = run_command("imgserver", "doctor", f"--store={store}")
    assert len(done.stdout.splitlines()) == len(CHECKS) - len(SERVER_CHECKS) - 1  # a line each; engine is for --full
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())


def change_index(store: Path, change: Callable[[Store], object]) -> None:
    opened = Store(store)
    change(opened)
    opened.close()


def forget(store: Path, kind: str) -> None:
    change_index(store, lambda opened: [opened.index.delete_space(s.name) for s in opened.index.spaces(kind)])


def row_file(store: Path, number: int) -> Path:
    return sorted(store.glob("rows/*/00000.rows"))[number]


def overwrite(file: Path, at: int, data: bytes) -> None:
    with open(file, "r+b") as opened:
        opened.seek(at)
        opened.write(data)


def head_file(store: Path) -> Path:
    (file,) = store.glob("heads/*.safetensors")
    return file


def change_a_weight(store: Path) -> None:
    from crossmedia.imgserver.head import Head

    head = Head.from_bytes(head_file(store).read_bytes())
    head.linear[0].bias.data[0] += 1
    head_file(store).write_bytes(head.to_bytes())


def rename_features(store: Path) -> None:
    """As if the weights of this machine were others than those the features came from."""

    def change(opened: Store) -> None:
        (space,) = opened.index.spaces("feature")
        name = space.name.replace("@", "@0000")
        opened.index.ensure_space(name, "feature", space.dim, space.dtype, space.recipe)

    change_index(store, change)


def damage_engine(store: Path) -> None:
    overwrite(engine_weights(store), 400_000, os.urandom(400_000))


def other_engine(store: Path) -> None:
    damage_engine(store)
    graph = engine_weights(store).with_suffix(".xml")
    graph.with_suffix(engines.HASHES).write_text(engines._hashes(graph))


def replace_most(store: Path) -> None:
    def change(opened: Store) -> None:
        for value in (1.0, 2.0, 3.0):
            fill(opened, "v/64", range(300), value)

    change_index(store, change)


def damage_similarity(store: Path) -> None:
    (store / "similarity").mkdir()
    (store / "similarity/current.json").touch()


def index_of_another_version(store: Path) -> None:
    run_command("imgserver", "index", f"--store={store}")

    def change(opened: Store) -> None:
        fill(opened, "v@0+imported/64", range(9), 1.0)
        opened.index.activate("v@0+imported/64")

    change_index(store, change)


def damage_codebook(store: Path) -> None:
    run_command("imgserver", "compress", f"--store={store}", "--bytes=4")
    (file,) = store.glob("codebooks/*")
    overwrite(file, file.stat().st_size - 64, bytes(64))


def engine_weights(store: Path) -> Path:
    (file,) = store.glob("engine/*.bin")
    return file


# name of the case -> check, level, how to break it, what is said
BROKEN: dict[str, tuple[str, str, Callable[[Path], object], str]] = {
    "no store": (
        "store",
        "problem",
        lambda s: shutil.rmtree(s / "index"),
        "The index of .* has gone, .*Restore a backup; or .*imgserver precompute",
    ),
    "a damaged index": (
        "store",
        "problem",
        lambda s: overwrite(s / "index/data.mdb", 0, b"x" * 8192),
        "is damaged: .*imgserver mend --store",
    ),
    "nothing active": (
        "active version",
        "problem",
        lambda s: change_index(s, lambda opened: opened.index.adopt_facts("", 1)),
        "precompute",
    ),
    "the active version gone": ("active version", "problem", lambda s: forget(s, "vector"), "is not in the store"),
    "the head gone": (
        "heads",
        "problem",
        lambda s: head_file(s).unlink(),
        "head of .*pca@.* is missing .*from a backup",
    ),
    "the head cut short": (
        "heads",
        "problem",
        lambda s: head_file(s).write_bytes(b"no head"),
        "cannot be read.*from a backup",
    ),
    "the head changed": ("heads", "problem", change_a_weight, "its weights are those of pca@"),
    "codebook damaged": ("codebooks", "problem", damage_codebook, "it is damaged.* from a backup"),
    "features gone": ("features", "problem", lambda s: forget(s, "feature"), "not the features of"),
    "rows gone": (
        "rows",
        "problem",
        lambda s: row_file(s, 0).unlink(),
        "100 of the 100 rows .*imgserver mend .*restore a backup",
    ),
    "rows cut short": ("rows", "problem", lambda s: os.truncate(row_file(s, 1), 100), "97 of the 100 rows"),
    "a row damaged": (
        "rows",
        "problem",
        lambda s: overwrite(row_file(s, 1), 32 * 7, b"\xff\xff"),
        "1 of the 100 rows .* images 7",
    ),
    "all rows zero": ("rows", "problem", lambda s: overwrite(row_file(s, 1), 0, bytes(3200)), "100 of the 100 .* 9, …"),
    "rows replaced": ("dropped rows", "warning", replace_most, "600 of 1,100 rows .*imgserver compact"),
    "rows of nobody": ("dropped rows", "warning", lambda s: (s / "rows/0099").mkdir(), "belong to nothing, .*0099"),
    "other weights": ("weights", "problem", rename_features, "efficientnet_lite0 is .* here, and the store holds"),
    "half an engine": ("weights", "ok", lambda s: engine_weights(s).unlink(), "damaged: it is converted again"),
    "engine damaged": ("weights", "ok", damage_engine, "damaged: it is converted again"),
    "an engine of other weights": ("engine", "problem", other_engine, "other features"),
    "index of another": ("similarity", "warning", index_of_another_version, "not active .*imgserver index"),
    "index damaged": (
        "similarity",
        "problem",
        damage_similarity,
        "damaged",
    ),
    "clock set back": (
        "clock",
        "warning",
        lambda s: os.utime(s / "index/data.mdb", (time.time() + 7200,) * 2),
        "in the future",
    ),
    "killed daemon": (
        "daemon",
        "warning",
        lambda s: (s / "daemon.json").write_text('{"pid": 1, "address": "a:1"}'),
        "was killed",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(graph_cache: Path, tmp_path: Path, broken: str) -> None:
    name, level, break_it, text = BROKEN[broken]
    store = copy_store(graph_cache, tmp_path / "store")
    break_it(store)
    found = examine(store, full=name == "engine")[name]
    assert found.level == level, say(found)
    assert re.search(text, f"{found.found} -> {found.advice} "), say(found)


def test_each_problem_is_an_exit_code(store: Path) -> None:
    head_file(store).unlink()
    done = run_command("imgserver", "doctor", f"--store={store}", check=False)
    assert done.returncode == 1
    assert any(
        line.startswith("problem  heads ") and "Bring it back from a backup" in line
        for line in done.stdout.splitlines()
    )
    done = run_command("imgserver", "doctor", f"--store={store}", "--json", check=False)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["problems"] == ["heads"]
    assert set(told["checks"]) == set(CHECKS) - SERVER_CHECKS - {"engine"}


def test_a_sample_is_a_sample_and_full_is_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    fill(store, "v@0+imported/64", range(3000), 1.0)
    store.index.activate("v@0+imported/64")
    store.close()
    assert "1,000 compared" in examine(tmp_path / "store")["rows"].found
    overwrite(row_file(tmp_path / "store", 0), 128 * 1234, b"\xff\xff")
    assert "images 1234" in examine(tmp_path / "store", full=True)["rows"].found


def test_a_full_disk_map_or_little_memory_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "free_bytes", lambda self: 5 << 20)
    monkeypatch.setattr(Environment, "map_use", lambda self: (90, 100))
    monkeypatch.setattr(machine_checks, "available_bytes", lambda: 100 << 20)
    monkeypatch.setattr(machine_checks, "PACKAGES", ("crossmedia", "no-such-package"))
    found = examine(store)
    assert say(found["disk"]).startswith("problem: the store takes 0.0")
    assert "imgserver compact" in found["disk"].advice
    assert found["index map"].level == found["packages"].level == "problem"
    assert "no-such-package is missing" in found["packages"].found
    assert found["memory"].level == "warning"


@pytest.fixture
def files_limit() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("files_limit")
def test_a_low_limit_of_open_files_is_said(store: Path) -> None:
    found = examine(store)["limits"]
    assert found.level == "warning"
    assert "256 open files" in found.found
    assert "ulimit -n" in found.advice


def test_a_running_server_is_asked(store: Path, photos: Path) -> None:
    process = DaemonProcess(store, photos)
    try:
        found = examine(store)
        assert set(found) == set(CHECKS) - {"engine"}
        assert [say(finding) for finding in found.values() if finding.level != "ok"] == []
        assert f"process {process.pid} serves this store at {process.address}" in found["daemon"].found
        assert found["health"].found == f"{process.address} is SERVING"
        assert "100 images of efficientnet_lite0@" in found["served"].found
        os.kill(process.pid, signal.SIGSTOP)
        hung = examine(store)
        assert hung["daemon"].level == "ok"
        assert hung["health"].level == hung["served"].level == "problem"
        os.kill(process.pid, signal.SIGCONT)
        # Another store's server, and one that cannot be reached.
        assert examine(store.parent / "none", process.address)["served"].level == "ok"
    finally:
        process.stop()
    nobody = examine(store, "127.0.0.1:9")
    assert "No image server answers" in nobody["health"].found
    assert nobody["served"].level == "problem"


def test_a_server_that_does_not_follow_its_store_is_found(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = DaemonProcess(store, None)
    try:
        monkeypatch.setattr(Index, "generation", property(lambda self: 7))
        served = examine(store)["served"]
    finally:
        process.stop()
    assert served.level == "problem"
    assert "generation 1; the store's is" in served.found
