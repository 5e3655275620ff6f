"""Names of a manifest, all the way: search, duplicates, semantic ids, import, export, add, rejects; few photos."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from conftest import DaemonProcess, copy_store, run_command
from small_tables import ITEMS, SEEN, items, log, make, put

from crossmedia.errors import BadInput, StoreError
from crossmedia.forms import near_in_words, nearly
from crossmedia.imgserver import open_local
from crossmedia.imgserver.cli import imgserver
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.storage.catalogue import open_catalogue
from crossmedia.imgserver.storage.catalogue.manifest import write_manifest
from crossmedia.keys import Column
from crossmedia.names import NAMES_FILE, ImageNames, ids_or_keys, same_names
from crossmedia.trainer.images.open_images import open_spaces
from crossmedia.trainer.settings import FitConfig

HTML = b"<!DOCTYPE html><html><body>404</body></html>"


def run(command: str, *arguments: str, code: int = 0) -> Result:
    """A command in this process, which saves the seconds that packages take to load."""
    done = CliRunner().invoke(imgserver, [command, *arguments], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def test_names_that_are_there_in_another_form_are_said_by_kind() -> None:
    """And are not found: two keys that differ in such a way may be two photos."""
    keys = ["Caf\u00e9", "cat", "dog one", "./x y", "emu"]
    names = ImageNames(np.arange(5), pa.array(keys))
    asked = ["Cafe\u0301.jpg", "a/CAT.png", "Cat", " emu ", "cat.jpg?w=200", "dog%20one.webp", "/X%20Y?w=1", "nobody"]
    assert (names.named(asked) == -1).all()
    near = names.near(pa.array(asked))
    assert [(one.kind, one.count, one.asked, one.there) for one in near] == [
        ("another_Unicode_form_NFC_or_NFD", 1, "Cafe\u0301.jpg", "Caf\u00e9"),
        ("another_letter_case", 2, "a/CAT.png", "cat"),
        ("a_form_with_other_blanks_at_the_ends", 1, " emu ", "emu"),
        ("a_form_without_the_query_of_an_address", 1, "cat.jpg?w=200", "cat"),
        ("a_form_without_the_escapes_of_an_address", 1, "dog%20one.webp", "dog one"),
        ("a_form_that_differs_in_several_of_these_ways", 1, "/X%20Y?w=1", "./x y"),
    ]
    with pytest.raises(
        BadInput, match=r"8 of 9 names belong to no image; .* 1 of them is there in another Unicode form"
    ):
        names.ids([*asked, "cat"])
    # A whole address is called as 'imgserver manifest' calls it.
    assert names.named(["https://cdn/a/cat.jpg?w=200", "http://cdn/emu#top", "cdn/emu?x"]).tolist() == [1, 4, -1]
    twice = ImageNames(np.arange(2), pa.array(["Caf\u00e9", "Cafe\u0301"]))
    assert twice.named(["Cafe\u0301", "Caf\u00e9"]).tolist() == [1, 0]


@pytest.mark.parametrize(("near", "of", "said"), [(1, 1, " It is there in"), (1, 3, " 1 of them is there in")])
def test_a_form_in_words(near: int, of: int, said: str) -> None:
    found = nearly(pa.array(["Cat"] * near), pa.array(["cat"]))
    assert near_in_words(found, of).startswith(f"{said} another letter case: 'Cat' is there as 'cat'; write both")


def test_names_and_ids(tmp_path: Path) -> None:
    names = ImageNames(np.array([7, 3, 2**62]), pa.array(["cat", "dog.red", "7"]))
    assert names.find(["cat", "dog.red", "7", "nobody"]).tolist() == [7, 3, 2**62, -1]
    assert names.find(["cat.JPG", "new/dog.red.png", "cat.txt", "/a/7.avif"]).tolist() == [7, 3, -1, 2**62]
    assert names.keys([3, 4, 2**62]) == ["dog.red", "4", "7"]
    with pytest.raises(BadInput, match="2 of 3 names belong to no image; the first is 'x'"):
        names.ids(["cat", "x", "y"])
    assert ImageNames.of_store(tmp_path) is None
    names.keep(tmp_path)
    ImageNames(np.array([3, 8]), pa.array(["dog", "emu"])).keep(tmp_path)
    kept = ImageNames.of_store(tmp_path)
    assert kept is not None
    assert kept.keys([3, 7, 8]) == ["dog", "cat", "emu"]
    assert pq.read_table(tmp_path / NAMES_FILE)["image_id"].to_pylist() == [3, 7, 8, 2**62]
    ImageNames.forget(tmp_path, np.array([3, 9]))
    assert (kept := ImageNames.of_store(tmp_path)) is not None
    assert kept.keys([3, 7]) == ["3", "cat"], "photos that are called by their ids now have no key"
    ImageNames.forget(tmp_path, np.array([7, 8, 2**62]))
    assert not (tmp_path / NAMES_FILE).exists()
    (tmp_path / NAMES_FILE).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=f"damaged in .*{NAMES_FILE}. Remove that file"):
        ImageNames.of_store(tmp_path)
    with pytest.raises(BadInput, match=f"{NAMES_FILE} cannot be read.*imgserver manifest"):
        ImageNames.read(tmp_path / NAMES_FILE)
    empty = ImageNames(np.zeros(0, np.int64), pa.array([], pa.string()))
    assert empty.find(["a"]).tolist() == [-1]
    assert empty.keys([5]) == ["5"]


def test_manifests_that_grew_out_of_each_other_agree_and_others_do_not() -> None:
    def digests(*keys: str) -> tuple[str, ...]:
        return ImageNames(np.arange(len(keys)), pa.array(keys, pa.string())).digests()

    small = digests("a", "b", "c")
    assert len(small) == 2
    assert digests(*map(str, range(200_000)))[-1] == digests(*map(str, range(65_536)))[-1]
    assert same_names(small, digests("a", "b", "x", "y", "z")), "the first two are the same, and no more is told"
    assert same_names(small, ())
    for other in (("b", "a", "c"), ("a", "x", "c"), ("ab", "", "c"), ("a", "b\0", "c")):
        assert not same_names(small, digests(*other))


@pytest.fixture(scope="module")
def shop(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 named photos, two of them the same, three that are none; their manifest; and their store."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "photos").mkdir()
    for number, photo in enumerate(sorted(photos.glob("*.jpg"))[:120:5]):
        shutil.copy(photo, folder / "photos" / f"SKU-{number:02d}.jpg")
    shutil.copy(folder / "photos" / "SKU-03.jpg", folder / "photos" / "SKU-03 copy.jpg")
    (folder / "photos" / "page, saved.jpg").write_bytes(HTML)
    (folder / "photos" / "empty.png").write_bytes(b"")
    (folder / "photos" / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (folder / "store" / "engine").mkdir(parents=True)
    for file in (graph_cache / "engine").iterdir():
        shutil.copy(file, folder / "store" / "engine")
    run("manifest", str(folder / "photos"), f"--out={folder / 'm.parquet'}")
    embed(folder, "--dim=16")
    return folder


def embed(folder: Path, *options: str) -> str:
    where = (f"--store={folder / 'store'}", f"--catalogue={folder / 'm.parquet'}")
    return run("precompute", *where, *options).stdout


def ids_in(folder: Path) -> dict[str, int]:
    table = pq.read_table(folder / "m.parquet")
    return dict(zip(table["key"].to_pylist(), table["image_id"].to_pylist(), strict=True))


def test_names_are_never_read_as_numbers(tmp_path: Path) -> None:
    ids, keys = [1, 2, 3, 4, 5, 9], ["3.0", "3", "4.0", "nan", "5.0", "5.00"]
    pq.write_table(pa.table({"image_id": ids, "key": keys}), tmp_path / "m.parquet")
    names = ImageNames.read(tmp_path / "m.parquet")
    assert names.keys(ids) == keys
    assert names.ids(keys).tolist() == ids
    assert names.ids(["3.0.jpg", "3.png", "new/nan.jpg"]).tolist() == [1, 2, 4]
    assert names.find(["4", "5", "3.00"]).tolist() == [3, -1, 2], "a word that is no name may be one key's number"
    assert names.named(["4", "4.jpg", "3.00.jpg"]).tolist() == [-1, -1, -1], "the name of a file is none"
    assert names.ids([3, 4]).tolist() == [2, 3]
    assert names.ids("nan").tolist() == [4]
    with pytest.raises(BadInput, match="'names' of the call is of type list"):
        names.ids([["3"]])
    pq.write_table(pa.table({"image_id": [7, 8], "key": [1.0, 2.0]}), tmp_path / "m.parquet")
    assert ImageNames.read(tmp_path / "m.parquet").keys([7, 8]) == ["1", "2"]
    names.keep(tmp_path)
    ImageNames(np.array([6]), pa.array(["3"])).keep(tmp_path)
    kept = ImageNames.of_store(tmp_path)
    assert kept is not None
    assert kept.ids(["3", "3.0", "nan"]).tolist() == [6, 1, 4], "a key that another catalogue gives to another image"


def test_photos_whose_names_look_like_numbers(graph_cache: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "store" / "engine").mkdir(parents=True)
    for file in (graph_cache / "engine").iterdir():
        shutil.copy(file, tmp_path / "store" / "engine")
    keys = ["3", "3.0", "NaN", "cat", "dog", "nan"]
    for key, photo in zip(keys, sorted(photos.glob("*.jpg")), strict=False):
        shutil.copy(photo, tmp_path / "photos" / f"{key}.jpg")
    run("manifest", str(tmp_path / "photos"), f"--out={tmp_path / 'm.parquet'}")
    assert sorted(ids_in(tmp_path)) == keys
    store = f"--store={tmp_path / 'store'}"
    embed(tmp_path, "--dim=4")
    run("export", store, f"--out={tmp_path / 'v.parquet'}")
    before = pq.read_table(tmp_path / "v.parquet")
    assert dict(zip(before["key"].to_pylist(), before["image_id"].to_pylist(), strict=True)) == ids_in(tmp_path)
    run("index", store)
    daemon = DaemonProcess(tmp_path / "store", tmp_path / "m.parquet", f"--photo-root={tmp_path / 'photos'}")
    try:
        found = run_command("imgserver", "search", "3.0", "nan", store, "--k=1", "--json").stdout
        assert [query["query"] for query in json.loads(found)["queries"]] == ["3.0", "nan"]
        shutil.copy(tmp_path / "photos" / "dog.jpg", tmp_path / "3.0.jpg")
        shutil.copy(tmp_path / "photos" / "dog.jpg", tmp_path / "4.0.jpg")
        run_command("imgserver", "add", str(tmp_path / "3.0.jpg"), store)
        refused = run_command("imgserver", "add", str(tmp_path / "4.0.jpg"), store, check=False)
        assert "not named after an image id, nor by a key" in refused.stderr
    finally:
        daemon.stop()
    run("export", store, f"--out={tmp_path / 'v.parquet'}")
    vectors = [
        dict(zip(t["key"].to_pylist(), t["vector"].to_pylist(), strict=True))
        for t in (before, pq.read_table(tmp_path / "v.parquet"))
    ]
    assert [key for key in keys if vectors[0][key] != vectors[1][key]] == ["3.0"]
    assert vectors[1]["3.0"] == vectors[1]["dog"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": [1, 2, 3], "key": ["a", "b", "a"]}, r"key 'a' of .*m.parquet is there twice, in row 1 .*row 3"),
        (
            {"image_id": [1, 2, 1], "key": ["a", "b", "c"]},
            r"image_id 1 of .*m.parquet is there twice, in row 1 .*row 3",
        ),
        ({"image_id": [1, None], "key": ["a", "b"]}, r"'image_id' of .*m.parquet is empty in row 2"),
        ({"image_id": [1, -1], "key": ["a", "b"]}, r"'image_id' of .*m.parquet is empty in row 2, or holds NaN or -1"),
        ({"image_id": [1, 2], "key": ["a", None]}, r"'key' of .*m.parquet is empty in row 2"),
        ({"image_id": ["1", "x"], "key": ["a", "b"]}, r"'image_id' of .*m.parquet holds 'x' in row 2"),
    ],
)
def test_edited_manifests_are_refused_wherever_they_are_read(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    whole = {"uri": "photos/a.jpg", "offset": -1, "size": 1, "stamp": 0}
    n, path = len(columns["key"]), tmp_path / "m.parquet"
    pq.write_table(pa.table({**columns, **{name: [value] * n for name, value in whole.items()}}), path)
    before = path.read_bytes()
    for use in (
        lambda: ImageNames.read(path),
        lambda: open_catalogue(path).names(),
        lambda: write_manifest(str(tmp_path / "photos"), path, 5),
    ):
        with pytest.raises(BadInput, match=message):
            use()
    assert path.read_bytes() == before


def test_what_is_no_manifest_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image_id": [1], "name": ["a"]}), path)
    with pytest.raises(BadInput, match="it has no column key; its columns are: image_id, name"):
        ImageNames.read(path)
    for data, what in (
        (b"", "it is empty"),
        (b"image_id,key\n1,a\n", "it is text"),
        (b"\x93NUMPY\1\0", "a NumPy file"),
    ):
        path.write_bytes(data)
        with pytest.raises(BadInput, match=f"cannot be read: .*{what}"):
            ImageNames.read(path)


def test_rejects_have_key_file_and_reason_and_keep_them(shop: Path) -> None:
    path, ids = shop / "store" / "rejects.csv", ids_in(shop)
    first = path.read_text()
    rows = {row["key"]: row for row in csv.DictReader(first.splitlines())}
    assert rows.keys() == {"page, saved", "empty", "phone"}
    assert rows["page, saved"]["file"] == "photos/page, saved.jpg"
    assert int(rows["empty"]["image_id"]) == ids["empty"]
    for key, what in (("page, saved", "an HTML page"), ("empty", "empty"), ("phone", "a HEIC photo")):
        assert rows[key]["reason"].startswith(f"CORRUPT: it is {what}")
    said = embed(shop)
    assert "found 28, embedded 0, skipped 28, rejected 3" in said
    assert path.read_text() == first, "reasons stay, and two runs write the same file"
    path.unlink()
    assert "found 28, embedded 0, skipped 28, rejected 3" in embed(shop)
    assert path.read_text() == first, "a photo whose reason is not known is looked at again"
    (shop / "some.txt").write_text(f"SKU-03\nSKU-04.jpg\n{ids['empty']}\n")
    assert "found 3, embedded 0, skipped 3, rejected 1" in embed(shop, f"--ids={shop / 'some.txt'}")
    assert path.read_text() == first, "what a run did not ask for stays in the file"
    (shop / "some.txt").write_text("SKU-03\nSKU-99\n")
    where = (f"--store={shop / 'store'}", f"--catalogue={shop / 'm.parquet'}", f"--ids={shop / 'some.txt'}")
    assert "Line 2" in run("precompute", *where, code=2).stderr


def test_search_and_add_take_and_give_keys(shop: Path, tmp_path: Path) -> None:
    store = f"--store={shop / 'store'}"
    run_command("imgserver", "index", store)
    daemon = DaemonProcess(shop / "store", shop / "m.parquet", f"--photo-root={shop / 'photos'}")
    try:
        found = run_command("imgserver", "search", "SKU-03", "SKU-05.png", store, "--k=2").stdout.splitlines()
        assert found[0].startswith("SKU-03: SKU-03 copy (1.000)  SKU-")
        assert found[1].startswith("SKU-05: SKU-")
        by_file = run_command(
            "imgserver", "search", str(shop / "photos" / "SKU-03.jpg"), store, "--k=2", "--json"
        ).stdout
        (query,) = json.loads(by_file)["queries"]
        assert {near["key"] for near in query["neighbours"]} == {"SKU-03", "SKU-03 copy"}
        assert query["neighbours"][0]["image_id"] == ids_in(shop)[query["neighbours"][0]["key"]]
        far = ("imgserver", "search", "SKU-03", f"--server={daemon.address}", "--k=1")
        unknown = run_command(*far, check=False)
        assert unknown.returncode == 2
        assert "neither an image id nor a file" in unknown.stderr
        named = run_command(*far, f"--manifest={shop / 'm.parquet'}").stdout
        assert named.startswith("SKU-03: SKU-03 copy (1.000)")
        nobody = run_command("imgserver", "search", "SKU-99", store, check=False)
        assert nobody.returncode == 2
        assert "neither a key of the manifest, an image id nor a file. Did you mean 'SKU-" in nobody.stderr

        page, new = tmp_path / "empty.jpg", tmp_path / "SKU-77.jpg"
        page.write_bytes(HTML)
        new.write_bytes(HTML)
        refused = run_command("imgserver", "add", str(page), store, check=False)
        assert refused.returncode == 5
        assert f"image {ids_in(shop)['empty']}: CORRUPT: it is an HTML page" in refused.stdout
        absent = run_command("imgserver", "add", str(new), store, check=False)
        assert absent.returncode == 2
        assert "nor by a key of the store's manifest" in absent.stderr
    finally:
        daemon.stop()


def test_files_that_leave_and_enter_the_store_have_keys(shop: Path, tmp_path: Path) -> None:
    store, ids = f"--store={shop / 'store'}", ids_in(shop)
    run("index", store)
    run("duplicates", store, f"--out={tmp_path / 'd.csv'}", "--threshold=0.999")
    rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    assert {"SKU-03", "SKU-03 copy"} <= {row["key"] for row in rows if row["group"] == "1"}
    run("semantic-ids", store, f"--out={tmp_path / 's.parquet'}", "--codes=4")
    run("export", store, f"--out={tmp_path / 'v.parquet'}")
    for file in ("s.parquet", "v.parquet"):
        table = pq.read_table(tmp_path / file)
        found = dict(zip(table["key"].to_pylist(), table["image_id"].to_pylist(), strict=True))
        assert len(found) == 25
        assert all(ids[key] == number for key, number in found.items())

    named = pq.read_table(tmp_path / "v.parquet").drop_columns(["image_id"])
    pq.write_table(named, tmp_path / "named.parquet")
    bring = ("import", str(tmp_path / "named.parquet"), "--name=clip", f"--store={tmp_path / 'other'}")
    refused = run(*bring, code=2)
    assert "--manifest FILE" in refused.stderr
    run(*bring, f"--manifest={shop / 'm.parquet'}")
    with ImageClient(open_local(tmp_path / "other")) as theirs, ImageClient(open_local(shop / "store")) as ours:
        keys = ["SKU-00", "SKU-11"]
        known = ImageNames.of_store(tmp_path / "other")
        assert known is not None
        np.testing.assert_array_equal(theirs.get(known.ids(keys)).values, ours.get([ids[k] for k in keys]).values)
    pq.write_table(pa.table({"key": ["SKU-00", "?"], "vector": [[1.0], [2.0]]}), tmp_path / "named.parquet")
    wrong = run(*bring, code=2)
    assert "holds '?' in row 2" in wrong.stderr


def test_names_travel_with_shards(shop: Path, tmp_path: Path) -> None:
    (shop / "few.txt").write_text("SKU-01\nSKU-02\nSKU-03\n")
    run(
        "precompute",
        f"--catalogue={shop / 'm.parquet'}",
        f"--ids={shop / 'few.txt'}",
        "--part=1/1",
        f"--out={tmp_path}",
    )
    said = run("merge", str(tmp_path), f"--store={tmp_path / 'merged'}")
    assert "2 numbers and not 64, for a PCA of 3 photos" in said.stderr
    kept = ImageNames.of_store(tmp_path / "merged")
    assert kept is not None
    assert kept.find(["SKU-02"]).tolist() == [ids_in(shop)["SKU-02"]]


def test_a_name_that_is_no_images_is_told_with_the_nearest() -> None:
    """Of many keys, too, in a moment: only those that begin or end alike are compared."""
    for many in (10, 200_000):
        keys = [f"SKU-{number:06d}" for number in range(many)]
        names = ImageNames(np.arange(many), pa.array(keys))
        assert names.meant("new/SUK-000007.jpg") == " Did you mean 'SKU-000007'?"
        assert names.meant("zebra") == ""
        with pytest.raises(BadInput, match="'sku-000003' is there as 'SKU-000003'"):
            names.ids(["SKU-000001", "sku-000003"])
        column = Column(pa.array(["1", "SKU-000002", "UKS-000005"]), "image", "ids.txt")
        with pytest.raises(BadInput, match=r"UKS-000005.* Did you mean 'SKU-000005'\?"):
            ids_or_keys(column, names)
    assert ImageNames(np.arange(0), pa.array([], pa.string())).meant("x") == ""


def test_a_first_try_with_ten_photos(graph_cache: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "store" / "engine").mkdir(parents=True)
    for file in (graph_cache / "engine").iterdir():
        shutil.copy(file, tmp_path / "store" / "engine")
    paths = sorted(photos.glob("*.jpg"))
    for photo in paths[:10]:
        shutil.copy(photo, tmp_path / "photos")
    command = ("precompute", f"--store={tmp_path / 'store'}", f"--catalogue={tmp_path / 'photos'}")
    refused = run(*command, "--dim=64", code=2)
    assert "there are 10. Bring more photos, or leave out --dim" in refused.stderr
    assert "Estimate" not in refused.stderr, "before anything is embedded"
    done = run(*command)
    assert "embedded 10" in done.stdout
    assert "/9\n" in done.stdout
    assert "9 numbers and not 64, for a PCA of 10 photos has no more" in done.stdout
    shutil.copy(paths[10], tmp_path / "photos")
    kept = run(*command).stdout  # the head is one of 10 photos, and not of 11
    assert "as the active version's head makes them; of the 11 photos that there are now --new-head makes 10" in kept
    assert "PCA" not in kept
    for photo in paths[11:70]:
        shutil.copy(photo, tmp_path / "photos")
    assert "of the 70 photos that there are now --new-head makes 64" in run(*command).stdout
    again = run(*command, "--new-head")
    assert "/64\n" in again.stdout
    assert "numbers" not in again.stdout
    assert "0/0" not in again.stderr, "no bar of nothing"


def test_damaged_names_keep_nobody_from_vectors(shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = copy_store(shop / "store", tmp_path / "store")
    names = ImageNames.of_store(store)
    assert names is not None
    with ImageClient(open_local(store)) as client:
        assert client.info().contents.image_names == names.digests() != ()
    (store / NAMES_FILE).write_bytes(b"PAR1 and no more")
    with ImageClient(open_local(store)) as client:
        assert client.info().contents.image_names == ()
        assert client.get([ids_in(shop)["SKU-01"]]).ok.all()
    assert "the names of photos cannot be read" in caplog.text


def test_samples_of_another_manifest_are_refused(shop: Path, tmp_path: Path) -> None:
    keys = sorted(ids_in(shop))[:10]
    named = ITEMS.replace('"image"\n', '"image"\nimage_manifest = "m.parquet"\n') + SEEN
    put(tmp_path / "log.parquet", log())
    put(tmp_path / "items.parquet", items(image=keys))
    shutil.copy(shop / "m.parquet", tmp_path)
    right = make(tmp_path, more=named)[0]
    config = FitConfig(str(tmp_path / "out"), store=str(shop / "store"), out=str(tmp_path / "run"))
    with open_spaces(config, right, None) as spaces:
        assert spaces.dims["image"]
    put(tmp_path / "m.parquet", {"image_id": list(range(10)), "key": keys[::-1]})
    other = make(tmp_path, more=named)[0]
    with pytest.raises(BadInput, match="come from another manifest"), open_spaces(config, other, None):
        pass
    put(tmp_path / "items.parquet", items(image=list(range(10))))
    with open_spaces(config, make(tmp_path)[0], None) as spaces:
        assert spaces.dims["image"], "of ids nobody knows where they come from"
