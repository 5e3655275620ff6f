"""Input made to do harm: an error each, no trace to anybody, nothing outside the data folder touched."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz
import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import DaemonProcess, copy_store, run_command
from PIL import Image

from crossmedia.errors import BadInput, InvalidRequest, NotReady, Overloaded, VersionMismatch
from crossmedia.imgserver.cli import imgserver
from crossmedia.imgserver.client import GrpcTransport, ImageClient, Status
from crossmedia.imgserver.storage.catalogue import open_catalogue
from crossmedia.imgserver.wire import GET_HEAD_GRADIENT, PUT_HEAD, PUT_IMAGES, SEARCH
from crossmedia.v1 import image_server_pb2 as pb

IDS = np.arange(100)
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["ImageService"].methods]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def attacked(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon that must, after everything that is done to it, be healthy, have logged no trace, and stay at home."""
    home = tmp_path_factory.mktemp("attacked")
    store = copy_store(graph_cache, home / "store")
    process = DaemonProcess(store, photos)
    before = {name for name in tree(home) if not name.startswith("store/")}
    yield process
    run_command("imgserver", "health", f"--server={process.address}")
    with ImageClient(process.address) as client:
        assert client.get(IDS).ok.all()
    process.stop()
    assert "Traceback" not in (store / "daemon.log").read_text()
    assert {name for name in tree(home) if not name.startswith("store/")} == before


