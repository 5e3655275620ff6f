from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, copy_store, run_command

from crossmedia.errors import BadInput
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, Status
from crossmedia.imgserver.offline.image_ids import read_ids
from crossmedia.imgserver.storage.catalogue import Catalogue, open_catalogue
from crossmedia.imgserver.storage.catalogue.manifest import write_manifest

MOST = 1 << 20


def make_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def make_catalogue(kind: str, folder: Path, photos: dict[int, bytes]) -> Path:
    """The same photos as a folder, a tar, several tars, a Parquet file, or a manifest."""
    folder.mkdir()
    if kind == "folder":
        for number, data in photos.items():
            (folder / ("deep" if number % 2 else ".") / f"{number:03d}.jpg").parent.mkdir(exist_ok=True)
            (folder / ("deep" if number % 2 else ".") / f"{number:03d}.jpg").write_bytes(data)
        return folder
    if kind == "tar":
        make_tar(folder / "all.tar", {f"x/{n}.{s}": d for n, d in photos.items() for s in ("jpg", "cls")})
        return folder / "all.tar"
    if kind == "tars":
        for part in range(3):
            make_tar(folder / f"{part}.tar", {f"{n}.jpg": d for n, d in photos.items() if n % 3 == part})
        return folder
    if kind == "parquet":
        table = pa.table({"id": list(photos), "bytes": pa.array(photos.values(), pa.binary())})
        pq.write_table(table, folder / "photos.parquet", row_group_size=7)
        return folder / "photos.parquet"
    (folder / "of").mkdir()
    uris = []
    for number, data in photos.items():
        uris.append(f"of/{number}.picture")
        (folder / uris[-1]).write_bytes(data)
    pq.write_table(pa.table({"image_id": list(photos), "uri": uris}), folder / "m.parquet")
    return folder / "m.parquet"


@pytest.mark.parametrize("kind", ["folder", "tar", "tars", "parquet", "manifest"])
def test_every_kind_of_catalogue_gives_the_same_photos(kind: str, tmp_path: Path, photos: Path) -> None:
    taken = {int(p.stem): p.read_bytes() for p in sorted(photos.glob("*.jpg"))[::-1][:40]}
    catalogue = open_catalogue(make_catalogue(kind, tmp_path / "c", taken))
    assert catalogue.ids().tolist() == sorted(taken)
    for number, data in taken.items():
        assert catalogue.read(number, MOST) == data
        assert catalogue.read(number, 100) == data[:101], "at most one byte more than is allowed"
    assert catalogue.read(10**9, MOST) is None
    ids = catalogue.ids()
    assert sorted(catalogue.reading_order(ids[::2]).tolist()) == ids[::2].tolist()
    found = catalogue.fingerprints(np.append(ids, 10**9))
    assert found.there.tolist() == [True] * len(ids) + [False]


