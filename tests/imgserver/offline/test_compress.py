"""Compressed versions: codes as FAISS makes them, served like any other version, the same however they came about."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, copy_store, run_command
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmedia.errors import BadInput, NotReady, StoreError, VersionMismatch
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.head_files import load_head
from crossmedia.imgserver.offline.compress import CompressReport, compress, train_codebook
from crossmedia.imgserver.offline.export import export_vectors
from crossmedia.imgserver.offline.moving import write_moved
from crossmedia.imgserver.offline.publish import images_of
from crossmedia.imgserver.shards import Ownership
from crossmedia.imgserver.similarity.building import build_index
from crossmedia.imgserver.storage.codebook import Codebook
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.imgserver.storage.versions import (
    activate,
    delete,
    held,
    held_versions,
)
from crossmedia.status import Status
from crossmedia.version import Version

BYTES = 4  # for the 16 numbers of a vector in the stores of these tests


def codebook_of(size: int, numbers: int, seed: int = 0) -> Codebook:
    return Codebook(np.random.default_rng(seed).normal(size=(size, 256, numbers)))


def as_faiss(codebook: Codebook) -> Any:
    """FAISS's own quantiser with the same centres, for vectors that are dealt out to the bytes already."""
    quantiser = faiss.ProductQuantizer(codebook.dim, codebook.code_bytes, 8)
    faiss.copy_array_to_vector(codebook.centres.astype(np.float32).ravel(), quantiser.centroids)
    return quantiser


def mean_cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    one, other = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1)[:, None] for v in (a, b))
    return float((one * other).sum(axis=1).mean())


def dealt(vectors: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    n, dim = vectors.shape
    parts = vectors.reshape(n, dim // size, size).transpose(0, 2, 1)
    return np.ascontiguousarray(parts.reshape(n, dim), dtype=np.float32)


@settings(max_examples=40)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 60), st.integers(0, 2**31))
def test_codes_decode_as_faiss_decodes_them(size: int, numbers: int, n: int, seed: int) -> None:
    codebook = codebook_of(size, numbers, seed)
    codes = np.random.default_rng(seed).integers(0, 256, (n, size)).astype(np.uint8)
    decoded = codebook.decode(codes)
    assert decoded.shape == (n, size * numbers)
    assert decoded.dtype == np.float16
    if n:
        np.testing.assert_array_equal(dealt(decoded, size), as_faiss(codebook).decode(codes))


@settings(max_examples=40)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 60), st.integers(0, 2**31))
def test_codes_are_as_near_as_those_of_faiss(size: int, numbers: int, n: int, seed: int) -> None:
    codebook, quantiser = codebook_of(size, numbers, seed), as_faiss(codebook_of(size, numbers, seed))
    vectors = np.random.default_rng(seed + 1).normal(size=(n, codebook.dim)).astype(np.float16)
    codes = codebook.encode(vectors)
    right = dealt(vectors, size)
    ours, theirs = (quantiser.decode(found) for found in (codes, quantiser.compute_codes(right)))
    of_byte = (n, size, numbers)
    apart = [np.square(found - right).reshape(of_byte).sum(axis=2) for found in (ours, theirs)]
    np.testing.assert_allclose(apart[0], apart[1], rtol=1e-5)  # two centres may be equally near, but for a rounding
    one_by_one = np.concatenate([codebook.encode(vectors[i : i + 1]) for i in range(n)])
    np.testing.assert_array_equal(codes, one_by_one)
    np.testing.assert_array_equal(codebook.encode(codebook.decode(codes)), codes)
    # What is coded is the vector as it would be stored.
    np.testing.assert_array_equal(codebook.encode(vectors.astype(np.float32) * np.float32(1 + 1e-5)), codes)


def test_a_codebook_survives_its_file_and_is_named_after_its_centres() -> None:
    codebook = codebook_of(3, 5)
    again = Codebook.from_bytes(codebook.to_bytes())
    np.testing.assert_array_equal(again.centres, codebook.centres)
    assert again.name == codebook.name
    assert codebook.name.startswith("pq3@")
    assert codebook_of(3, 5, seed=1).name != codebook.name
    with pytest.raises(BadInput, match="no codebook"):
        Codebook.from_bytes(codebook.to_bytes()[:-10])
    with pytest.raises(BadInput, match=r"\(3, 200, 5\)"):
        Codebook(np.zeros((3, 200, 5)))


