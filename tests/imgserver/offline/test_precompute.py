"""A catalogue embedded by one call, as a notebook makes it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_command

import crossmedia
from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.machine import Machine


def test_one_call_embeds_and_is_called_again_when_photos_were_added(photos: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "photos", tmp_path / "store"
    folder.mkdir()
    for number in range(20):
        os.link(photos / f"{number:03d}.jpg", folder / f"{number}.jpg")
    (folder / "20.jpg").write_bytes(b"no picture")
    told: list[int] = []
    first = crossmedia.precompute(
        store=store, catalogue=folder, dim=8, machine=Machine(threads=1), progress=told.append
    )
    assert (first.found, first.embedded, first.skipped, first.rejected) == (21, 20, 0, 1)
    assert sum(told) == 21
    assert first.version.endswith("/8")
    assert 0 < first.start_s < first.seconds
    os.link(photos / "100.jpg", folder / "100.jpg")
    again = crossmedia.precompute(
        str(store), str(folder), "efficientnet_lite0", ids=[100, 0], machine=Machine(threads=1)
    )
    assert (again.found, again.embedded, again.skipped, again.version) == (2, 1, 1, first.version)
    with crossmedia.open_store(store) as client:
        assert client.get([0, 19, 20, 100]).ok.tolist() == [True, True, False, True]
    with pytest.raises(BadInput, match="1 of the 1 image ids asked for are not in"):
        crossmedia.precompute(store, folder, ids=[4711])


def test_an_empty_name_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: crossmedia.precompute(store="", catalogue="photos"),
        lambda: crossmedia.precompute(store="store", catalogue=""),
        lambda: crossmedia.open_store(""),
    ):
        with pytest.raises(crossmedia.CrossMediaError, match="empty"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_open_already_is_said(store: Path) -> None:
    with crossmedia.open_store(store), pytest.raises(crossmedia.CrossMediaError, match="open in this process already"):
        crossmedia.open_store(store)


def test_the_estimate_has_the_start_in_it(photos: Path, tmp_path: Path) -> None:
    """The whole of it is what the person waits for."""
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{number}\n" for number in range(20)))
    options = [f"--store={tmp_path / 's'}", f"--catalogue={photos}", f"--ids={ids}", "--dim=8", "--threads=1", "--json"]
    done = run_command("imgserver", "precompute", *options)
    said = re.search(r"Estimate: (\d+) s in all: (\d+) s to start, which are over, and (\d+) s at", done.stderr)
    assert said is not None, done.stderr
    whole, start, rest = map(int, said.groups())
    assert abs(whole - start - rest) <= 1
    assert start == pytest.approx(json.loads(done.stdout)["start_s"], abs=1.01)


def test_a_backbone_that_takes_the_place_of_another_is_said(photos: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{number}\n" for number in range(8)))
    options = [f"--store={tmp_path / 's'}", f"--catalogue={photos}", f"--ids={ids}", "--dim=4", "--threads=1"]
    photometry = "--backbone=efficientnet_lite0#photometry"
    for backbone, said in (([photometry], False), ([], False), (["--backbone=efficientnet_lite0"], True)):
        done = run_command("imgserver", "precompute", *options, *backbone)
        assert ("is of another backbone than efficientnet_lite0@" in done.stderr) is said, done.stderr
        assert ("#photometry+" in done.stdout) is not said, "without --backbone that of the active version goes on"


def test_a_store_of_imported_vectors_is_asked_for_its_backbone(photos: Path, tmp_path: Path) -> None:
    ids, vectors = pa.array([1, 2, 3]), pa.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    pq.write_table(pa.table({"image_id": ids, "vector": vectors}), tmp_path / "vectors.parquet")
    run_command("imgserver", "import", str(tmp_path / "vectors.parquet"), "--name=clip", f"--store={tmp_path / 's'}")
    with pytest.raises(BadInput, match=r"was imported, and no backbone of it is known\. Give --backbone"):
        crossmedia.precompute(tmp_path / "s", photos, machine=Machine(threads=1))
