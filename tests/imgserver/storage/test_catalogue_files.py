"""Folders, tars and addresses as they come: names of other systems, links, tables beside photos, signed addresses."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_command

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue import open_catalogue
from crossmedia.imgserver.storage.catalogue.manifest import write_manifest
from crossmedia.imgserver.storage.catalogue.remote import in_words
from crossmedia.names import ImageNames

MOST = 1 << 20


def put(folder: Path, *names: str | bytes) -> None:
    """Files that hold their own names."""
    for name in map(os.fsencode, names):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)


def member(tar: tarfile.TarFile, name: str, data: bytes = b"", **options: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in options.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def keys_of(where: Path, out: Path) -> tuple[list[str], str]:
    """Keys of the manifest that is made of a catalogue, and what was said of files that were passed over."""
    out.unlink(missing_ok=True)
    report = write_manifest(str(where), out, 5)
    return pq.read_table(out)["key"].to_pylist(), "\n".join(report.passed_over)


def test_names_that_are_no_utf8_are_passed_over_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    put(folder, b"Mu\xf1oz.jpg", b"caf\xe9/0.jpg", b"plain.jpg", "é.jpg", b"notes \xf1.txt")
    with tarfile.open(tmp_path / "old.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        for name in ("Mu\xf1oz.jpg", "plain.jpg"):
            member(tar, name, b"x")
    keys, said = keys_of(folder, tmp_path / "m.parquet")
    assert keys == ["plain", "é"]
    assert "photos whose names are no UTF-8: 2 (.jpg 2)" in said
    assert r"Mu\xf1oz.jpg" in said
    assert "convmv" in said
    keys, said = keys_of(tmp_path / "old.tar", tmp_path / "m.parquet")
    assert keys == ["plain"]
    assert r"photos whose names are no UTF-8: 1 (.jpg 1), the first is old.tar/Mu\xf1oz.jpg" in said
    done = run_command("imgserver", "manifest", str(folder), f"--out={tmp_path / 'n.parquet'}")
    assert r"Mu\xf1oz.jpg" in done.stderr
    os.rename(folder, os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(BadInput, match=r"caf\\xe9 is no UTF-8"):
        open_catalogue(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))


def test_what_macos_and_jobs_leave_is_hidden_in_folders_and_tars(tmp_path: Path) -> None:
    names = (
        *("0.jpg", "a/1.jpg", "._0.jpg", "a/._1.jpg", ".thumbnails/7.jpg", "__MACOSX/8.jpg", ".Trash/9.jpg"),
        *("_temporary/0/5.jpg", "_DSC0001.jpg", ".ipynb_checkpoints/4-checkpoint.jpg"),
    )
    put(tmp_path / "photos", *names)
    with tarfile.open(tmp_path / "mac.tar", "w") as tar:
        for name in names:
            member(tar, f"./{name}", b"x")
    for where in (tmp_path / "photos", tmp_path / "mac.tar"):
        keys, said = keys_of(where, tmp_path / "m.parquet")
        assert sorted(keys) == ["0", "1", "_DSC0001"]
        assert said == ""


def test_links_in_tars_are_the_photos_that_they_lead_to(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        member(tar, "a/early.jpg", type=tarfile.SYMTYPE, linkname="../blobs/77")
        member(tar, "a/one.jpg", b"one")
        member(tar, "blobs/77", b"seventy-seven")
        member(tar, "a/hard.jpg", type=tarfile.LNKTYPE, linkname="a/one.jpg")
        member(tar, "b/soft.jpg", type=tarfile.SYMTYPE, linkname="../a/one.jpg")
        member(tar, "b/twice.jpg", type=tarfile.SYMTYPE, linkname="soft.jpg")
        member(tar, "b/lost.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        member(tar, "b/loop.jpg", type=tarfile.SYMTYPE, linkname="loop.jpg")
    keys, said = keys_of(path, tmp_path / "m.parquet")
    catalogue = open_catalogue(tmp_path / "m.parquet")
    read = {key: catalogue.read(number, MOST) for number, key in enumerate(keys)}
    assert read == dict.fromkeys(("hard", "one", "soft", "twice"), b"one") | {"early": b"seventy-seven"}
    assert "links that lead to no file: 2 (.jpg 2), the first is links.tar/b/loop.jpg" in said


def test_links_of_folders_are_followed_once(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    put(photos, "real/0.jpg", "real/deep/1.jpg")
    (photos / "real" / "loop").symlink_to("..")
    (photos / "alias").symlink_to("real")
    (photos / "2.jpg").symlink_to("real/0.jpg")
    (photos / "3.jpg").symlink_to("3.jpg")
    (photos / "4.jpg").symlink_to("nothing.jpg")
    put(tmp_path / "elsewhere", "5.jpg")
    (photos / "5.jpg").symlink_to("../elsewhere/5.jpg")
    (photos / "more").symlink_to("../elsewhere")
    keys, said = keys_of(photos, tmp_path / "m.parquet")
    assert keys == ["0", "1", "2"]
    assert "links to folders that are listed already: 2 " in said
    assert "links that lead to no file: 2 " in said
    assert "links that lead out of the folder: 2 (.jpg 1, without suffix 1), the first is " in said
    assert "--photo-root" in said
    catalogue = open_catalogue(photos)
    assert catalogue.read(2, MOST) == b"real/0.jpg"
    for absent in (3, 4):
        assert catalogue.read(absent, MOST) is None
        assert not catalogue.fingerprints(np.array([absent])).there[0]


def test_other_formats_and_archives_are_counted_and_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    put(
        photos,
        "0.jfif",
        "1.AVIF",
        "2.JPE",
        "3.heic",
        "4.HEIC",
        "5.jxl",
        "6.svg",
        "old.zip",
        "more.tar.gz",
        "a.json",
        "b",
    )
    keys, said = keys_of(photos, tmp_path / "m.parquet")
    assert keys == ["0", "1", "2"]
    assert "pictures of formats that are not read: 4 (.heic 2, .jxl 1, .svg 1), the first is 3.heic; convert" in said
    assert "archives: 2 (.gz 1, .zip 1), the first is more.tar.gz; unpack" in said
    assert "other files: 2 (.json 1, without suffix 1)" in said
    assert open_catalogue(photos).passed_over == tuple(said.splitlines())
    only = tmp_path / "only"
    put(only, "3.heic", "x.zip")
    with pytest.raises(BadInput, match=r"No image was found in .*pictures of formats that are not read: 1 \(.heic 1\)"):
        write_manifest(str(only), tmp_path / "n.parquet", 5)
    done = run_command("imgserver", "precompute", f"--store={tmp_path / 's'}", f"--catalogue={only}", check=False)
    assert done.returncode == 5
    assert "3.heic" in done.stderr


@pytest.mark.parametrize("column", ["bytes", "jpg", "png", "webp"])
def test_what_img2dataset_writes(column: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    put(folder, "00000_stats.json")
    keys = [f"{n:09d}" for n in range(3)]
    about = pa.table({"url": keys, "key": keys, "status": ["success"] * 3})
    photos = about.append_column(column, pa.array([b"a", b"b", b"c"], pa.binary()))
    pq.write_table(about, folder / "00000.parquet")
    pq.write_table(pa.table({"id": [1], "bytes": [4711]}), folder / "sizes.parquet")
    pq.write_table(photos, folder / "00001.parquet")
    catalogue = open_catalogue(folder)
    assert catalogue.ids().tolist() == [0, 1, 2]
    assert catalogue.read(1, MOST) == b"b"
    assert "Parquet files without photos: 2 " in catalogue.passed_over[0]
    with pytest.raises(BadInput, match="no column 'bytes'"):
        open_catalogue(folder / "00000.parquet")


@pytest.mark.parametrize("columns", [("jpg", "png"), ("bytes", "image"), ("webp", "photo", "jpg")])
def test_two_columns_of_photos_are_refused(columns: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    file = tmp_path / "photos" / "a.parquet"
    table = pa.table({"id": [1]} | {name: pa.array([name.encode()], pa.binary()) for name in columns})
    pq.write_table(table, file)
    for catalogue in (file, tmp_path / "photos"):
        with pytest.raises(BadInput, match=rf"{len(columns)} columns that may hold the photos, .*{columns[1]}") as said:
            open_catalogue(catalogue)
        with pytest.raises(BadInput, match="an image has one"):
            write_manifest(str(catalogue), tmp_path / "m.parquet", 5)
    line = str(said.value).partition("with Python: ")[2].removesuffix(".")
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    kept = open_catalogue(tmp_path / "photos.parquet").read(1, MOST)
    assert kept is not None
    assert kept.decode() in columns
    # One that became so behind a server's back fails by itself.
    opened = open_catalogue(tmp_path / "photos.parquet")
    pq.write_table(table, tmp_path / "photos.parquet")
    with pytest.raises(OSError, match="may hold the photos"):
        opened.read(1, MOST)


def test_text_beside_photos_is_no_photo(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "jpg": pa.array([b"a"]), "image": ["a.jpg"]}), tmp_path / "a.parquet")
    assert open_catalogue(tmp_path / "a.parquet").read(1, MOST) == b"a"


def test_keys_that_are_no_text_are_refused(tmp_path: Path) -> None:
    raw = pa.array([b"a\xf1", b"b"], pa.binary())
    keys = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"key": keys, "bytes": raw}), tmp_path / "photos.parquet")
    pq.write_table(pa.table({"image_id": [1, 2], "key": keys, "uri": ["a", "b"]}), tmp_path / "m.parquet")
    for refused in (
        lambda: open_catalogue(tmp_path / "photos.parquet"),
        lambda: write_manifest(str(tmp_path / "photos.parquet"), tmp_path / "n.parquet", 5),
        lambda: open_catalogue(tmp_path / "m.parquet").names(),
        lambda: ImageNames.read(tmp_path / "m.parquet"),
    ):
        with pytest.raises(BadInput, match="cannot be read: Invalid UTF8"):
            refused()


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.tar", b"version https://git-lfs.github.com/spec/v1\noid", "It is a Git LFS pointer"),
        ("a.parquet", b"<!doctype html><html>", "It is an HTML page"),
        ("a.tar", b"\x1f\x8b\x08\0" + bytes(600), "It is a gzip archive"),
        ("a.parquet", b"PAR1 and no more", r"cannot be read: [^.]*\.?[^I]*$"),
    ],
)
def test_shards_that_are_something_else_are_named(name: str, data: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    for where in (tmp_path, tmp_path / name):
        with pytest.raises(BadInput, match=what):
            write_manifest(str(where), tmp_path / "out" / "m.parquet", 5)


def test_a_manifest_says_which_root_its_photos_need(tmp_path: Path) -> None:
    put(tmp_path / "photos", "a.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    assert write_manifest(str(tmp_path / "photos"), tmp_path / "m.parquet", 5).photo_root == ""
    out = tmp_path / "elsewhere" / "m.parquet"
    done = run_command("imgserver", "manifest", str(tmp_path / "photos"), f"--out={out}")
    assert f"--catalogue {out} --photo-root {tmp_path / 'photos'}" in done.stdout
    assert open_catalogue(out, photo_roots=[str(tmp_path / "photos")]).read(0, MOST) == b"a.jpg"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "linked").symlink_to(tmp_path / "photos")
    out = tmp_path / "home" / "m.parquet"
    assert write_manifest(str(tmp_path / "home" / "linked"), out, 5).photo_root == str(tmp_path / "photos")


class _Signed(BaseHTTPRequestHandler):
    """Answers only who asks for an address exactly as it was signed."""

    asked: list[str]
    RIGHT = "/a%20b/1.jpg?Credential=AK%2F2026&sig=%7Ea%2Bb%3D+c"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/sent-on.jpg":
            self.send_response(302)
            self.send_header("Location", self.RIGHT)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in (self.RIGHT, "/with%20space/%C3%A9.jpg", "/all.tar?sig=%7Ex"):
            body = TAR if ".tar" in self.path else b"hello"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
        else:
            self.send_error(403)


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member(tar, "7.jpg", b"seven")
    return out.getvalue()


TAR = _tar()


@pytest.fixture
def signed() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Signed", (_Signed,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_signed_addresses_are_asked_exactly_as_written(signed: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = signed
    uris = [url + _Signed.RIGHT, f"{url}/sent-on.jpg", f"{url}/with space/é.jpg", f"{url}/expired.jpg?sig=%7Ex"]
    pq.write_table(pa.table({"image_id": range(4), "uri": uris}), tmp_path / "m.parquet")
    catalogue = open_catalogue(tmp_path / "m.parquet", 5)
    assert [catalogue.read(n, MOST) for n in range(3)] == [b"hello"] * 3, asked
    with pytest.raises(OSError, match=r"^HTTP 403 Forbidden, 3 times$"):
        catalogue.read(3, MOST)
    tar = open_catalogue(f"{url}/all.tar?sig=%7Ex", 5)
    assert tar.ids().tolist() == [7]
    assert tar.read(7, MOST) == b"seven"


def test_an_error_of_a_file_system_is_said_in_words() -> None:
    broken = ValueError("cannot use <_io.BytesIO object at 0x7f00deadbeef>, at 0x7f00deadbeef")
    assert in_words(broken) == "cannot use , at"
    assert in_words(PermissionError(13, "Permission denied", "/a")) == "Permission denied"
    assert in_words(ValueError()) == "the connection failed"