@pytest.mark.parametrize("n", [2, 3, 100, 255, 256, 3000])
def test_few_vectors_make_fewer_centres(n: int) -> None:
    vectors = np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32)
    codebook = train_codebook(vectors, 4)
    different = min(256, 1 << (n.bit_length() - 1))
    assert len(np.unique(codebook.centres[0], axis=0)) <= different
    assert codebook.encode(vectors).max() < different
    assert train_codebook(vectors, 4).name == codebook.name
    left = np.square(codebook.decode(codebook.encode(vectors)).astype(np.float32) - vectors).mean()
    assert left < np.square(vectors - vectors.mean(axis=0)).mean()


def test_one_vector_is_too_few() -> None:
    with pytest.raises(BadInput, match="1 vectors are too few"):
        train_codebook(np.zeros((1, 8), dtype=np.float32), 4)


NAMES = st.from_regex(r"[a-z0-9_]{1,8}@[0-9a-f]{12}", fullmatch=True)


@given(NAMES, st.sampled_from(["", "#bf16"]), st.one_of(NAMES, st.just("imported")), st.integers(1, 999))
def test_the_name_of_a_version_says_what_it_was_made_of(backbone: str, precision: str, head: str, dim: int) -> None:
    plain = f"{backbone}{precision}+{head}/{dim}"
    version = Version.parse(plain)
    assert version == Version(backbone + precision, head, dim=dim)
    assert str(version) == plain
    compressed = replace(version, codebook="pq8@0123456789ab")
    assert Version.parse(str(compressed)) == compressed
    assert compressed.plain == version.plain == version
    assert compressed.imported == version.imported == (head == "imported")
    features = Version.parse(backbone + precision)
    assert (features, str(features)) == (Version(backbone + precision), backbone + precision)


@given(st.text(alphabet="ab@#+/1", max_size=12))
def test_any_text_can_be_asked_what_version_it_is(text: str) -> None:
    version = Version.parse(text)
    assert Version.parse(str(version)).backbone == version.backbone == text.partition("+")[0]
    assert not version.dim or text.endswith(str(version.dim))


@pytest.fixture(scope="module")
def compressed_store(graph_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompressReport]:
    """Images 0 to 99 embedded, and their vectors in 4 bytes each, active; copied, never changed."""
    folder = copy_store(graph_cache, tmp_path_factory.mktemp("compressed") / "store")
    with closing(Store(folder)) as store:
        report = compress(store, BYTES)
        activate(store, report.version)
    return folder, report


@pytest.fixture
def compressed(compressed_store: tuple[Path, CompressReport], tmp_path: Path) -> tuple[Path, CompressReport]:
    return copy_store(compressed_store[0], tmp_path / "compressed"), compressed_store[1]


def test_the_table_the_store_and_a_restart_give_what_the_codebook_leaves(
    compressed: tuple[Path, CompressReport],
) -> None:
    folder, report = compressed
    assert (report.images, report.added, report.bytes, report.plain_bytes) == (100, 100, BYTES, 32)
    assert not report.kept
    assert str(Version.parse(report.version).plain) == report.of
    ids = np.arange(100)
    for _ in range(2):
        with closing(Store(folder)) as store:
            plain, space = held(store, report.of), held(store, report.version)
            codebook = store.codebook(space)
            assert codebook is not None
            vectors = store.read(plain, store.index.get(plain.name, ids)[0])
            right = codebook.decode(codebook.encode(vectors))
            np.testing.assert_array_equal(store.read(space, store.index.get(space.name, ids)[0]), right)
            table = Table(store, space)
            for _ in ("from the index", "loaded"):
                values, status = table.get(np.array([7, 100, 7, 0]))
                np.testing.assert_array_equal(values, [right[7], np.zeros(16), right[7], right[0]])
                assert status.tolist() == [Status.OK, 0, Status.OK, Status.OK]
                table.load()
            np.testing.assert_array_equal(table.get(ids)[0], right)
            sizes = {version.name: version.row_bytes for version in held_versions(store)}
            assert (sizes[report.of], sizes[report.version]) == (32, BYTES)
            assert report.cosine == pytest.approx(mean_cosine(vectors, right), abs=1e-5)
    assert space.row_bytes * 100 <= sum(file.stat().st_blocks * 512 for file in folder.glob("rows/0003/*"))


def test_more_bytes_are_nearer(compressed: tuple[Path, CompressReport]) -> None:
    folder, report = compressed
    with closing(Store(folder)) as store:
        cosines = [compress(store, size, report.of).cosine for size in (1, 2, 4, 8, 16)]
    assert cosines == sorted(cosines)
    assert cosines[2] == report.cosine
    assert cosines[-1] > 0.99 > cosines[0]


