from __future__ import annotations

import csv
import json
import threading
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run_command

import crossmedia
from crossmedia.errors import BadInput, NothingEmbedded, StoreError
from crossmedia.imgserver.offline.exchange import check_vectors, import_vectors
from crossmedia.imgserver.offline.texts import COMMIT_TEXTS
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision.text_backbones import read_encoder
from crossmedia.version import Version

ITEMS = ROOT / "examples" / "grocery" / "photos.csv"


def write(path: Path, titles: Mapping[int, str | None]) -> str:
    pq.write_table(pa.table({"item_id": list(titles), "title": list(titles.values())}), path)
    return str(path)


def vectors(store: Path) -> tuple[list[int], np.ndarray]:
    opened = Store(store, create=False)
    space = opened.index.space(opened.index.active)
    assert space is not None
    ids, entries, _ = opened.index.load(space.name)
    ok = entries["status"] == 1
    values = opened.read(space, entries[ok])
    opened.close()
    return ids[ok].tolist(), values.astype(np.float32)


def test_titles_become_vectors_and_the_same_words_are_near(tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = run_command("imgserver", "precompute", f"--store={store}", f"--texts={ITEMS}", "--text=fine", "--json")
    said = json.loads(done.stdout)
    assert (said["found"], said["embedded"], said["rejected"]) == (243, 243, 0)
    version = Version.parse(said["version"])
    assert version.of_texts
    assert version.dim == 64
    assert "243 texts" in done.stderr
    ids, values = vectors(store)
    with open(ITEMS, encoding="utf-8", newline="") as file:
        rows = {int(row["item_id"]): row for row in csv.DictReader(file)}
    coarse = np.array([rows[i]["coarse"] for i in ids])
    fine = np.array([rows[i]["fine"] for i in ids])
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    cosines = values @ values.T
    other = fine[:, None] != fine  # the same words would be too easy
    same = coarse[:, None] == coarse
    assert cosines[other & same].mean() > 5 * abs(cosines[other & ~same].mean()) + 0.1


def test_a_second_run_passes_over_what_is_there_and_takes_what_changed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    titles = {
        i: f"{colour} {thing}"
        for i, (colour, thing) in enumerate(
            (c, t) for c in ("red", "blue", "green") for t in ("dress", "shirt", "shoes", "hat")
        )
    }
    path = write(tmp_path / "items.parquet", dict(titles))
    first = crossmedia.precompute_texts(store, path, "title")
    assert (first.found, first.embedded, first.skipped) == (12, 12, 0)
    again = crossmedia.precompute_texts(store, path, "title")
    assert (again.embedded, again.skipped, again.version) == (0, 12, first.version)
    before = dict(zip(*vectors(store), strict=True))
    path = write(tmp_path / "items.parquet", titles | {3: "blue dress", 40: "blue shirt"})
    third = crossmedia.precompute_texts(store, path, "title")
    assert (third.embedded, third.skipped, third.version) == (2, 11, first.version), "its encoder and its head are kept"
    after = dict(zip(*vectors(store), strict=True))
    np.testing.assert_array_equal(after[3], before[4])
    np.testing.assert_array_equal(after[40], before[5])
    np.testing.assert_array_equal(after[0], before[0])


def test_a_run_that_was_ended_goes_on_where_it_stopped(tmp_path: Path) -> None:
    many = write(tmp_path / "items.parquet", {i: f"{'red' if i % 2 else 'blue'} dress {i}" for i in range(5000)})

    def end(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crossmedia.precompute_texts(tmp_path / "store", many, "title", progress=end)
    result = crossmedia.precompute_texts(tmp_path / "store", many, "title")
    assert (result.skipped, result.embedded) == (COMMIT_TEXTS, 5000 - COMMIT_TEXTS)
    alone = crossmedia.precompute_texts(tmp_path / "other", many, "title")
    assert alone.version == result.version


def test_a_table_behind_a_url_is_read(tmp_path: Path) -> None:
    write(tmp_path / "items.parquet", {i: f"Apple {i}" for i in range(9)})
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/items.parquet"
        assert crossmedia.precompute_texts(tmp_path / "store", url, "title").embedded == 9
        with pytest.raises(BadInput, match="cannot be read"):
            crossmedia.precompute_texts(tmp_path / "store", f"{url}.parquet", "title")
        server.shutdown()


def test_a_bad_text_is_rejected_alone_and_with_its_reason(tmp_path: Path) -> None:
    store = tmp_path / "store"
    data = b"item_id,title\n1,red dress\n2,\n3,caf\xe9\n4,blue dress\n5," + b"x" * 70_000 + b"\n6,red hat\n"
    (tmp_path / "items.csv").write_bytes(data)
    done = run_command(
        "imgserver", "precompute", f"--store={store}", f"--texts={tmp_path / 'items.csv'}", "--text=title"
    )
    assert "embedded 3, skipped 0, rejected 3" in done.stdout
    with open(store / "rejects.csv", encoding="utf-8", newline="") as file:
        found = {int(row["image_id"]): row for row in csv.DictReader(file)}
    assert found[2]["reason"] == "CORRUPT: the text is empty"
    assert "no UTF-8" in found[3]["reason"]
    assert "more than 65536 bytes" in found[5]["reason"]
    assert found[5]["file"] == "items.csv (row 5 below the header)"
    assert vectors(store)[0] == [1, 4, 6]


def test_nothing_but_bad_texts_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "items.parquet", {1: "", 2: None})
    with pytest.raises(BadInput, match="nothing to fit"):
        crossmedia.precompute_texts(tmp_path / "store", path, "title")
    crossmedia.precompute_texts(tmp_path / "good", ITEMS, "fine")
    file = next((tmp_path / "good" / "encoders").iterdir())
    with pytest.raises(NothingEmbedded):
        crossmedia.precompute_texts(tmp_path / "store", path, "title", encoder=f"tfidf:{file}")


def test_an_encoder_of_another_store_makes_the_same_features(tmp_path: Path) -> None:
    """Servers that each own a part need one encoder."""
    crossmedia.precompute_texts(tmp_path / "one", ITEMS, "fine")
    file = next((tmp_path / "one" / "encoders").iterdir())
    path = write(tmp_path / "items.parquet", {i: f"Apple {i}" for i in range(10)})
    result = crossmedia.precompute_texts(tmp_path / "other", path, "title", encoder=f"tfidf:{file}")
    assert Version.parse(result.version).backbone == f"text:{file.stem}"
    kept = crossmedia.precompute_texts(tmp_path / "other", path, "title")
    assert kept.version == result.version, "the store's own, and not one fitted anew"


def test_keys_that_are_names_take_the_ids_of_a_manifest(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("sku,title\nb-2,blue dress\na-1,red dress\nc-3,milk\n")
    manifest, store = tmp_path / "manifest.parquet", tmp_path / "store"
    common = ("imgserver", "precompute", f"--store={store}", f"--texts={items}", "--text=title", "--key=sku")
    refused = run_command(*common, check=False)
    assert refused.returncode == 2
    assert "imgserver manifest" in refused.stderr
    assert not (store / "index").exists()
    run_command("imgserver", "manifest", str(items), "--key=sku", f"--out={manifest}")
    run_command(*common, f"--manifest={manifest}")
    assert vectors(store)[0] == [0, 1, 2]
    items.write_text("sku,title\nb-2,blue dress\na-1,red dress\nc-3,milk\nd-4,milk tea\n")
    done = run_command(*common)  # the store knows the names by now
    assert "passed over 1 of 4 rows" in done.stderr
    run_command("imgserver", "manifest", str(items), "--key=sku", f"--out={manifest}")
    assert "found 4, embedded 1" in run_command(*common, f"--manifest={manifest}").stdout
    with crossmedia.open_store(store) as client:
        assert client.get([0, 1, 2, 3]).ok.all()


def test_a_store_holds_photos_or_texts(store: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds photos \(efficientnet_lite0@.*Give texts a store of their own"):
        crossmedia.precompute_texts(store, ITEMS, "fine")
    crossmedia.precompute_texts(tmp_path / "titles", ITEMS, "fine")
    with pytest.raises(BadInput, match=r"holds texts \(text:tfidf@.*Give photos a store of their own"):
        crossmedia.precompute(tmp_path / "titles", photos)
    table, other = tmp_path / "vectors.parquet", Store(tmp_path / "imported")
    pq.write_table(pa.table({"image_id": [1, 2], "vector": [[1.0, 0.0], [0.0, 1.0]]}), table)
    with closing(other):
        import_vectors(other, check_vectors(table, "made"))
    with pytest.raises(BadInput, match=r"holds vectors that are not of texts \(made@.*Give texts a store of their own"):
        crossmedia.precompute_texts(tmp_path / "imported", ITEMS, "fine")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--texts=x.csv", "--catalogue=photos"], "into a store alone"),
        (["--texts=x.csv", "--part=1/2"], "into a store alone"),
        (["--texts=x.csv"], "does not exist"),
        ([f"--texts={ITEMS}", "--text=fine", "--encoder=tfdif"], "Did you mean 'tfidf'"),
        ([f"--texts={ITEMS}", "--text=fine", "--encoder=tfidf:none.safetensors"], "cannot be read"),
        ([f"--texts={ITEMS}", "--text=fine", "--encoder=onnx:."], "needs model.onnx and tokenizer.json"),
        ([], "Give --catalogue, where the photos are, or --texts"),
    ],
)
def test_what_does_not_go_together_is_said(options: list[str], said: str, tmp_path: Path) -> None:
    done = run_command("imgserver", "precompute", f"--store={tmp_path / 'store'}", *options, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "store" / "index").exists(), "a slip makes no store"


def test_a_damaged_encoder_is_noticed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = crossmedia.precompute_texts(store, ITEMS, "fine")
    name = Version.parse(result.version).backbone.removeprefix("text:")
    file = store / "encoders" / f"{name}.safetensors"
    data = bytearray(file.read_bytes())
    data[-2] ^= 1  # of the last weight or direction: still a number
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged: its numbers are those of text:tfidf@"):
        read_encoder(store, name)
    done = run_command("imgserver", "doctor", f"--store={store}", check=False)
    assert "damaged" in done.stdout
    file.unlink()
    with pytest.raises(StoreError, match="missing or damaged"):
        crossmedia.precompute_texts(store, ITEMS, "fine")


def test_a_backup_has_the_encoder(tmp_path: Path) -> None:
    store, backup, again = tmp_path / "store", tmp_path / "backup", tmp_path / "again"
    first = crossmedia.precompute_texts(store, ITEMS, "fine")
    run_command("imgserver", "backup", f"--to={backup}", f"--store={store}")
    run_command("imgserver", "restore", str(backup), f"--store={again}")
    assert crossmedia.precompute_texts(again, ITEMS, "fine").version == first.version


def test_imported_vectors_may_stand_beside_the_active_ones(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "clip.parquet"
    first = crossmedia.precompute_texts(store, ITEMS, "fine")
    pq.write_table(pa.table({"image_id": [1, 2], "vector": [[1.0, 0.0], [0.0, 1.0]]}), file)
    command = ("imgserver", "import", str(file), "--name=clip", f"--store={store}")
    said = run_command(*command, "--no-activate").stdout
    assert "version, not active: clip@" in said
    version = said.split("not active: ")[1].strip()
    with crossmedia.open_store(store) as client:
        assert client.info().version == first.version
        assert version in client.info().versions
    assert "active version: clip@" in run_command(*command).stdout