def test_catalogue_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("7.jpg", "008.PNG", "sub/9.webp", "notes.txt", ".10.jpg"):
        (tmp_path / name).write_bytes(b"x")
    catalogue = open_catalogue(tmp_path)
    assert catalogue.ids().tolist() == [7, 8, 9]
    assert catalogue.read(8, 10) == b"x"
    assert catalogue.read(11, 10) is None
    (tmp_path / "11.jpg").write_bytes(b"later")
    assert catalogue.read(11, 10) == b"later"


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_shards_are_read_once_from_the_start(kind: str, tmp_path: Path) -> None:
    photos = {n * 37 % 101: bytes([n]) for n in range(60)}
    catalogue = open_catalogue(make_catalogue(kind, tmp_path / "c", photos))
    order = catalogue.reading_order(catalogue.ids())
    listing = catalogue._listing
    places = listing.places(order)
    where = list(zip(listing.file[places].tolist(), listing.offset[places].tolist(), strict=True))
    assert where == sorted(where)


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "manifest"])
def test_a_replaced_photo_is_noticed(kind: str, tmp_path: Path) -> None:
    where = make_catalogue(kind, tmp_path / "c", {1: b"one", 2: b"two"})
    ids = np.array([1, 2])
    before = open_catalogue(where).fingerprints(ids)
    time.sleep(0.01)
    shutil.rmtree(tmp_path / "c")
    after = open_catalogue(make_catalogue(kind, tmp_path / "c", {1: b"one", 2: b"owt"})).fingerprints(ids)
    assert after.stamp[1] != before.stamp[1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cat.jpg": b"x"}, "lasts: crossmedia imgserver manifest .*; then"),
        ({"my cat.jpg": b"x", "7.jpg": b"x", "cat (1).jpg": b"x"}, r"2 of 3 photos .*: cat \(1\).jpg .*my cat.jpg"),
        ({"1.jpg": b"x", "01.png": b"x"}, "id 1 has two photos, .*1.* and .*1"),
        ({"9223372036854775808.jpg": b"x"}, "1 of 1 photos .* whole number"),
        ({"a.tar": b"no tar"}, "a.tar cannot be listed"),
        ({"a.parquet": b"no parquet"}, "a.parquet cannot be read"),
    ],
)
def test_a_catalogue_that_cannot_be_used_says_why(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=message):
        open_catalogue(tmp_path)


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([3.0, 5.0]),
        pa.array([3, 5], pa.uint64()),
        pa.array([Decimal(3), Decimal(5)]),
        pa.array(["3", "5.0"]),
        pa.array(["3", "5"], pa.large_string()),
        pa.array(["3", "5"]).dictionary_encode(),
    ],
    ids=lambda ids: str(ids.type),
)
def test_ids_of_parquet_files_are_numbers_in_any_type(tmp_path: Path, ids: pa.Array, photos: Path) -> None:
    photo = (photos / "200.jpg").read_bytes()
    pq.write_table(pa.table({"id": ids, "bytes": [photo, photo]}), tmp_path / "a.parquet")
    assert open_catalogue(tmp_path / "a.parquet").ids().tolist() == [3, 5]
    pq.write_table(pa.table({"image_id": ids, "uri": ["x.jpg", "y.jpg"]}), tmp_path / "m.parquet")
    assert open_catalogue(tmp_path / "m.parquet").ids().tolist() == [3, 5]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"]}, "no column 'image_id'"),
        ({"id": [1], "picture": [b"x"]}, "no column 'bytes'"),
        ({"id": [1, None], "bytes": [b"x", b"y"]}, "empty in row 2"),
        ({"id": [1.5], "bytes": [b"x"]}, "holds 1.5 in row 1"),
        ({"id": [-1], "uri": ["x"]}, "holds NaN or -1"),
        ({"id": [2.0**53 + 2], "uri": ["x"]}, "'id' of .* holds 9007199254740994.0 in row 1; .* not told apart"),
        ({"id": pa.array([2**63], pa.uint64()), "bytes": [b"x"]}, "'id' of .* holds 9223372036854775808 in row 1"),
        ({"id": [True], "bytes": [b"x"]}, "'id' of .* is of type bool"),
        ({"id": ["a"], "uri": ["x"]}, "holds 'a' in row 1; image ids are whole numbers"),
        ({"id": [1], "uri": [None]}, "empty in 1 rows"),
        ({"id": [3, 3], "uri": ["x", "y"]}, r"The id 3 of .*twice, in row 1 \(uri 'x'\) and in row 2"),
    ],
)
def test_a_parquet_file_that_lies_is_refused(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    table = pa.table(columns)
    if columns.get("uri") == [None]:
        table = pa.table({"id": [1], "uri": pa.array([None], pa.string())})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(BadInput, match=message):
        open_catalogue(tmp_path / "x.parquet")


def test_names_get_ids_that_last_and_travel(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("pear", "apple", "fig"):
        (home / f"{name}.jpg").write_bytes(name.encode())
    out = home / "manifest.parquet"
    (home / "fig.jpg").rename(tmp_path / "fig.jpg")
    assert write_manifest(str(home), out, 5).added == 2
    first = pq.read_table(out).to_pylist()
    assert [(row["image_id"], row["key"]) for row in first] == [(0, "apple"), (1, "pear")]
    (tmp_path / "fig.jpg").rename(home / "fig.jpg")
    (home / "apple.jpg").unlink()
    run_command("imgserver", "manifest", str(home), f"--out={out}")
    rows = {row["key"]: row["image_id"] for row in pq.read_table(out).to_pylist()}
    assert rows == {"apple": 0, "pear": 1, "fig": 2}, "ids stay, and the id of a photo that has gone is not given again"
    shutil.move(home, tmp_path / "elsewhere")
    catalogue = open_catalogue(tmp_path / "elsewhere" / "manifest.parquet")
    assert catalogue.read(2, MOST) == b"fig"
    assert catalogue.read(0, MOST) is None


def test_a_manifest_of_tars_and_parquet_files(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"red.jpg": b"r", "green.jpg": b"g"})
    pq.write_table(pa.table({"key": ["blue"], "bytes": pa.array([b"b"], pa.binary())}), tmp_path / "b.parquet")
    out = tmp_path / "sub" / "m.parquet"
    write_manifest(str(tmp_path), out, 5)
    keys = {row["key"]: row["image_id"] for row in pq.read_table(out).to_pylist()}
    with pytest.raises(BadInput, match=f"out of its own folder.*--photo-root {tmp_path}$"):
        open_catalogue(out)
    catalogue = open_catalogue(out, photo_roots=[str(tmp_path)])
    assert {key: catalogue.read(number, MOST) for key, number in keys.items()} == {
        "red": b"r",
        "green": b"g",
        "blue": b"b",
    }


def test_manifest_refuses(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "c" / folder).mkdir(parents=True)
        (tmp_path / "c" / folder / "x.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"'x' is there 2 times, in (a|b)/x.jpg and (a|b)/x.jpg"):
        write_manifest(str(tmp_path / "c"), tmp_path / "m.parquet", 5)
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "1.jpg").write_bytes(b"x")
    write_manifest(str(tmp_path / "n"), tmp_path / "m.parquet", 5)
    (tmp_path / "n" / "one.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"In .*m.parquet the keys are the ids"):
        write_manifest(str(tmp_path / "n"), tmp_path / "m.parquet", 5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="No image was found"):
        write_manifest(str(tmp_path / "empty"), tmp_path / "m2.parquet", 5)
    with pytest.raises(BadInput, match="/none does not exist"):
        write_manifest(str(tmp_path / "none"), tmp_path / "m2.parquet", 5)
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(BadInput, match=r"text.parquet is there, and cannot be read.*another --out"):
        write_manifest(str(tmp_path / "c" / "a"), tmp_path / "text.parquet", 5)


def test_a_number_is_an_id_however_it_is_written(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "m.parquet"
    photos.mkdir()
    for name in ("7", "8"):
        (photos / f"{name}.jpg").write_bytes(name.encode())
    write_manifest(str(photos), out, 5)
    (photos / "7.jpg").rename(photos / "007.jpg")
    report = write_manifest(str(photos), out, 5)
    assert (report.images, report.added, report.gone) == (2, 0, 0)
    assert open_catalogue(out).read(7, MOST) == b"7"
    (photos / "07.jpg").write_bytes(b"another")
    with pytest.raises(BadInput, match=r"Image id 7 has two photos, (07|007).jpg and (07|007).jpg"):
        write_manifest(str(photos), out, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n\n x \n", "Line 3 .* is 'x'"),
        ("9223372036854775808", "Line 1 .* to 2.63 - 1"),
        ("7\n-1\n", "Line 2 .* is '-1'"),
        ("9" * 5000, "Line 1 .* to 2.63 - 1"),
        (" \n", "is empty"),
    ],
)
def test_files_of_image_ids_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ids.txt").write_text(f"{2**63 - 1}\n\n7\n7")
    assert read_ids(tmp_path / "ids.txt").tolist() == [7, 2**63 - 1]
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf7.0\r\n1.2e+12\n")
    assert read_ids(tmp_path / "ids.txt").tolist() == [7, 1_200_000_000_000]
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_ids(tmp_path / "ids.txt")


def test_precompute_and_serve_from_a_manifest_of_tars(tmp_path: Path, photos: Path, graph_cache: Path) -> None:
    """String keys to vectors: what the folder gives, the tar gives too."""
    taken = sorted(photos.glob("*.jpg"))[:30]
    make_tar(tmp_path / "a.tar", {f"photo-{p.stem}.jpg": p.read_bytes() for p in taken} | {"broken.jpg": b"nothing"})
    run_command("imgserver", "manifest", str(tmp_path / "a.tar"), f"--out={tmp_path / 'm.parquet'}")
    store = copy_store(graph_cache, tmp_path / "store")
    rows = {row["key"]: row["image_id"] for row in pq.read_table(tmp_path / "m.parquet").to_pylist()}
    # The store holds other photos under these ids: every one is noticed as replaced.
    arguments = [f"--store={store}", f"--catalogue={tmp_path / 'm.parquet'}", "--dim=16", "--json"]
    found = json.loads(run_command("imgserver", "precompute", *arguments).stdout)
    assert found["found"] == 31
    assert found["rejected"] == 1
    with ImageClient(open_local(store)) as ours, ImageClient(open_local(graph_cache)) as theirs:
        a = ours.get([rows[f"photo-{p.stem}"] for p in taken])
        b = theirs.get([int(p.stem) for p in taken])
        assert ours.get([rows["broken"]]).status.tolist() == [Status.CORRUPT]
    assert a.ok.all()
    assert a.version == b.version
    np.testing.assert_array_equal(a.values, b.values)


def test_a_manifest_that_grows_is_seen_by_the_daemon(tmp_path: Path, photos: Path, store: Path) -> None:
    (tmp_path / "p").mkdir()
    for number in (150, 151):
        shutil.copy(photos / f"{number}.jpg", tmp_path / "p" / f"{number}.jpg")
    out = tmp_path / "m.parquet"
    write_manifest(str(tmp_path / "p"), out, 5)
    daemon = DaemonProcess(store, out)
    try:
        with ImageClient(daemon.address) as client:
            assert client.get([150, 152]).status.tolist() == [Status.OK, Status.NOT_FOUND]
            shutil.copy(photos / "152.jpg", tmp_path / "p" / "152.jpg")
            write_manifest(str(tmp_path / "p"), out, 5)
            end = time.monotonic() + 10
            while time.monotonic() < end and not client.get([152]).ok[0]:
                time.sleep(0.2)
            assert client.get([152]).ok[0]
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A bucket of a local S3 server, and the environment that points every client at it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos")
        yield client
    server.stop()


@pytest.mark.slow
def test_a_bucket_is_embedded_resumed_and_followed(s3: Any, tmp_path: Path, photos: Path, graph_cache: Path) -> None:
    taken = sorted(photos.glob("*.jpg"))[:12]
    for path in taken:
        s3.put_object(Bucket="photos", Key=f"new/{path.name}", Body=path.read_bytes())
    s3.put_object(Bucket="photos", Key="new/500.jpg", Body=b"no picture")
    store = tmp_path / "store"
    (store / "engine").mkdir(parents=True)
    shutil.copytree(graph_cache / "engine", store / "engine", dirs_exist_ok=True)
    arguments = [f"--store={store}", "--catalogue=s3://photos/new", "--dim=4", "--json"]
    found = json.loads(run_command("imgserver", "precompute", *arguments).stdout)
    assert (found["found"], found["embedded"], found["rejected"]) == (13, 12, 1)
    found = json.loads(run_command("imgserver", "precompute", *arguments).stdout)
    assert (found["embedded"], found["skipped"]) == (0, 13)
    s3.put_object(Bucket="photos", Key=f"new/{taken[0].name}", Body=taken[1].read_bytes())
    found = json.loads(run_command("imgserver", "precompute", *arguments).stdout)
    assert (found["embedded"], found["skipped"]) == (1, 12)
    s3.put_object(Bucket="photos", Key="new/600.jpg", Body=taken[2].read_bytes())
    catalogue = open_catalogue("s3://photos/new")
    assert catalogue.read(600, MOST) == taken[2].read_bytes()
    assert catalogue.read(600, 10) == taken[2].read_bytes()[:11]
    s3.delete_object(Bucket="photos", Key="new/600.jpg")
    assert catalogue.read(600, MOST) is None


def test_tars_and_manifests_in_a_bucket(s3: Any, tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"red.jpg": b"r" * 2000, "green.jpg": b"g"})
    s3.upload_file(str(tmp_path / "a.tar"), "photos", "shards/a.tar")
    out = tmp_path / "m.parquet"
    write_manifest("s3://photos/shards", out, 5)
    s3.upload_file(str(out), "photos", "m.parquet")
    for where in (str(out), "s3://photos/m.parquet"):
        catalogue = open_catalogue(where)
        assert [catalogue.read(i, MOST) for i in (0, 1)] == [b"g", b"r" * 2000]


class _Web(BaseHTTPRequestHandler):
    """A web server with moods, by path; it never honours a range."""

    hits: dict[str, int]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hits[self.path] = count = self.hits.get(self.path, 0) + 1
        if self.path == "/slow.jpg":
            time.sleep(3)
        if self.path == "/gone.jpg" or (self.path == "/shaky.jpg" and count < 3):
            self.send_error(404 if self.path == "/gone.jpg" else 503)
            return
        self.send_response(200)
        endless = self.path == "/endless.jpg"
        if not endless:
            self.send_header("Content-Length", "5")
        self.end_headers()
        try:
            for _ in range(100_000 if endless else 1):
                self.wfile.write(b"hello" * (1000 if endless else 1))
        except OSError:
            pass


@pytest.fixture
def web() -> Iterator[tuple[str, dict[str, int]]]:
    hits: dict[str, int] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Web", (_Web,), {"hits": hits}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", hits
    server.shutdown()
    server.server_close()


def of_uris(tmp_path: Path, uris: list[str], timeout_s: float) -> Catalogue:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image_id": list(range(len(uris))), "uri": uris}), path)
    return open_catalogue(path, timeout_s)


def test_photos_behind_urls_fail_alone_and_in_time(web: tuple[str, dict[str, int]], tmp_path: Path) -> None:
    url, hits = web
    names = ["good", "gone", "shaky", "slow", "endless"]
    catalogue = of_uris(tmp_path, [f"{url}/{name}.jpg" for name in names], 0.5)
    assert catalogue.read(0, MOST) == b"hello"
    assert catalogue.read(1, MOST) is None
    assert hits["/gone.jpg"] == 1, "what is not there is not asked for again"
    assert catalogue.read(2, MOST) == b"hello"
    assert hits["/shaky.jpg"] == 3
    started = time.monotonic()
    with pytest.raises(OSError, match=r"no answer within 0.5 s, 3 times"):
        catalogue.read(3, MOST)
    assert time.monotonic() - started < 4
    assert len(catalogue.read(4, 10_000) or b"") == 10_001, "a server that sends without end is cut off"


def test_an_address_that_changes_is_another_photo(web: tuple[str, dict[str, int]], tmp_path: Path) -> None:
    url, _ = web
    before = of_uris(tmp_path, [f"{url}/a.jpg"], 1).fingerprints(np.array([0]))
    after = of_uris(tmp_path, [f"{url}/b.jpg"], 1).fingerprints(np.array([0]))
    assert before.stamp[0] != after.stamp[0]


def test_an_unknown_protocol_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="crossmedia\\[remote\\]"):
        open_catalogue("abracadabra://photos")
    assert os.listdir(tmp_path) == []