def test_the_command_again_changes_nothing_and_brings_new_photos_over(
    compressed: tuple[Path, CompressReport], photos: Path, tmp_path: Path
) -> None:
    folder, report = compressed
    command = ("imgserver", "compress", f"--bytes={BYTES}", f"--version={report.of}", f"--store={folder}", "--json")
    again = json.loads(run_command(*command).stdout)
    assert (again["version"], again["added"], again["kept"]) == (report.version, 0, True)
    with closing(Store(folder)) as store:
        activate(store, report.of)
    ids = tmp_path / "ids.txt"
    ids.write_text("100\n101")
    run_command("imgserver", "precompute", f"--store={folder}", f"--catalogue={photos}", f"--ids={ids}")
    more = json.loads(run_command(*command).stdout)
    assert (more["version"], more["images"], more["added"], more["kept"]) == (report.version, 102, 2, True)
    assert f"{report.version}  vector" in run_command("imgserver", "versions", f"--store={folder}").stdout


@pytest.mark.parametrize(
    ("size", "version", "words"),
    [
        (3, "", "3 bytes do not divide the 16 numbers of a vector; 1, 2, 4, 8, 16 do"),
        (32, "", "32 bytes do not divide"),
        (6, "", "1, 2, 4, 8, 16 do. 12 numbers would fit: 'imgserver precompute --dim 12' makes vectors of so many."),
        (4, "cnn@1+pca@2/4", "does not hold the version 'cnn@1[+]pca@2/4'"),
        (4, "feature", "does not hold the version"),
        (4, "compressed", "is compressed already; compress .*/16 instead"),
    ],
)
def test_what_cannot_be_compressed_is_said(
    compressed: tuple[Path, CompressReport], size: int, version: str, words: str
) -> None:
    folder, report = compressed
    with closing(Store(folder)) as store:
        names = {"feature": Version.parse(report.of).backbone, "compressed": report.version, "": report.of}
        with pytest.raises(BadInput, match=words):
            compress(store, size, names.get(version, version))


def test_a_store_without_vectors_says_so(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "store")) as store:
        for work in (lambda: compress(store, 4), lambda: export_vectors(store, tmp_path / "v.npy")):
            with pytest.raises(NotReady, match=r"has no vectors yet\. Run 'imgserver precompute"):
                work()


def test_photos_that_broke_since_are_not_compared(compressed: tuple[Path, CompressReport]) -> None:
    """The features say that a photo is broken now; the version that is compressed is not active, and has its vector."""
    folder, report = compressed
    with closing(Store(folder)) as store:
        features = held(store, Version.parse(report.of).backbone)
        broken = np.array([3, 4])
        corrupt = np.full(2, 3, dtype=np.uint8)
        none = np.zeros((2, features.dim))
        store.put(Rows(features, broken, corrupt, np.array([(1, 2, 3)] * 2, dtype=SOURCE), none))
        again = compress(store, 2 * BYTES, report.of)
        assert (again.images, again.added) == (98, 98)
        assert 0.5 < again.cosine <= 1.0


def test_a_daemon_computes_misses_as_precompute_does(compressed: tuple[Path, CompressReport], photos: Path) -> None:
    folder, report = compressed
    ids = np.arange(243)
    process = DaemonProcess(folder, photos)
    try:
        with ImageClient(process.address) as client:
            info = client.info()
            assert (info.version, info.dim) == (report.version, 16)
            first = client.get(ids)
            assert bool(first.ok.all())
            assert client.info().counters.computed_on_demand == 143
            client.put({300: (photos / "042.jpg").read_bytes()})
            ids, first = np.append(ids, 300), client.get([*ids, 300])
            plain = client.get(ids[:100], version=report.of)
            assert plain.version == report.of
            assert (plain.values != first.values[:100]).any()
            other = report.version.replace("#pq4@", "#pq4@f00")
            with pytest.raises(VersionMismatch, match="does not hold"):
                client.get([1], version=other)
    finally:
        process.stop()
    with closing(Store(folder)) as store:
        space, features = held(store, report.version), held(store, Version.parse(report.version).backbone)
        codebook = store.codebook(space)
        assert codebook is not None
        vectors = load_head(store, report.version).apply_numpy(
            store.read(features, store.index.get(features.name, ids)[0])
        )
        np.testing.assert_array_equal(first.values, codebook.decode(codebook.encode(vectors)))
    with closing(ImageClient(open_local(folder))) as client:  # a start from what the other left behind
        np.testing.assert_array_equal(client.get(ids).values, first.values)


