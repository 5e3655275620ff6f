from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, run_command

from crossmedia.errors import BadInput, VersionMismatch
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, Status
from crossmedia.imgserver.offline.exchange import check_vectors, import_vectors
from crossmedia.imgserver.offline.export import export_vectors
from crossmedia.imgserver.storage.snapshots import load_snapshot
from crossmedia.imgserver.storage.store import Store


@pytest.fixture
def exported(store: Path, tmp_path: Path) -> Path:
    out = tmp_path / "vectors.parquet"
    run_command("imgserver", "export", f"--store={store}", f"--out={out}")
    return out


def served(store: Path, ids: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    with ImageClient(open_local(store)) as client:
        return client.get(ids).values


def test_polars_reads_an_export(exported: Path, store: Path) -> None:
    import polars as pl

    frame = pl.read_parquet(exported)
    assert frame["image_id"].to_list() == list(range(100))
    np.testing.assert_array_equal(frame["vector"].to_numpy(), served(store, list(range(100))))


def test_duckdb_reads_an_export(exported: Path, store: Path) -> None:
    import duckdb

    found = duckdb.sql(f"select image_id, vector from '{exported}' where image_id = 42")
    assert found is not None
    rows = found.fetchall()
    assert rows[0][0] == 42
    np.testing.assert_array_equal(np.array(rows[0][1], dtype=np.float16), served(store, [42])[0])


def test_an_export_says_where_it_came_from(exported: Path, store: Path) -> None:
    schema = pq.read_schema(exported)
    assert schema.field("vector").type == pa.list_(pa.float16(), 16)
    with ImageClient(open_local(store)) as client:
        assert schema.metadata[b"crossmedia.version"].decode() == client.info().version
    assert schema.metadata[b"crossmedia.generation"] == b"1"


def test_a_plain_matrix(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npy"
    found = json.loads(run_command("imgserver", "export", f"--store={store}", f"--out={out}", "--json").stdout)
    matrix, ids = np.load(out), np.load(tmp_path / "v.ids.npy")
    assert matrix.dtype == np.float16
    assert ids.tolist() == list(range(100))
    np.testing.assert_array_equal(matrix, served(store, ids.tolist()))
    assert json.loads((tmp_path / "v.json").read_text())["version"] == found["version"]


@pytest.mark.parametrize(("out", "version", "message"), [("v.csv", "", "must end in"), ("v.npy", "x+y/1", "It holds")])
def test_what_cannot_be_exported_is_said(store: Path, tmp_path: Path, out: str, version: str, message: str) -> None:
    opened = Store(store)
    try:
        with pytest.raises(BadInput, match=message):
            export_vectors(opened, tmp_path / out, version)
    finally:
        opened.close()


def test_imported_vectors_are_a_version_like_any_other(tmp_path: Path, photos: Path) -> None:
    rng = np.random.default_rng(0)
    ids, vectors = rng.permutation(5000)[:3000], rng.normal(size=(3000, 24)).astype(np.float32)
    (tmp_path / "parts").mkdir()
    for part in range(2):
        chosen = slice(part, None, 2)
        table = pa.table({"id": ids[chosen], "embedding": list(vectors[chosen])})
        pq.write_table(table, tmp_path / "parts" / f"{part}.parquet")
    store = tmp_path / "store"
    arguments = ["imgserver", "import", str(tmp_path / "parts"), "--name=clip", f"--store={store}", "--json"]
    first = json.loads(run_command(*arguments).stdout)
    again = json.loads(run_command(*arguments).stdout)
    assert first["version"].startswith("clip@")
    assert (first["images"], first["added"], first["dim"]) == (3000, 3000, 24)
    assert (again["version"], again["added"]) == (first["version"], 0)
    daemon = DaemonProcess(store, photos)
    try:
        with ImageClient(daemon.address, version=first["version"]) as client:
            found = client.get(ids)
            assert found.ok.all()
            np.testing.assert_array_equal(found.values, vectors.astype(np.float16))
            assert client.get([9999]).status.tolist() == [Status.NOT_FOUND], "there is no CNN behind these"
            with pytest.raises(VersionMismatch, match="were imported"):
                client.put({1: (photos / "001.jpg").read_bytes()})
    finally:
        daemon.stop()


def test_vectors_of_another_scale_are_said_and_what_to_multiply_them_by(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((50, 64))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    for name, scale in (("unit", 1.0), ("wide", 8.0)):
        table = {"image_id": np.arange(50), "vector": list((scale * values).astype(np.float32))}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        done = run_command(
            "imgserver", "import", str(tmp_path / f"{name}.parquet"), "--name=n", f"--store={tmp_path / name}", "--json"
        )
        assert json.loads(done.stdout)["mean_square"] == pytest.approx(scale**2 / 64, rel=1e-3)
        assert ("a mean square of 0.016" in done.stderr and "Multiply all by 8" in done.stderr) is (name == "unit")


def test_a_large_import_leaves_a_snapshot(tmp_path: Path) -> None:
    """From which the first server starts, so that it need not walk over every entry."""
    n = 100_000
    values = pa.FixedSizeListArray.from_arrays(np.tile(np.arange(n, dtype=np.float32) % 100, 2), 2)
    pq.write_table(pa.table({"image_id": np.arange(n), "vector": values}), tmp_path / "many.parquet")
    opened = Store(tmp_path / "store")
    report = import_vectors(opened, check_vectors(tmp_path / "many.parquet", "many"))
    snapshot = load_snapshot(opened.index, report.version)
    opened.close()
    assert snapshot is not None
    assert np.sort(snapshot[0]).tolist() == list(range(n))


def test_an_export_can_be_imported(exported: Path, store: Path, tmp_path: Path) -> None:
    opened = Store(tmp_path / "other")
    import_vectors(opened, check_vectors(exported, "again"))
    opened.close()
    np.testing.assert_array_equal(served(tmp_path / "other", list(range(100))), served(store, list(range(100))))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": [1], "v": [[1.0]]}, "needs the columns image_id and vector"),
        ({"image_id": ["a"], "vector": [[1.0]]}, "image ids are whole numbers"),
        ({"image_id": [1, 2], "vector": [[1.0], None]}, "Row 2 .* empty cell"),
        ({"image_id": [1, 2], "vector": [[1.0], [1.0, 2.0]]}, "row 2 .* has 2 numbers, not 1"),
        ({"image_id": [1, 1], "vector": [[1.0], [2.0]]}, "id 1 is in .* twice"),
        ({"image_id": [1, 7], "vector": [[1.0], [1e6]]}, r"row 2 .*image 7.* float16 cannot: 1000000.0"),
        ({"image_id": [1], "vector": [[float("nan")]]}, "float16 cannot: nan"),
        ({"image_id": [1, 7], "vector": [[0.0], [1e-9]]}, "row 2 .*image 7.* too small for float16, such as 1e-09"),
        ({"image_id": [-1], "vector": [[1.0]]}, "empty in row 1, or holds NaN or -1"),
        ({"image_id": [-2], "vector": [[1.0]]}, "'image_id' of .* holds -2 in row 1"),
        ({"image_id": [2.0**53 + 2], "vector": [[1.0]]}, "'image_id' of .* not told apart"),
        ({"image_id": [[1]], "vector": [[1.0]]}, "'image_id' of .* is of type list"),
        ({"image_id": [1], "vector": pa.array([[]], pa.list_(pa.float32()))}, "row 1 .* is empty"),
        ({"image_id": [1], "vector": [["x"]]}, "must be lists of floats"),
        ({"image_id": pa.array([], pa.int64()), "vector": pa.array([], pa.list_(pa.float32()))}, "holds no vectors"),
    ],
)
def test_vectors_that_lie_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(BadInput, match=message):
        check_vectors(tmp_path / "v.parquet", "clip")
    with pytest.raises(BadInput, match="may hold letters"):
        check_vectors(tmp_path / "v.parquet", "a/b")


def test_keys_of_a_manifest_count_and_a_wrong_file_makes_no_store(tmp_path: Path) -> None:
    file, manifest, store = tmp_path / "v.parquet", tmp_path / "m.parquet", tmp_path / "store"
    pq.write_table(pa.table({"image_id": [0, 1], "key": ["a", "b"]}), manifest)
    bring = ("imgserver", "import", str(file), "--name=clip", f"--store={store}")
    pq.write_table(pa.table({"image_id": [0, 1], "key": ["b", "?"], "vector": [[1.0], [2.0]]}), file)
    refused = run_command(*bring, f"--manifest={manifest}", check=False)
    assert refused.returncode == 2
    assert "holds '?' in row 2; which is no key of the manifest" in refused.stderr
    file.write_bytes(b"a,b\n1,2\n")
    assert (
        "it is text, which begins 'a,b 1,2'; vectors come as Parquet files" in run_command(*bring, check=False).stderr
    )
    assert not store.exists()
    pq.write_table(pa.table({"image_id": [0, 1], "key": ["b", "a"], "vector": [[1.0], [2.0]]}), file)
    assert "image_id of" in run_command(*bring, f"--manifest={manifest}").stderr
    np.testing.assert_array_equal(served(store, [0, 1]), [[2.0], [1.0]])
    other = run_command(*bring, check=False)
    assert other.returncode == 2
    assert "holds 'b' in row 1; that is image 1 of this store, and image_id says 0" in other.stderr
