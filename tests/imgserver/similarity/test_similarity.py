"""The similarity index: what it finds beside brute force, through server and commands, while it is swapped."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, copy_store, run_command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crossmedia.errors import BadInput, InvalidRequest, NotReady, StoreError, VersionMismatch
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, MockTransport, Status
from crossmedia.imgserver.client.putting import parts
from crossmedia.imgserver.offline.exchange import check_vectors, import_vectors
from crossmedia.imgserver.similarity.building import build_index
from crossmedia.imgserver.similarity.duplicates import find_duplicates
from crossmedia.imgserver.similarity.index import SimilarityFiles, SimilarityIndex, SimilarityInfo, faiss_module, unit
from crossmedia.imgserver.similarity.semantic_ids import write_semantic_ids
from crossmedia.imgserver.storage.store import Store


def imported(folder: Path, vectors: npt.NDArray[np.float32], name: str = "made") -> Store:
    """A store of these vectors, under ids of their own, in no order."""
    ids = 7 * np.random.default_rng(1).permutation(len(vectors))
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image_id": ids, "vector": rows}), folder / "vectors.parquet")
    store = Store(folder / "store")
    import_vectors(store, check_vectors(folder / "vectors.parquet", name))
    return store


def clustered(n: int, dim: int = 16) -> npt.NDArray[np.float32]:
    """As photos' vectors are: most of them near some others."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(n // 20, dim))
    return (centres[rng.integers(0, len(centres), n)] + 0.4 * rng.normal(size=(n, dim))).astype(np.float32)