def test_precompute_goes_on_with_the_compressed_version(
    compressed: tuple[Path, CompressReport], photos: Path, tmp_path: Path
) -> None:
    """Also when the version that it was made of has gone, and when machines bring files."""
    folder, report = compressed
    with closing(Store(folder)) as store:
        delete(store, report.of)
    ids = tmp_path / "ids.txt"
    ids.write_text("100\n101")
    into = ("imgserver", "precompute", f"--store={folder}", f"--catalogue={photos}", f"--ids={ids}", "--json")
    assert json.loads(run_command(*into).stdout)["version"] == report.version
    out = tmp_path / "embedded"
    ids.write_text("102\n103\n104")
    run_command("imgserver", "precompute", f"--catalogue={photos}", f"--ids={ids}", "--part=1/1", f"--out={out}")
    merged = json.loads(run_command("imgserver", "merge", str(out), f"--store={folder}", "--json").stdout)
    assert merged["version"] == report.version
    with closing(Store(folder)) as store:
        assert [space.name for space in store.index.spaces("vector")] == [report.version]
        assert len(store.index.load(report.version)[0]) == 105
    assert "#" not in json.loads(run_command(*into, "--dim=8").stdout)["version"]


def test_an_export_and_an_index_are_of_what_is_served(compressed: tuple[Path, CompressReport], tmp_path: Path) -> None:
    folder, report = compressed
    with closing(ImageClient(open_local(folder))) as client:
        served = client.get(list(range(100))).values
    with closing(Store(folder)) as store:
        export_vectors(store, tmp_path / "v.parquet")
        export_vectors(store, tmp_path / "v.npy")
        built = build_index(store).info
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.schema.metadata[b"crossmedia.version"].decode() == built.version == report.version
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), dtype=np.float16), served)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), served)
    with closing(ImageClient(open_local(folder))) as client:
        assert client.search([5], 3).version == report.version


def test_imported_vectors_are_compressed_too(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 24)).astype(np.float32)
    table = pa.table({"image_id": list(range(400)), "vector": list(vectors)})
    pq.write_table(table, tmp_path / "vectors.parquet")
    folder = tmp_path / "store"
    run_command("imgserver", "import", str(tmp_path / "vectors.parquet"), "--name=clip", f"--store={folder}")
    with closing(Store(folder)) as store:
        report = compress(store, 12)
        delete_first = report.of
        activate(store, report.version)
        delete(store, delete_first)
    with closing(ImageClient(open_local(folder))) as client:
        found = client.get([*range(400), 400])
    assert found.version == report.version
    assert not found.ok[400]
    assert report.cosine == pytest.approx(mean_cosine(found.values[:400], vectors), abs=1e-3)
    assert report.cosine > 0.9


def test_a_deleted_version_takes_its_codebook_along(compressed: tuple[Path, CompressReport]) -> None:
    folder, report = compressed
    with closing(Store(folder)) as store:
        assert len(list((folder / "codebooks").iterdir())) == 1
        with pytest.raises(BadInput, match="is the active version"):
            delete(store, report.version)
        activate(store, report.of)
        assert delete(store, report.version) == 100
        assert list((folder / "codebooks").iterdir()) == []
        again = compress(store, BYTES)
        assert (again.version, again.added, again.kept) == (report.version, 100, False)


def test_a_cluster_is_not_given_codes(compressed: tuple[Path, CompressReport]) -> None:
    folder, report = compressed
    with closing(Store(folder)) as store:
        with pytest.raises(BadInput, match=r"is compressed, .* and .*/16 if the store"):
            images_of(store, [])
        assert images_of(store, [report.of])[1] == 100


def test_codes_do_not_move_to_other_servers(compressed: tuple[Path, CompressReport], tmp_path: Path) -> None:
    with closing(Store(compressed[0])) as store, pytest.raises(BadInput, match=r"#pq4@.* its vectors cannot move"):
        write_moved(store, tmp_path / "moved", Ownership(["a:1", "b:1"], "a:1"))
    assert not (tmp_path / "moved").exists()


def test_damage_is_noticed(compressed: tuple[Path, CompressReport]) -> None:
    folder, report = compressed
    with closing(Store(folder)) as store:
        space = held(store, report.version)
        with open(folder / "rows" / f"{space.number:04d}" / "00000.rows", "r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        with pytest.raises(StoreError, match="1 rows"):
            store.read(space, store.index.load(space.name)[1])
    (file_of,) = (folder / "codebooks").iterdir()
    file_of.write_bytes(codebook_of(BYTES, 4).to_bytes())
    with closing(Store(folder)) as store, pytest.raises(StoreError, match="is damaged"):
        store.codebook(space)
    file_of.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        open_local(folder)
    assert report.version in run_command("imgserver", "versions", f"--store={folder}").stdout
