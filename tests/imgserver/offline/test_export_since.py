"""What changed since an export: an export of everything and all that followed it make what the store holds now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import copy_store, run_command
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmedia.errors import BadInput
from crossmedia.imgserver.offline import export as exporting
from crossmedia.imgserver.offline.export import ExportReport, export_vectors
from crossmedia.imgserver.operations.compact import compact
from crossmedia.imgserver.storage import changes
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import delete, vector_space
from crossmedia.status import Status
from crossmedia.version import Version

Held = dict[int, tuple[float, ...]]
ONE, OTHER = (
    Version("cnn@0123456789ab", "pca@0123456789ab", dim=2),
    Version("cnn@0123456789ab", "pca@ba9876543210", dim=2),
)


def put(store: Store, version: Version, ids: list[int], status: Status, value: float) -> None:
    rows = np.array(ids, dtype=np.int64)
    sources = np.zeros(len(ids), dtype=SOURCE)
    sources["content"] = abs(hash(value))
    values = np.tile(np.array([value, -value], dtype=np.float16), (len(ids), 1))
    store.put(Rows(vector_space(store, version), rows, np.full(len(ids), status, dtype=np.uint8), sources, values))


def remove(store: Store, version: Version, ids: list[int]) -> None:
    name = str(version)
    asked = np.array(ids, dtype=np.int64)
    entries, found = store.index.get(name, asked)
    store.index.remove([(name, asked[found], entries[found])])


def applied(held: Held, file: Path) -> Held:
    """What somebody holds who takes over an export: a null takes a vector away."""
    rows = pq.read_table(file).to_pylist()
    gone = {row["image_id"] for row in rows if row["vector"] is None}
    brought = {row["image_id"]: tuple(row["vector"]) for row in rows if row["vector"] is not None}
    assert len(rows) == len(gone) + len(brought), "an image is in a file once"
    return {image: vector for image, vector in (held | brought).items() if image not in gone}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store")
    put(opened, ONE, [1, 2, 3, 4], Status.OK, 1.0)
    opened.index.activate(str(ONE))
    yield opened
    opened.close()


IDS = st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("put"), IDS, st.sampled_from([ONE, OTHER]), st.sampled_from([Status.OK, Status.CORRUPT])),
    st.tuples(st.just("remove"), IDS, st.sampled_from([ONE, OTHER]), st.none()),
    st.tuples(st.just("export"), st.none(), st.none(), st.none()),
)


@settings(max_examples=25)
@given(steps=st.lists(STEPS, max_size=14), blocks=st.sampled_from([3, 65_536]))
def test_an_export_and_what_followed_make_what_the_store_holds(steps: list, blocks: int) -> None:  # type: ignore[type-arg]
    with (
        TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        closing(Store(Path(folder) / "store")) as opened,
    ):
        patch.setattr(exporting, "BLOCK", blocks)
        file = Path(folder) / "some.parquet"
        put(opened, ONE, list(range(10)), Status.OK, 1.0)
        put(opened, OTHER, [1, 2], Status.OK, 1.0)
        report = export_vectors(opened, file, str(ONE))
        held = applied({}, file)
        for n, (step, ids, version, status) in enumerate([*steps, ("export", None, None, None)]):
            if step == "put":
                put(opened, version, ids, status, float(n))
            elif step == "remove":
                remove(opened, version, ids)
            else:
                report = export_vectors(opened, file, str(ONE), report.point)
                held = applied(held, file)
        whole = export_vectors(opened, file, str(ONE))
        assert held == applied({}, file)
        assert whole.point == report.point, "nothing changed between these two"


def test_only_what_changed_is_written(store: Store, tmp_path: Path) -> None:
    first = export_vectors(store, tmp_path / "all.parquet")
    put(store, ONE, [2], Status.OK, 5.0)
    put(store, ONE, [9], Status.OK, 6.0)
    put(store, ONE, [3], Status.CORRUPT, 7.0)
    put(store, OTHER, [1], Status.OK, 8.0)
    found = export_vectors(store, tmp_path / "some.parquet", since=first.point)
    table = pq.read_table(tmp_path / "some.parquet")
    assert table["image_id"].to_pylist() == [2, 3, 9]
    assert table["vector"].to_pylist() == [[5.0, -5.0], None, [6.0, -6.0]]
    assert (found.images, found.removed, found.since) == (2, 1, first.point)
    told = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert told["crossmedia.version"] == str(ONE)
    assert (told["crossmedia.point"], told["crossmedia.since"]) == (found.point, first.point)
    assert found.generation == int(told["crossmedia.generation"]) == 3
    again = export_vectors(store, tmp_path / "none.parquet", since=found.point)
    assert (again.images, again.removed, again.point) == (0, 0, found.point)
    assert pq.read_table(tmp_path / "none.parquet").schema.field("vector") == table.schema.field("vector")


def refused(store: Store, tmp_path: Path, point: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        export_vectors(store, tmp_path / "refused.parquet", str(ONE), since=point)
    assert not (tmp_path / "refused.parquet").exists()


def test_a_point_of_another_history_is_refused(store: Store, tmp_path: Path) -> None:
    unknown = "does not know the point .* Export everything once"
    first = export_vectors(store, tmp_path / "all.parquet")
    other = Store(tmp_path / "shard")
    put(other, ONE, [1, 2, 3, 4], Status.OK, 1.0)  # the same commits, another store
    refused(other, tmp_path, first.point, unknown)
    other.close()
    put(store, OTHER, [1], Status.OK, 1.0)
    of_other = export_vectors(store, tmp_path / "other.parquet", str(OTHER))
    refused(store, tmp_path, of_other.point, unknown)
    for wrong in ("1", "1-4", "1-4-0123456789ab", "x", "point:"):
        refused(store, tmp_path, wrong, unknown)
    store.index.activate(str(OTHER))
    delete(store, str(ONE))
    put(store, ONE, [7], Status.OK, 1.0)
    refused(store, tmp_path, first.point, unknown)


def test_a_copy_and_a_restored_store(store: Store, tmp_path: Path) -> None:
    """A point is known to what was copied after it was named, and to nothing that was copied before."""
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(store.folder, before)
    first = export_vectors(store, tmp_path / "all.parquet")
    shutil.copytree(store.folder, after)
    opened = Store(before)
    put(opened, ONE, [5], Status.OK, 2.0)
    refused(opened, tmp_path, first.point, "does not know the point")
    opened.close()
    opened = Store(after)
    put(opened, ONE, [6], Status.OK, 2.0)
    assert export_vectors(opened, tmp_path / "some.parquet", since=first.point).images == 1
    opened.close()


def test_a_compacted_store_knows_no_point_from_before(tmp_path: Path) -> None:
    opened = Store(tmp_path / "store")
    for value in range(3):
        put(opened, ONE, [1, 2], Status.OK, float(value))
    first = export_vectors(opened, tmp_path / "all.parquet", str(ONE))
    opened.close()
    compact(tmp_path / "store")
    opened = Store(tmp_path / "store")
    for value in range(5):
        put(opened, ONE, [1, 2, value], Status.OK, float(value))
    refused(opened, tmp_path, first.point, "does not know the point")
    opened.close()


def test_changes_that_were_forgotten_are_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "KEEP_CHANGES", 3)
    first = export_vectors(store, tmp_path / "all.parquet")
    for n in range(3):
        put(store, ONE, [n], Status.OK, 2.0 + n)
    assert export_vectors(store, tmp_path / "some.parquet", since=first.point).images == 3
    put(store, ONE, [3], Status.OK, 9.0)
    refused(store, tmp_path, first.point, "does not know any more what changed since .* Export everything once")


def test_a_matrix_has_no_place_for_what_was_removed(store: Store, tmp_path: Path) -> None:
    point = export_vectors(store, tmp_path / "all.npy").point
    assert json.loads((tmp_path / "all.json").read_text())["point"] == point
    with pytest.raises(BadInput, match=r"must end in \.parquet"):
        export_vectors(store, tmp_path / "some.npy", since=point)


def test_the_command_beside_a_running_process_and_by_shards(graph_cache: Path, tmp_path: Path) -> None:
    """Shards are stores with points of their own; each is exported by its own."""
    shards = [copy_store(graph_cache, tmp_path / name) for name in ("one", "two")]
    points = []
    for shard in shards:
        told = run_command("imgserver", "export", f"--store={shard}", f"--out={tmp_path / 'all.parquet'}").stdout
        points.append(told.split("point: ")[1].strip())
    assert points[0] != points[1]
    arguments = ["imgserver", "export", f"--store={shards[0]}", f"--out={tmp_path / 'some.parquet'}", "--json"]
    found = json.loads(run_command(*arguments, f"--since={points[0]}").stdout)
    assert (found["images"], found["removed"], found["since"], found["point"]) == (0, 0, points[0], points[0])
    other = run_command(*arguments, f"--since={points[1]}", check=False)
    assert other.returncode == 2
    assert "does not know the point" in other.stderr


def test_points_that_are_too_old_are_not_kept(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmedia.imgserver.storage import points

    monkeypatch.setattr(points, "KEEP_CHANGES", 2)
    reports: list[ExportReport] = []
    for n in range(5):
        put(store, ONE, [n], Status.OK, 2.0 + n)
        reports.append(export_vectors(store, tmp_path / "all.parquet"))
    space = store.index.space(str(ONE))
    assert space is not None
    known = [store.index.point_sequence(space, report.point) is not None for report in reports]
    assert known == [False, False, True, True, True]
