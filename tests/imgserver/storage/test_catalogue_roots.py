"""No name leads out of a catalogue."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, copy_store

from crossmedia.errors import (
    BadInput,
)
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.storage.catalogue import open_catalogue
from crossmedia.imgserver.storage.catalogue.manifest import write_manifest

MOST = 1 << 20


@pytest.fixture
def outside(tmp_path: Path, photos: Path) -> Path:
    """A photo that nobody is to see."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "9.jpg").write_bytes((photos / "009.jpg").read_bytes())
    return tmp_path / "private" / "9.jpg"


def test_links_and_pipes_in_a_folder_lead_nowhere(
    tmp_path: Path, outside: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").write_bytes((photos / "001.jpg").read_bytes())
    (folder / "2.jpg").symlink_to("1.jpg")
    (folder / "3.jpg").symlink_to(outside)
    (folder / "4.jpg").symlink_to("/etc/passwd")
    (folder / "deep").symlink_to(outside.parent)
    os.mkfifo(folder / "5.jpg")
    (folder / "6.jpg").symlink_to("/dev/zero")
    catalogue = open_catalogue(folder)
    assert catalogue.ids().tolist() == [1, 2, 5]
    assert catalogue.read(1, MOST) == catalogue.read(2, MOST) == (photos / "001.jpg").read_bytes()
    assert catalogue.read(5, MOST) is None, "a pipe is no photo, and nobody waits for it"
    (folder / "7.jpg").symlink_to(outside)  # came after the listing
    (folder / "1.jpg").unlink()
    (folder / "1.jpg").symlink_to(outside)  # put in the place of a photo
    for image_id in (1, 2, 3, 4, 6, 7, 9):
        assert catalogue.read(image_id, MOST) is None
    assert sum("--photo-root" in record.message for record in caplog.records) == 1
    allowed = open_catalogue(folder, photo_roots=[str(outside.parent)])
    assert allowed.read(3, MOST) == allowed.read(9, MOST) == outside.read_bytes()
    assert allowed.read(4, MOST) is None


def test_a_catalogue_that_is_a_link_is_its_owners_to_move(tmp_path: Path, photos: Path) -> None:
    for number, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes((photos / f"00{number}.jpg").read_bytes())
    current = tmp_path / "current"
    current.symlink_to("first")
    catalogue = open_catalogue(current)
    assert catalogue.read(1, MOST) == (photos / "000.jpg").read_bytes()
    current.unlink()
    current.symlink_to("second")
    assert catalogue.read(1, MOST) == (photos / "001.jpg").read_bytes()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{outside}", "leads to .* out of its own folder"),
        ("../private/9.jpg", "leads to .* out of its own folder"),
        ("sub/../../private/9.jpg", "leads to .* out of its own folder"),
        ("deep/../../9.jpg", "leads to .* out of its own folder"),
        ("/etc/passwd", "--photo-root /etc"),
        ("file://{outside}", "by a protocol that a manifest may not name"),
        ("local://{outside}", "by a protocol that a manifest may not name"),
        ("FILE://{outside}", "by a protocol that a manifest may not name"),
        ("simplecache::file://{outside}", "by a protocol that a manifest may not name"),
        ("zip://9.jpg::file://{outside}", "by a protocol that a manifest may not name"),
        ("s3://a/b.jpg\0", "holds a zero byte"),
        ("1.jpg\0.png", "holds a zero byte"),
    ],
)
def test_a_manifest_leads_nowhere_else(tmp_path: Path, outside: Path, uri: str, message: str) -> None:
    home = tmp_path / "photos"
    (home / "sub").mkdir(parents=True)
    (home / "deep").symlink_to(outside.parent / "none")
    uris = ["1.jpg", "sub/2.jpg", "https://photos.example/x.jpg", uri.format(outside=outside)]
    pq.write_table(pa.table({"image_id": range(4), "uri": uris}), home / "m.parquet")
    with pytest.raises(BadInput, match=message):
        open_catalogue(home / "m.parquet")


def test_a_manifest_inside_its_folder_is_read_whatever_its_spelling(tmp_path: Path, outside: Path) -> None:
    home = tmp_path / "photos"
    (home / "sub").mkdir(parents=True)
    (home / "1.jpg").write_bytes(b"one")
    (home / "link.jpg").symlink_to(outside)
    (home / "a.tar").write_bytes(b"0123456789")
    uris = ["1.jpg", "./sub/../1.jpg", str(home / "1.jpg"), "..1.jpg", "link.jpg", "a.tar"]
    columns = {"image_id": range(6), "uri": uris, "offset": [-1, -1, -1, -1, -1, 4]}
    pq.write_table(pa.table(columns), home / "m.parquet")
    catalogue = open_catalogue(home / "m.parquet")
    assert [catalogue.read(i, MOST) for i in range(6)] == [b"one", b"one", b"one", None, None, b"456789"]
    pq.write_table(pa.table(columns | {"offset": [-1, -1, -1, -1, -1, -7]}), home / "m.parquet")
    with pytest.raises(BadInput, match="offset -7"):
        open_catalogue(home / "m.parquet")


def test_a_manifest_behind_a_url_names_no_file_of_this_machine(outside: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for uri in ("file://" + str(outside), "../private/9.jpg", str(outside)):
        with memory.open("/shop/m.parquet", "wb") as out:
            pq.write_table(pa.table({"image_id": [9], "uri": [uri]}), out)
        with pytest.raises(BadInput, match=r"may not name|leads out of the manifest's folder"):
            open_catalogue("memory://shop/m.parquet")


def test_tars_and_shards_that_are_links_out_are_not_read(tmp_path: Path, outside: Path) -> None:
    import tarfile

    home, rows = tmp_path / "photos", tmp_path / "private" / "rows.parquet"
    home.mkdir()
    pq.write_table(pa.table({"image_id": [1], "bytes": pa.array([b"x"], pa.binary())}), rows)
    with tarfile.open(tmp_path / "private" / "a.tar", "w") as tar:
        tar.add(outside, "../../../../outside/9.jpg")  # a member's name is its last part, and nothing is unpacked
    for name in ("a.tar", "rows.parquet"):
        (home / name).symlink_to(tmp_path / "private" / name)
    assert len(open_catalogue(home)) == 0
    assert open_catalogue(home, photo_roots=[str(tmp_path / "private")]).ids().tolist() == [1, 9]
    assert open_catalogue(home / "a.tar").read(9, MOST) == outside.read_bytes(), "the operator named this link"
    assert write_manifest(str(home / "a.tar"), home / "m.parquet", 5).images == 1


def test_photo_root_reaches_every_command(tmp_path: Path, photos: Path, graph_cache: Path) -> None:
    from crossmedia.imgserver.cli import imgserver

    takes = {
        name
        for name, command in imgserver.commands.items()
        if {"catalogue", "photo_roots"} <= {p.name for p in command.params if isinstance(p, click.Option)}
    }
    reads = {
        name
        for name, command in imgserver.commands.items()
        if "catalogue" in {p.name for p in command.params if isinstance(p, click.Option)}
    }
    assert takes == reads
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "200.jpg").symlink_to(photos / "200.jpg")
    daemon = DaemonProcess(copy_store(graph_cache, tmp_path / "store"), folder, f"--photo-root={photos}")
    try:
        with ImageClient(daemon.address) as client:
            assert client.get([200]).ok.all()
    finally:
        daemon.stop()