def nearest(vectors: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosine of every vector with one, the plain way."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    found: npt.NDArray[np.float32] = vectors @ query / lengths
    return found


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-pq"])
def test_every_kind_finds_what_brute_force_finds(kind: str, tmp_path: Path) -> None:
    store = imported(tmp_path, clustered(10_000))
    report = build_index(store, kind)
    assert (report.info.kind, report.info.images) == (kind, 10_000)
    assert report.info.recall_at_10 >= 0.95
    smaller = {"flat": 64, "hnsw": 320, "ivf-pq": 40}[kind]  # bytes an image: 16 numbers of 4; graph; 8 codes and an id
    assert report.info.bytes_per_image < 1.1 * smaller
    store.close()
    with ImageClient(open_local(tmp_path / "store")) as client:
        ids = 7 * np.arange(0, 10_000, 100)
        every = client.get(7 * np.arange(10_000)).values.astype(np.float32)
        found = client.search(ids, 10)
        assert (found.status == Status.OK).all()
        hits = 0
        for row, image_id in enumerate(ids.tolist()):
            cosines = nearest(every, every[image_id // 7])
            assert image_id not in found.image_ids[row], "an image is no neighbour of its own"
            np.testing.assert_allclose(found.cosines[row], cosines[found.image_ids[row] // 7], atol=2e-3)
            assert (np.diff(found.cosines[row]) <= 1e-6).all()
            cosines[image_id // 7] = -2
            hits += len(set(found.image_ids[row].tolist()) & set((7 * np.argsort(-cosines)[:10]).tolist()))
        assert hits >= 0.93 * 10 * len(ids)


def test_ivf_pq_needs_enough_images(tmp_path: Path) -> None:
    store = imported(tmp_path, clustered(500))
    with pytest.raises(BadInput, match="500 vectors are too few"):
        build_index(store, "ivf-pq")
    with pytest.raises(BadInput, match="no index of kind 'tree'"):
        build_index(store, "tree")
    assert build_index(store).info.kind == "flat"
    store.close()


@pytest.fixture
def indexed(store: Path) -> Path:
    with_index = Store(store, create=False)
    build_index(with_index)
    with_index.close()
    return store


@pytest.fixture
def client(indexed: Path) -> Iterator[ImageClient]:
    with ImageClient(open_local(indexed)) as client:
        yield client


def test_a_photo_finds_itself_and_a_broken_one_fails_alone(client: ImageClient, photos: Path) -> None:
    found = client.search([(photos / "042.jpg").read_bytes(), b"no picture", (photos / "007.jpg").read_bytes()], 3)
    assert found.status.tolist() == [Status.OK, Status.CORRUPT, Status.OK]
    assert found.image_ids[[0, 2], 0].tolist() == [42, 7]
    assert found.cosines[0, 0] == pytest.approx(1, abs=1e-3)
    assert found.image_ids[1].tolist() == [-1, -1, -1]
    assert (found.version, found.images) == (client.info().version, 100)
    assert client.info().contents.images_stored == 100, "photos of queries are not kept"


def test_queries_without_a_vector_and_too_many_neighbours(client: ImageClient) -> None:
    found = client.search([3, 500], 150)
    assert found.status.tolist() == [Status.OK, Status.NOT_FOUND]
    assert sorted(found.image_ids[0][:99].tolist()) == [i for i in range(100) if i != 3]
    assert (found.image_ids[0][99:] == -1).all()
    assert len(client.search([], 5).status) == 0


def test_many_queries_take_several_calls(client: ImageClient, photos: Path) -> None:
    ids = np.tile(np.arange(100), 6)
    found = client.search(ids, 2)
    one = client.search(np.arange(100), 2)
    np.testing.assert_array_equal(found.image_ids, np.tile(one.image_ids, (6, 1)))
    data = (photos / "001.jpg").read_bytes()
    assert (client.search([data] * 260, 1).image_ids == 1).all()


@given(
    sizes=st.lists(st.integers(0, 2000), max_size=40),
    most=st.integers(1, 9),
    max_bytes=st.integers(1024 + 2032, 9000),
)
def test_parts_hold_every_photo_once_within_the_limits(sizes: list[int], most: int, max_bytes: int) -> None:
    runs = list(parts(sizes, most, max_bytes))
    assert [place for run in runs for place in range(run.start, run.stop)] == list(range(len(sizes)))
    for run in runs:
        assert 1 <= len(sizes[run]) <= most
        assert sum(sizes[run]) + 32 * len(sizes[run]) <= max_bytes - 1024


@pytest.mark.parametrize("k", [-1, 0, 1001])
def test_k_has_limits(client: ImageClient, k: int) -> None:
    with pytest.raises(InvalidRequest, match=f"k is {k}"):
        client.search([1], k)


def test_without_an_index_and_after_another_version(store: Path) -> None:
    with ImageClient(open_local(store)) as client, pytest.raises(NotReady, match="imgserver index"):
        client.search([1], 3)
    opened = Store(store, create=False)
    build_index(opened)
    before = opened.index.active
    opened.close()
    rng = np.random.default_rng(0)
    other = imported(store.parent / "other", rng.normal(size=(50, 16)).astype(np.float32))
    other.close()
    opened = Store(store, create=False)
    import_vectors(opened, check_vectors(store.parent / "other" / "vectors.parquet", "made"))
    with pytest.raises(VersionMismatch, match=r"Run 'imgserver index'"):
        find_duplicates(opened, 0.9)
    opened.close()
    with ImageClient(open_local(store)) as client, pytest.raises(VersionMismatch, match="was to be searched"):
        client.search([1], 3)
    with ImageClient(open_local(store), version=before) as client:  # who names the former version is still answered
        assert client.search([1], 3).version == before
    opened = Store(store, create=False)
    build_index(opened)
    opened.close()
    with ImageClient(open_local(store)) as client:
        assert client.search([7], 3).image_ids.min() >= 0
        with pytest.raises(VersionMismatch, match="no CNN"):
            client.search([b"photo"], 3)
    with pytest.raises(NotReady):
        ImageClient(MockTransport({1: np.ones(8)})).search([1], 3)


def test_two_builds_at_once_keep_each_others_files(indexed: Path) -> None:
    """Each removes the builds that it does not know: so only one of them writes at a time."""
    with closing(Store(indexed, create=False)) as store:
        other = SimilarityFiles(indexed)
        building = threading.Thread(target=build_index, args=(store, "flat"))
        with other._alone():
            before = {file.name for file in other.folder.iterdir()}
            building.start()
            building.join(2)
            assert building.is_alive()
            assert {file.name for file in other.folder.iterdir()} == before, "it writes nothing meanwhile"
        building.join()
        found = other.open()
    assert found is not None
    assert {file.stem for file in other.folder.iterdir()} == {"current", found[0].build}


def test_damaged_files_are_said(indexed: Path) -> None:
    files = SimilarityFiles(indexed)
    info = files.current()
    assert info is not None
    (indexed / "similarity" / f"{info.build}.faiss").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="damaged"):
        files.open()
    (indexed / "similarity" / "current.json").write_text("{}")
    with pytest.raises(StoreError, match=r"Run 'imgserver index'"):
        SimilarityFiles(indexed).open()


def test_a_damaged_index_harms_searches_alone(indexed: Path, caplog: pytest.LogCaptureFixture) -> None:
    (indexed / "similarity" / "current.json").write_text("{}")
    with ImageClient(open_local(indexed)) as client:
        assert client.get([1]).ok.all()
        assert (client.info().contents.images_stored, client.info().similarity.images) == (100, 0)
        with pytest.raises(StoreError, match=r"current\.json is damaged"):
            client.search([1], 3)
    assert "current.json is damaged" in caplog.text


def test_a_build_that_is_replaced_while_it_is_read_is_no_damage(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the pointer and the files another process may swap, and take the former files away."""
    other = SimilarityFiles(indexed)
    swapped: list[SimilarityInfo] = []
    read = SimilarityFiles._read

    def meanwhile(files: SimilarityFiles, info: SimilarityInfo) -> SimilarityIndex:
        if not swapped:
            store = Store(indexed, create=False)
            swapped.append(build_index(store).info)
            store.close()
        return read(files, info)

    monkeypatch.setattr(SimilarityFiles, "_read", meanwhile)
    (indexed / "similarity" / "left-by-a-kill.faiss").write_bytes(b"half")
    opened = other.open()
    assert opened is not None
    assert opened[0] == swapped[0]
    assert len(list((indexed / "similarity").iterdir())) == 3, "what a kill left goes with the next build"


def test_an_index_is_swapped_under_load(indexed: Path) -> None:
    failures: list[BaseException] = []
    searched = [0]
    stop = threading.Event()
    with ImageClient(open_local(indexed)) as client:
        right = client.search([5], 5).image_ids.tolist()

        def search() -> None:
            while not stop.is_set():
                try:
                    assert client.search([5], 5).image_ids.tolist() == right
                    searched[0] += 1
                except BaseException as error:
                    failures.append(error)
                    return

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        store = client.servers.transports[0]._service.store  # type: ignore[attr-defined]  # LMDB: once a process
        for _ in range(8):
            build_index(store)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert searched[0] > 8
    assert len(list((indexed / "similarity").iterdir())) == 3, "former builds are gone"


def test_commands_from_photos_to_pictures(graph_cache: Path, photos: Path, tmp_path: Path) -> None:
    store = copy_store(graph_cache, tmp_path / "store")
    daemon = DaemonProcess(store, photos)
    try:
        refused = run_command("imgserver", "search", "5", f"--store={store}", check=False)
        assert refused.returncode == 4
        assert "imgserver index" in refused.stderr
        built = json.loads(run_command("imgserver", "index", f"--store={store}", "--json").stdout)
        assert built["info"]["recall_at_10"] == 1
        assert built["queries_per_s"] > 0
        out = tmp_path / "near.png"
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"no picture")
        done = run_command(
            *("imgserver", "search", "5", str(photos / "200.jpg"), str(broken), "999999"),
            *(f"--store={store}", "--k=4", f"--out={out}", "--json"),
            check=False,
        )
        assert done.returncode == 5
        found = json.loads(done.stdout.splitlines()[0])  # the second line is the error
        states = [query["status"] for query in found["queries"]]
        assert states == ["OK", "NOT_FOUND", "OK", "CORRUPT"]  # ids first, then files
        assert [len(query["neighbours"]) for query in found["queries"]] == [4, 0, 4, 0]
        with Image.open(out) as picture:
            assert picture.size == (5 * 136 + 8, 4 * 154 + 8)
        nobody = run_command("imgserver", "search", "nothing.jpg", f"--store={store}", check=False)
        assert nobody.returncode == 2
        assert "neither an image id nor a file" in nobody.stderr
    finally:
        daemon.stop()


def test_duplicates_of_a_catalogue(photos: Path, tmp_path: Path) -> None:
    catalogue = tmp_path / "photos"
    catalogue.mkdir()
    for number in range(60):
        (catalogue / f"{number}.jpg").write_bytes((photos / f"{4 * number:03d}.jpg").read_bytes())
    for copy in (100, 101):
        (catalogue / f"{copy}.jpg").write_bytes((photos / "012.jpg").read_bytes())
    with Image.open(photos / "080.jpg") as photo:  # another file of nearly the same picture
        photo.save(catalogue / "102.jpg", quality=80)
    store, out = tmp_path / "store", tmp_path / "found.csv"
    run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={catalogue}", "--dim=16")
    run_command("imgserver", "index", f"--store={store}")
    (catalogue / "101.jpg").write_bytes(b"broken since")
    options = [f"--store={store}", f"--catalogue={catalogue}", f"--out={out}", "--threshold=0.99", "--json"]
    found = json.loads(run_command("imgserver", "duplicates", *options).stdout)
    groups = {tuple(group["image_ids"]): group["same_bytes"] for group in found["groups"]}
    assert groups[3, 100, 101]
    assert not groups[20, 102]
    assert found["images"] == 63
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0] == ["group", "image_id", "key", "cosine", "same_bytes"]
    assert [row[1] for row in rows[1:4]] == ["3", "100", "101"]
    with Image.open(found["picture"]) as picture:
        assert picture.format == "PNG"


def test_another_threshold_is_named_where_nothing_or_nearly_all_is_alike(tmp_path: Path) -> None:
    with closing(imported(tmp_path, np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]], np.float32))) as opened:
        build_index(opened)
        store = f"--store={opened.folder}"
    options = (store, f"--out={tmp_path / 'found.csv'}")
    few = run_command("imgserver", "duplicates", *options, "--threshold=0.99").stdout
    assert "4 vectors, 0 groups of 0 vectors" in few
    assert "most alike have a cosine of 0.960: lower --threshold, to 0.96 or less, to see them" in few
    many = run_command("imgserver", "duplicates", *options, "--threshold=0.5").stdout
    assert "More than half of all vectors are in groups: raise --threshold above 0.5" in many
    found = json.loads(run_command("imgserver", "duplicates", *options, "--threshold=0.99", "--json").stdout)
    assert found["nearest"] == pytest.approx(0.96, abs=1e-3)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), n=st.integers(1, 30), threshold=st.floats(0.3, 0.99))
def test_groups_are_the_connected_parts_of_the_pairs(
    seed: int, n: int, threshold: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.integers(0, 2, (n, 3)) + 0.3 * rng.normal(size=(n, 3))).astype(np.float32)
    folder = tmp_path_factory.mktemp("groups")
    store = imported(folder, vectors)
    build_index(store)
    groups, looked_at, _ = find_duplicates(store, threshold)
    assert looked_at == n
    ids, entries, _ = store.index.load(store.index.active)
    space = store.index.space(store.index.active)
    assert space is not None
    values = store.read(space, entries).astype(np.float32)
    store.close()
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    if (np.abs(cosines - threshold) < 1e-5).any() or n > 20:
        return  # at the threshold itself rounding decides; beyond 20 neighbours pairs are left out
    group = np.arange(n)
    for _ in range(n):
        for a in range(n):
            for b in range(n):
                if a != b and cosines[a, b] >= threshold:
                    group[a] = group[b] = min(group[a], group[b])
    right = {tuple(sorted(ids[group == g].tolist())) for g in group if (group == g).sum() > 1}
    assert {found.image_ids for found in groups} == right


def test_images_that_have_gone_since_the_index_was_built(tmp_path: Path) -> None:
    """Their ids are found still, and are passed over; an active version without any image is said."""
    store = imported(tmp_path, clustered(10_000))
    build_index(store, "ivf-pq")
    name = store.index.active
    ids, entries, _ = store.index.load(name)
    store.index.remove([(name, ids[5_000:], entries[5_000:])])
    groups, looked_at, _ = find_duplicates(store, 0.95)
    assert looked_at == 5_000
    assert groups
    assert max(max(group.image_ids) for group in groups) <= ids[4_999]
    store.index.remove([(name, ids[:5_000], entries[:5_000])])
    for work in (build_index, lambda store: find_duplicates(store, 0.9)):
        with pytest.raises(NotReady, match="holds no vector of its active version made@"):
            work(store)
    store.close()


def test_semantic_ids_are_coarse_to_fine_and_keep_their_meaning(tmp_path: Path) -> None:
    vectors = clustered(3_000)
    store = imported(tmp_path, vectors[:2_500])
    out = tmp_path / "ids.parquet"
    report = write_semantic_ids(store, out, levels=3, codes=16)
    rows = {row.pop("image_id"): row for row in pq.read_table(out).to_pylist()}
    assert report.images == len(rows) == 2_500
    assert report.distinct[0] == 16
    assert list(report.distinct) == sorted(report.distinct)
    for row in rows.values():
        assert row["sid_2"].startswith(row["sid_1"] + "-")
        assert row["sid_3"].startswith(row["sid_2"] + "-")
    ids, entries, _ = store.index.load(store.index.active)
    space = store.index.space(store.index.active)
    assert space is not None
    values = store.read(space, entries).astype(np.float32)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    groups = np.array([rows[i]["sid_2"] for i in ids.tolist()])
    within = sum(float(((unit[groups == g] - unit[groups == g].mean(axis=0)) ** 2).sum()) for g in set(groups))
    everything = float(((unit - unit.mean(axis=0)) ** 2).sum())
    assert within < 0.6 * everything, "who shares an id looks alike"
    assert report.error < write_semantic_ids(store, out, levels=1, codes=16).error < 1

    again = write_semantic_ids(store, out, levels=3, codes=16, seed=9)
    assert again.kept
    assert {row.pop("image_id"): row for row in pq.read_table(out).to_pylist()} == rows
    few = imported(tmp_path / "few", vectors[:100])
    with pytest.raises(BadInput, match="too few for 256 codes"):
        write_semantic_ids(few, out, 2, 256)
    few.close()
    for levels, codes in ((0, 16), (9, 16), (2, 100), (2, 1), (2, 512), (2, 0), (2, -4)):
        with pytest.raises(BadInput, match="levels"):
            write_semantic_ids(store, out, levels, codes)
    (centres,) = (store.folder / "semantic").glob("*-3x16.faiss")
    centres.write_bytes(centres.read_bytes()[:100])
    with pytest.raises(StoreError, match=f"{centres} are damaged"):
        write_semantic_ids(store, out, 3, 16)
    store.close()


def test_semantic_ids_by_command(indexed: Path, tmp_path: Path) -> None:
    out = tmp_path / "ids.parquet"
    options = [f"--store={indexed}", f"--out={out}", "--levels=2", "--codes=8", "--json"]
    found = json.loads(run_command("imgserver", "semantic-ids", *options).stdout)
    assert found["images"] == 100
    assert pq.read_schema(out).names == ["image_id", "sid_1", "sid_2"]
    refused = run_command("imgserver", "semantic-ids", f"--store={indexed}", "--codes=12", check=False)
    assert refused.returncode == 2


@pytest.mark.parametrize(("queries", "more"), [(8, 0), (64, 1)])
def test_a_search_takes_as_many_threads_as_it_is_worth(queries: int, more: int) -> None:
    """Threads that wait for each other take the cores of other callers; a thread has its own ones in OpenMP."""
    vectors = unit(np.random.default_rng(0).standard_normal((20_000, 32)))
    exact = faiss_module().IndexFlatIP(32)
    exact.add(vectors)
    index = SimilarityIndex(exact, np.arange(20_000), 0)
    found: list[int] = []

    def search() -> None:
        faiss_module().omp_set_num_threads(2)
        before = len(os.listdir("/proc/self/task"))
        index.search(vectors[:queries], 10, lambda ids: vectors[ids])
        found.extend((len(os.listdir("/proc/self/task")) - before, faiss_module().omp_get_max_threads()))

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert found == [more, 2]


def test_an_index_is_searched_as_soon_as_it_is_built(store: Path) -> None:
    """A server looks for a new build now and then; the first search does not wait for that."""
    with ImageClient(open_local(store)) as client:
        with pytest.raises(NotReady, match="has no similarity index yet"):
            client.search([1], 2)
        run_command("imgserver", "index", f"--store={store}")
        assert client.search([1], 2).image_ids.shape == (1, 2)