def raw(address: str, method: str, message: bytes) -> grpc.RpcError:
    """What the server answers to bytes; it must be an error."""
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary(f"/crossmedia.v1.ImageService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(message, timeout=20)
    return caught.value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("message", [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x50cut", b"\x07"], ids=repr)
def test_bytes_that_are_no_message(attacked: DaemonProcess, method: str, message: bytes) -> None:
    error = raw(attacked.address, method, message)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"The bytes are no request of {method}" in str(error.details())


@pytest.mark.parametrize("method", METHODS)
def test_a_message_that_is_too_large(attacked: DaemonProcess, method: str) -> None:
    assert raw(attacked.address, method, b"\0" * (65 << 20)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_method_that_does_not_exist(attacked: DaemonProcess) -> None:
    assert raw(attacked.address, "../../etc/passwd", b"").code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "version", ["../../../etc/passwd", "/etc/passwd", "a\0b", "x" * 600, "../" * 300_000, "../x@1+../y@2/16", "+/"]
)
def test_names_that_point_elsewhere(attacked: DaemonProcess, version: str) -> None:
    transport = GrpcTransport(attacked.address)
    ids = IDS.astype("<i8").tobytes()
    for call in (
        lambda: transport.get_vectors(pb.GetVectorsRequest(version=version, image_ids=ids), 10).result(),
        lambda: transport.call(SEARCH, pb.SearchRequest(version=version, image_ids=ids, k=3), 10),
        lambda: transport.call(GET_HEAD_GRADIENT, pb.GetHeadGradientRequest(version=version, image_ids=ids), 10),
        lambda: transport.call(PUT_HEAD, pb.PutHeadRequest(run_id=version, version=version, head=b"\x80\x04."), 10),
    ):
        with pytest.raises((VersionMismatch, NotReady, BadInput, InvalidRequest)) as caught:
            call()
        assert len(str(caught.value)) < 1100
    transport.close()


def test_ids_out_of_range(attacked: DaemonProcess) -> None:
    with ImageClient(attacked.address) as client:
        far = [2**63 - 1, 2**62, 2**32, 10**15]
        assert client.get([0, *far]).status.tolist() == [Status.OK] + [Status.NOT_FOUND] * 4
        assert client.thumbnails(far) == [None] * 4
        for ids in (np.array([-2]), np.array([-(2**63)]), np.array([2**63], np.uint64), np.array([np.inf])):
            with pytest.raises(InvalidRequest):
                client.get(ids)
    transport = GrpcTransport(attacked.address)
    block = np.array([-(2**63)], "<i8").tobytes()
    for request in (pb.GetVectorsRequest(image_ids=block), pb.GetVectorsRequest(image_ids=block[:7])):
        with pytest.raises(InvalidRequest):
            transport.get_vectors(request, 10).result()
    with pytest.raises(InvalidRequest):
        transport.call(PUT_IMAGES, pb.PutImagesRequest(images=[pb.PutImage(image_id=-(2**63), data=b"x")]), 10)
    transport.close()


def bomb(width: int, height: int) -> bytes:
    """A whole PNG of one colour: gigabytes of pixels in some hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    packer = zlib.compressobj(9)
    line = b"\0" * (1 + 3 * width)
    body = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_image_bombs(attacked: DaemonProcess) -> None:
    gif = io.BytesIO()
    Image.new("P", (9_000, 9_000)).save(gif, "GIF")
    tiff = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(tiff, "TIFF", compression="group4")
    photos = {9000: bomb(9_000, 6_000), 9001: gif.getvalue(), 9002: tiff.getvalue(), 9003: b"GIF89a" + b"\xff" * 1000}
    with ImageClient(attacked.address) as client:
        before = memory(attacked.pid)
        found = client.put(photos)
        assert found == {9000: Status.TOO_LARGE, 9001: Status.TOO_LARGE, 9002: Status.CORRUPT, 9003: Status.CORRUPT}
        assert memory(attacked.pid) - before < 200 << 20
        with pytest.raises((InvalidRequest, Overloaded)):
            GrpcTransport(attacked.address).call(
                PUT_IMAGES, pb.PutImagesRequest(images=[pb.PutImage(image_id=i, data=b"") for i in range(100_000)]), 10
            )


def memory(pid: int) -> int:
    """Bytes of memory that a process has touched at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def test_garbage_on_the_port(attacked: DaemonProcess) -> None:
    host, _, port = attacked.address.rpartition(":")
    words = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.0\r\n\r\n",
        os.urandom(100_000),
        PREFACE[:10],
        PREFACE + os.urandom(1000),
        PREFACE + b"\x00\xff\xff\x04" + b"\0" * 70_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500),
        b"\0" * 1_000_000,
        b"",
    ]
    left = []
    for word in words * 5:
        connection = socket.create_connection((host, int(port)), 5)
        with contextlib.suppress(OSError):
            connection.sendall(word)
        left.append(connection)
    with ImageClient(attacked.address) as client:
        for _ in range(20):
            assert client.get(IDS, timeout_s=5).ok.all()
    for connection in left:
        connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            assert b"Traceback" not in connection.recv(1 << 16)
        connection.close()


def test_a_tar_whose_members_lie_elsewhere(tmp_path: Path, photos: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with tarfile.open(home / "a.tar", "w") as tar:
        for name in ("../../7.jpg", "/etc/8.jpg", "../9.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(data := (photos / "007.jpg").read_bytes())
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("10.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = tree(tmp_path)
    catalogue = open_catalogue(home / "a.tar")
    for image_id in catalogue.ids().tolist():
        assert catalogue.read(image_id, 1 << 20) == data
    assert 10 not in catalogue.ids(), "a link is no photo"
    assert tree(tmp_path) == before, "nothing is ever unpacked"


@pytest.mark.parametrize(
    "text",
    [
        "imgserver = 3",
        "[imgserver]\nserve = 3",
        '[imgserver.serve]\nport = "many"',
        "[imgserver.serve]\nport = -1",
        "[imgserver.serve]\nport = [1, 2]",
        "[imgserver.serve]\nport = { a = 1 }",
        "[imgserver.serve]\nstore = 3.5\nport = 1e400",
        "[imgserver.serve]\nport = 99999999999999999999999999",
        "\0",
        "a" * 100_000,
        "[" * 5000,
        "a = " + "[" * 5000,
        "[[imgserver]]\nport = 1",
    ],
)
def test_a_toml_file_that_lies(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    done = CliRunner().invoke(imgserver, [f"--config={file}", "serve", f"--store={tmp_path / 's'}"])
    assert done.exit_code == 2, done.exception  # any exception but an exit is 1
    assert "configuration file" in done.stderr or "Invalid value" in done.stderr


def test_parquet_files_that_lie(tmp_path: Path, photos: Path) -> None:
    """Bits turned over anywhere in a file: it is refused, or what can still be read of it is."""
    data = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))[:5]]
    for name, table in {
        "photos": pa.table({"id": list(range(5)), "bytes": pa.array(data, pa.binary())}),
        "manifest": pa.table({"image_id": list(range(5)), "uri": [f"{i}.jpg" for i in range(5)]}),
    }.items():
        pq.write_table(table, tmp_path / "whole.parquet", compression="NONE")
        whole = (tmp_path / "whole.parquet").read_bytes()
        rng, refused = np.random.default_rng(1), 0
        for _ in range(300):
            broken = bytearray(whole)
            tail = rng.random() < 0.8  # most of them in the part that describes the rest
            for place in rng.integers(max(0, len(whole) - 900) if tail else 0, len(whole), rng.integers(1, 4)):
                broken[place] ^= 1 << rng.integers(8)
            file = tmp_path / f"{name}.parquet"
            file.write_bytes(broken)
            try:
                catalogue = open_catalogue(file)
                for image_id in catalogue.ids()[:5].tolist():
                    with contextlib.suppress(OSError):
                        catalogue.read(image_id, 1 << 20)
            except BadInput:
                refused += 1
        assert refused > 100


@pytest.mark.parametrize("name", fuzz.RUNS)
def test_what_make_fuzz_starts_from_is_read(name: str, tmp_path: Path) -> None:
    target, seeds = getattr(fuzz, f"fuzz_{name}")(tmp_path)
    for seed in (b"", *seeds):
        target(seed)
