from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, DaemonProcess, copy_store, free_addresses, ownership, run_command, shared_out

import crossmedia
from crossmedia.errors import CrossMediaError, InvalidRequest, StoreError, VersionMismatch
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, Status
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.text_source import TextSource

ITEMS = ROOT / "examples" / "grocery" / "photos.csv"
OF_ITEMS = (f"--texts={ITEMS}", "--text=fine")


def titles() -> dict[int, str]:
    with open(ITEMS, encoding="utf-8", newline="") as file:
        return {int(row["item_id"]): row["fine"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the titles of items 0 to 199, with a similarity index; copied, never changed."""
    folder = tmp_path_factory.mktemp("titles")
    (folder / "ids.txt").write_text("\n".join(map(str, range(200))))
    store = folder / "store"
    run_command("imgserver", "precompute", f"--store={store}", *OF_ITEMS, f"--ids={folder / 'ids.txt'}", "--dim=16")
    run_command("imgserver", "index", f"--store={store}")
    return store


@pytest.fixture(scope="module")
def server(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon over a copy of it and over all 243 titles."""
    process = DaemonProcess(copy_store(filled, tmp_path_factory.mktemp("served") / "store"), None, *OF_ITEMS)
    yield process
    process.stop()


@contextmanager
def serving(filled: Path, folder: Path, *options: str) -> Iterator[tuple[DaemonProcess, ImageClient]]:
    process = DaemonProcess(copy_store(filled, folder / "store"), None, *options)
    try:
        with ImageClient(process.address) as client:
            yield process, client
    finally:
        process.stop()


def test_what_is_not_stored_is_computed_from_the_table(server: DaemonProcess) -> None:
    words = titles()
    with ImageClient(server.address) as client:
        found = client.get([0, 220, 9999])
        assert found.status.tolist() == [Status.OK, Status.OK, Status.NOT_FOUND]
        assert found.version.startswith("text:tfidf@")
        other = next(i for i in range(200, 243) if words[i] in {words[j] for j in range(200)})
        same = next(j for j in range(200) if words[j] == words[other])
        pair = client.get([other, same])
        np.testing.assert_array_equal(*pair.values)  # the same words, one stored and one just computed
        info = client.info()
        assert (info.contents.images_in_catalogue, info.engine) == (243, "numpy")
        assert info.counters.computed_on_demand >= 2


def test_the_server_sees_itself_work(server: DaemonProcess) -> None:
    """The probe is a text that the encoder knows, whatever language it was fitted on."""
    assert "healthy" in run_command("imgserver", "health", f"--server={server.address}", "--wait").stdout


def test_words_find_texts(server: DaemonProcess) -> None:
    words = titles()
    with ImageClient(server.address) as client:
        found = client.search(["Red Delicious", "royal gala", "дом"], k=3)
        assert found.status.tolist() == [Status.OK, Status.OK, Status.CORRUPT]
        assert {words[i] for i in found.image_ids[0].tolist()} == {"Red-Delicious"}
        assert {words[i] for i in found.image_ids[1].tolist()} == {"Royal-Gala"}
        assert (found.image_ids[2] == -1).all(), "nothing is known of it, so nothing is like it"
        with pytest.raises(VersionMismatch, match="of texts: search with words, and not with a photo"):
            client.search([(ROOT / "examples" / "grocery" / "images" / "000.jpg").read_bytes()])
    done = run_command("imgserver", "search", "red delicious", "5", f"--server={server.address}", "--k=2", "--json")
    said = json.loads(done.stdout)["queries"]
    assert [row["query"] for row in said] == ["image 5", '"red delicious"']
    assert words[said[1]["neighbours"][0]["image_id"]] == "Red-Delicious"


def test_a_search_shows_keys_as_the_table_spells_them_and_texts(filled: Path, tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    lines = [f'{number:05},"{title} {"x" * 60 if number == 7 else ""}"' for number, title in titles().items()]
    table.write_text("\n".join(["item_id,fine", *lines]), encoding="utf-8")
    of_items = (f"--texts={table}", "--text=fine")
    with serving(filled, tmp_path, *of_items) as (process, client):
        first, second = client.search(["red delicious"], k=2).image_ids[0].tolist()
        common = ("imgserver", "search", "red delicious", "7", f"--server={process.address}", "--k=2", *of_items)
        said = run_command(*common).stdout.splitlines()
        assert said[1].startswith(f"\"red delicious\": {first:05} 'Red-Delicious' (")
        assert f"  {second:05} 'Red-Delicious' (" in said[1]
        near = json.loads(run_command(*common, "--json").stdout)["queries"][1]["neighbours"]
        assert (near[0]["image_id"], near[0]["key"], near[0]["text"]) == (first, f"{first:05}", "Red-Delicious")
        # What nothing is known of has a reason, and so has an id that is not there.
        done = run_command("imgserver", "search", "дом", "9999", f"--server={process.address}", check=False)
        assert done.returncode == 5
        assert '"дом": CORRUPT: the encoder can do nothing with it (one that was fitted knows' in done.stdout
        assert "image 9999: NOT_FOUND: the server has no such id" in done.stdout
        assert "2 of 2 queries have no vector; the first is image 9999: the server has no such id." in done.stderr


def test_texts_that_are_brought_are_served_by_the_next_call(filled: Path, tmp_path: Path) -> None:
    with serving(filled, tmp_path) as (process, client):
        assert client.get([300]).status.tolist() == [Status.NOT_FOUND]
        given: dict[int, bytes | str] = {
            300: "Royal-Gala",
            301: "",
            302: "x" * 70_000,
            303: b"\xff\xd8\xff\xe0JFIF",
            304: "дом",
        }
        assert client.put(given) == {
            300: Status.OK,
            301: Status.CORRUPT,
            302: Status.TOO_LARGE,
            303: Status.CORRUPT,
            304: Status.CORRUPT,
        }
        same = next(i for i, title in titles().items() if title == "Royal-Gala")
        found = client.get([300, same])
        np.testing.assert_array_equal(*found.values)
        before = found.generation
        assert client.put({300: "Banana"}) == {300: Status.OK}
        assert client.get([300]).generation > before
        table = tmp_path / "new.csv"
        table.write_text("item_id,fine\n310,Kiwi\n311,\n")
        done = run_command(
            *("imgserver", "add", f"--texts={table}", "--text=fine", f"--server={process.address}"), check=False
        )
        assert "added 1, refused 1" in done.stdout
        assert "text 311: CORRUPT: the text is empty" in done.stdout
        assert client.get([310]).ok.all()


def test_a_table_that_is_written_again_is_followed(filled: Path, tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("item_id,fine\n900,Kiwi\n")
    with serving(filled, tmp_path, f"--texts={table}", "--text=fine", "--negative-ttl-s=0") as (_, client):
        assert client.get([900, 901]).status.tolist() == [Status.OK, Status.NOT_FOUND]
        table.write_text("item_id,fine\n900,Kiwi\n901,Banana\n")
        until = time.monotonic() + 20
        while client.info().contents.images_in_catalogue < 2 and time.monotonic() < until:
            time.sleep(0.1)
        assert client.get([901]).ok.all()


def test_text_is_not_put_where_photos_are_seen_and_the_other_way_round(
    daemon: DaemonProcess, filled: Path, store: Path, photos: Path, tmp_path: Path
) -> None:
    with (
        ImageClient(daemon.address) as client,
        pytest.raises(InvalidRequest, match=r"Text is given for 7, and .*efficientnet_lite0@.* reads none"),
    ):
        client.put({7: "red dress"})
    with ImageClient(daemon.address) as client, pytest.raises(InvalidRequest, match="half a character"):
        client.search(["\ud800"])
    indexed = copy_store(store, tmp_path / "indexed")
    run_command("imgserver", "index", f"--store={indexed}")
    with (
        ImageClient(open_local(indexed)) as client,
        pytest.raises(VersionMismatch, match=r"knows no words.*hf:FOLDER"),
    ):
        client.search(["red dress"])
    wrong = run_command(
        "imgserver", "serve", f"--store={filled}", f"--catalogue={photos}", "--port=0", "--background", check=False
    )
    assert wrong.returncode == 2
    assert "holds photos" in wrong.stderr
    assert "--texts" in wrong.stderr
    wrong = run_command("imgserver", "serve", f"--store={store}", *OF_ITEMS, "--port=0", "--background", check=False)
    assert wrong.returncode == 2
    assert "holds texts" in wrong.stderr
    both = run_command("imgserver", "serve", f"--store={store}", *OF_ITEMS, f"--catalogue={photos}", check=False)
    assert "give one" in both.stderr


def test_a_catalogue_of_the_other_kind_stores_no_failure(filled: Path, photos: Path, tmp_path: Path) -> None:
    """A version of the other kind may become active while a server runs: nothing is wrong with any text or photo."""
    store = copy_store(filled, tmp_path / "store")
    with (
        ImageClient(open_local(store, photos), timeout_s=2) as client,
        pytest.raises(CrossMediaError, match="FAILED"),
    ):
        client.get([220])
    with crossmedia.open_store(store, TextSource.of(ITEMS, "fine", "item_id")) as client:
        assert client.get([220]).ok.all()


def test_photos_and_titles_are_on_two_servers_and_neither_hinders_the_other(
    daemon: DaemonProcess, server: DaemonProcess
) -> None:
    with ImageClient(daemon.address) as photos, ImageClient(server.address) as texts:
        of_photos, of_texts = photos.get([1, 2, 3]), texts.get([1, 2, 3])
        assert of_photos.version != of_texts.version
        assert of_photos.ok.all()
        assert of_texts.ok.all()
        with pytest.raises(VersionMismatch):
            ImageClient(daemon.address, version=of_texts.version).get([1])


def test_titles_may_be_shared_out_among_other_servers_than_photos(
    daemon: DaemonProcess, filled: Path, tmp_path: Path
) -> None:
    """Two servers that each own a part of the titles, with one encoder; photos are on one server."""
    encoder = next((filled / "encoders").iterdir())
    servers = free_addresses(2)
    processes = []
    try:
        for number, address in enumerate(servers):
            store, mine = tmp_path / f"store-{number}", ownership(servers, address)
            run_command(
                *("imgserver", "precompute", f"--store={store}", *OF_ITEMS, f"--encoder=tfidf:{encoder}", *mine)
            )
            shutil.copytree(filled / "heads", store / "heads", dirs_exist_ok=True)
            head = next((filled / "heads").iterdir())
            said = run_command("imgserver", "precompute", f"--store={store}", f"--head={head}", "--json").stdout
            version = json.loads(said)["version"]
            run_command("imgserver", "versions", f"--store={store}", f"--activate={version}")
            port = address.rpartition(":")[2]
            processes.append(DaemonProcess(store, None, *OF_ITEMS, *mine, f"--port={port}"))
        with ImageClient(",".join(servers)) as texts, ImageClient(daemon.address) as photos:
            found = texts.get(list(range(243)))
            assert found.ok.all()
            assert photos.get(list(range(100))).ok.all()
        with crossmedia.open_store(filled, TextSource.of(ITEMS, "fine", "item_id")) as whole:
            np.testing.assert_array_equal(found.values, whole.get(list(range(243))).values)
    finally:
        for process in processes:
            process.stop()


def test_a_store_that_is_shared_out_takes_its_encoder_along(filled: Path, tmp_path: Path) -> None:
    servers = ["a:1", "b:1"]
    stores = shared_out(filled, tmp_path / "shared", servers)
    source = TextSource.of(ITEMS, "fine", "item_id")
    found = {}
    for store in stores:
        with crossmedia.open_store(store, source) as client:
            assert client.info().version.startswith("text:tfidf@")
            found[store] = client.get([230, 242])  # neither has them
            assert found[store].ok.all()
    np.testing.assert_array_equal(found[stores[0]].values, found[stores[1]].values)


# A photo server whose backbone is an image tower; its weights are random, so what it finds means nothing.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_models import save_towers

    return save_towers(tmp_path_factory.mktemp("model") / "clip", "clip")


@pytest.fixture(scope="module")
def photo_store(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    (folder / "ids.txt").write_text("\n".join(map(str, range(60))))
    store = folder / "store"
    common = ("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", f"--ids={folder / 'ids.txt'}")
    run_command(*common, f"--backbone=hf:{model}")
    run_command("imgserver", "index", f"--store={store}")
    return store


def test_photos_are_found_by_words(model: Path, photo_store: Path, tmp_path: Path) -> None:
    crossmedia.precompute_texts(tmp_path / "texts", ITEMS, "fine", encoder=f"hf:{model}")
    with serving(photo_store, tmp_path) as (_, client), crossmedia.open_store(tmp_path / "texts") as texts:
        assert client.info().version.startswith("hf:clip@")
        assert client.info().dim == texts.info().dim == 24, "features are kept whole"
        found = client.search([titles()[0]], k=60)
        word = texts.get([0]).values.astype(np.float32)
        pictures = client.get(list(range(60))).values.astype(np.float32)
        cosines = (pictures / np.linalg.norm(pictures, axis=1, keepdims=True)) @ (word / np.linalg.norm(word))[0]
        order = np.argsort(-cosines)
        np.testing.assert_allclose(found.cosines[0], cosines[order], atol=2e-3)
        near = dict(zip(found.image_ids[0].tolist(), found.cosines[0].tolist(), strict=True))
        np.testing.assert_allclose([near[i] for i in range(60)], cosines, atol=2e-3)


def test_words_find_photos_whose_tower_computes_in_another_format(
    model: Path, photos: Path, photo_store: Path, tmp_path: Path
) -> None:
    """How the photos' numbers are computed says nothing of the texts' tower."""
    store = tmp_path / "store"
    made = crossmedia.precompute(store, photos, f"hf:{model}#bf16", ids=range(60), machine=Machine(threads=1))
    assert "#bf16" in made.version
    crossmedia.build_index(store)
    with ImageClient(open_local(store)) as short, ImageClient(open_local(photo_store)) as whole:
        found, expected = (
            dict(zip(one.image_ids[0].tolist(), one.cosines[0].tolist(), strict=True))
            for one in (client.search(["red dress"], k=60) for client in (short, whole))
        )
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[i] for i in range(60)], [expected[i] for i in range(60)], atol=0.05)


def test_words_are_refused_where_a_head_made_something_else(
    photo_store: Path, photos: Path, model: Path, tmp_path: Path
) -> None:
    store = copy_store(photo_store, tmp_path / "store")
    run_command(
        *("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", f"--backbone=hf:{model}"),
        *("--dim=8", "--ids", str(photo_store.parent / "ids.txt")),
    )
    run_command("imgserver", "index", f"--store={store}")
    with (
        ImageClient(open_local(store)) as client,
        pytest.raises(VersionMismatch, match=r"its head pca@.* changed what the image tower made.*--dim 24"),
    ):
        client.search(["red dress"])


def test_a_model_that_changed_is_noticed(photo_store: Path, model: Path, tmp_path: Path) -> None:
    store = copy_store(photo_store, tmp_path / "store")
    file = model / "preprocessor_config.json"
    before = file.read_text()
    file.write_text(before.replace("0.48", "0.47"))
    try:
        with (
            ImageClient(open_local(store)) as client,
            pytest.raises(StoreError, match="holds features of hf:clip@"),
        ):
            client.search(["red dress"])
    finally:
        file.write_text(before)
