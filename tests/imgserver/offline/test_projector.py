"""Vectors and photos for TensorBoard's projector, read by the plugin's own code."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, DaemonProcess, run_command
from google.protobuf import text_format
from PIL import Image

from crossmedia.errors import BadInput
from crossmedia.imgserver import open_store
from crossmedia.imgserver.offline.projector import (
    LARGEST,
    MOST,
    SIDE,
    ColumnTable,
    drawn,
    read_columns,
    write_projector,
)

TABLE = ROOT / "examples" / "grocery" / "photos.csv"


def read(folder: Path) -> tuple[Any, np.ndarray[Any, Any], list[list[str]]]:
    """The embedding of a folder as the plugin reads it: its configuration, its vectors, and the rows of its table."""
    from tensorboard.plugins.projector import projector_plugin
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (found,) = config.embeddings
    vectors = projector_plugin._read_tensor_tsv_file(str(folder / found.tensor_path))
    rows = [line.split("\t") for line in (folder / found.metadata_path).read_text().split("\n")]
    assert rows.pop() == [""]
    headers = 1 if len(rows[0]) > 1 else 0  # as the plugin counts them: a header has a tab
    assert len(rows) == len(vectors) + headers
    return found, vectors, rows


def test_vectors_columns_and_photos_are_those_of_the_store(store: Path, photos: Path, tmp_path: Path) -> None:
    command = ["imgserver", "projector", f"--store={store}", f"--catalogue={photos}", f"--items={TABLE}", "--json"]
    done = run_command(*command, "--key=item_id", "--columns=coarse,department", f"--out={tmp_path / 'logs'}")
    said = json.loads(done.stdout)
    found, vectors, rows = read(tmp_path / "logs")
    with open(TABLE, newline="") as file:
        table = list(csv.DictReader(file))
    assert rows[0] == said["columns"] == ["image_id", "coarse", "department"]
    assert rows[1:] == [[row["item_id"], row["coarse"], row["department"]] for row in table]
    with open_store(store) as client:
        own = client.get([int(row["item_id"]) for row in table])
        assert own.ok.all()  # the 143 that were not embedded are now
    np.testing.assert_allclose(vectors, own.values.astype(np.float32), rtol=1e-5)
    assert said["photos"] == said["of"] == said["drawn"] == 243
    sheet = Image.open(tmp_path / "logs" / found.sprite.image_path)
    assert list(found.sprite.single_image_dim) == [SIDE, SIDE]
    assert sheet.size == (16 * SIDE, 16 * SIDE)  # 243 photos in a square
    for number in (0, 17, 242):
        left, top = number % 16 * SIDE, number // 16 * SIDE
        tile = np.asarray(sheet.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float64)
        with Image.open(photos / f"{number:03}.jpg") as photo:
            photo.thumbnail((SIDE, SIDE))
            shown = np.full((SIDE, SIDE, 3), 255.0)
            x, y = (SIDE - photo.width) // 2, (SIDE - photo.height) // 2
            shown[y : y + photo.height, x : x + photo.width] = np.asarray(photo.convert("RGB"))
        assert np.abs(tile - shown).mean() < 12, number


def test_more_photos_than_asked_for_are_drawn_by_seed_and_it_is_said(store: Path, tmp_path: Path) -> None:
    command = ["imgserver", "projector", f"--store={store}", "--photos=20"]
    first = run_command(*command, f"--out={tmp_path / 'a'}", "--seed=3").stdout
    again = run_command(*command, f"--out={tmp_path / 'b'}", "--seed=3").stdout
    other = json.loads(run_command(*command, f"--out={tmp_path / 'c'}", "--seed=4", "--json").stdout)
    assert "20 of 100 photos, drawn by seed 3" in first == again.replace("/b", "/a")
    assert "points are dots: give --catalogue to see photos" in first
    found, vectors, rows = read(tmp_path / "a")
    assert not found.HasField("sprite")
    assert len(vectors) == 20
    assert rows == read(tmp_path / "b")[2] != read(tmp_path / "c")[2]
    assert (other["photos"], other["of"], other["drawn"]) == (20, 100, 0)
    assert MOST * SIDE * SIDE == LARGEST * LARGEST
    assert drawn(np.arange(9), 9, 1).tolist() == list(range(9))


def test_a_server_has_vectors_and_photos_too(daemon: DaemonProcess, tmp_path: Path) -> None:
    table = tmp_path / "items.parquet"
    pq.write_table(
        pa.table({"photo": [3, 5, 3, None], "price": [1.5, None, 9.0, 2.0], "new": [True, False] * 2}), table
    )
    command = ["imgserver", "projector", f"--server={daemon.address}", f"--out={tmp_path / 'logs'}"]
    run_command(*command, f"--items={table}", "--key=photo", "--columns=price,new")
    found, _, rows = read(tmp_path / "logs")
    assert rows == [["image_id", "price", "new"], ["3", "1.5", "true"], ["5", "", "false"]]
    assert found.sprite.image_path == "photos.png"
    done = run_command(*command, check=False)
    assert done.returncode == 2
    assert "A server does not say which photos it has: give --items" in done.stderr


def test_tabs_and_lines_in_names_stay_within_their_cell(tmp_path: Path) -> None:
    names = ["a\tb", "c\r\nd", 'e "f"', "g\u2028h\x85i", ""]
    write_projector(tmp_path, np.eye(5, 3), {"image_id": list("01234"), "name": names}, [None] * 5)
    _, vectors, rows = read(tmp_path)
    assert vectors.tolist() == np.eye(5, 3).tolist()
    assert rows[1:] == [["0", "a b"], ["1", "c d"], ["2", 'e "f"'], ["3", "g h i"], ["4", ""]]
    write_projector(tmp_path, np.eye(2), {"image_id": ["0", "1"], "name": ["x", "y"]}, None)
    assert not (tmp_path / "photos.png").exists()  # of the call before
    assert not read(tmp_path)[0].HasField("sprite")


def test_one_column_has_no_header_which_the_plugin_would_take_for_a_point(store: Path, tmp_path: Path) -> None:
    command = ["imgserver", "projector", f"--store={store}", f"--out={tmp_path / 'logs'}", "--json"]
    said = json.loads(run_command(*command).stdout)
    _, vectors, rows = read(tmp_path / "logs")
    with open_store(store) as client:
        held = client.get([int(row[0]) for row in rows])
    assert held.ok.all()
    np.testing.assert_allclose(vectors, held.values.astype(np.float32), rtol=1e-5)
    assert said["columns"] == ["image_id"]
    run_command(*command, f"--items={TABLE}", "--key=item_id")
    assert [row[0] for row in read(tmp_path / "logs")[2]] == [str(n) for n in range(100)]  # that have a vector


def test_keys_of_a_manifest_are_not_written_over_by_a_column_of_the_table(store: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("photo,key\nSKU-0,other\n")
    pq.write_table(pa.table({"key": ["SKU-0"], "path": ["0.jpg"], "image_id": [0]}), tmp_path / "m.parquet")
    command = ["imgserver", "projector", f"--store={store}", f"--manifest={tmp_path / 'm.parquet'}", "--key=photo"]
    command += [f"--items={tmp_path / 'items.csv'}", f"--out={tmp_path / 'logs'}"]
    done = run_command(*command, "--columns=key", check=False)
    assert done.returncode == 2
    assert "--columns names 'key', and a column of that name stands beside each photo anyway" in done.stderr
    run_command(*command)
    assert read(tmp_path / "logs")[2] == [["image_id", "key"], ["0", "SKU-0"]]


def test_what_is_wrong_is_refused_in_words(store: Path, tmp_path: Path) -> None:
    command = ["imgserver", "projector", f"--store={store}", f"--out={tmp_path / 'logs'}"]
    for options, said in (
        (["--columns=colour"], "give --items, too"),
        ([f"--items={TABLE}", "--key=item_id", "--columns=colour"], "have no column 'colour', which --columns names"),
        ([f"--items={TABLE}", "--key=fine"], "The column 'fine' of"),
        (
            [f"--items={TABLE}", "--key=item_id", "--columns=coarse,image_id"],
            "--columns names 'image_id', and a column",
        ),
        (["--version=other@1/16"], "other@1/16"),
    ):
        done = run_command(*command, *options, check=False)
        assert done.returncode != 0
        assert said in done.stderr
    assert not (tmp_path / "logs").exists()
    (tmp_path / "none.csv").write_text("image_id,a\n,x\n-1,y\n")
    with pytest.raises(BadInput, match="names no photo in any of its rows"):
        read_columns(ColumnTable(str(tmp_path / "none.csv"), key="image_id", shown=("a",)), None)