class _Folder(SimpleHTTPRequestHandler):
    """The pages that list a folder of ``photos``; what is below ``broken`` is an error of the server."""

    photos: str

    def __init__(self, *args: Any):
        super().__init__(*args, directory=self.photos)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send_head(self) -> Any:
        if self.path.startswith("/broken"):
            self.send_error(500)
            return None
        return super().send_head()


@pytest.fixture
def folder_url(tmp_path: Path, photos: Path) -> Iterator[str]:
    (tmp_path / "web" / "more").mkdir(parents=True)
    shutil.copy(photos / "001.jpg", tmp_path / "web" / "1.jpg")
    shutil.copy(photos / "002.jpg", tmp_path / "web" / "more" / "2.jpg")
    handler = type("Folder", (_Folder,), {"photos": str(tmp_path / "web")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_the_pages_of_a_web_server_are_a_catalogue(folder_url: str, photos: Path) -> None:
    catalogue = open_catalogue(folder_url, 5)
    assert catalogue.ids().tolist() == [1, 2]
    assert catalogue.read(2, MOST) == (photos / "002.jpg").read_bytes()


def test_a_part_that_cannot_be_listed_is_not_taken_for_empty(folder_url: str, tmp_path: Path) -> None:
    (tmp_path / "web" / "broken").mkdir()
    with pytest.raises(BadInput, match=r"cannot be listed: .*500"):
        open_catalogue(folder_url, 5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/photos/", "ftp://127.0.0.1:9/photos"])
def test_a_host_that_does_not_answer_is_said(url: str) -> None:
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:9.* cannot be (listed|reached): "):
        open_catalogue(url, 2)
