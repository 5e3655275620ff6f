"""Photos are decoded in processes that a hostile one ends, and nothing else."""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossmedia.errors import DeadlineExceeded, ServerFault
from crossmedia.imgserver.client import ImageClient, LocalTransport, Status
from crossmedia.imgserver.offline.precompute import precompute
from crossmedia.imgserver.serving import health
from crossmedia.imgserver.serving.health import SeesPhotos
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision import decoders as decoders_module
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode, thumbnail
from crossmedia.imgserver.vision.decoders import Decoders, DecodingFailed
from crossmedia.imgserver.vision.formats import FORMATS, MAX_SCANS, CorruptImage, ImageTooLarge
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.service.heartbeat import Heartbeat

PLAIN = Preprocessing()
SMALL = ImageLimits(max_pixels=1_000_000)  # 1.08 s and 83 MiB
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((300, 200))

# A decoder that a photo has broken into: whatever a file of the form BM<word> asks for, the worker does.
BROKEN_INTO = """
import sys
if any("decode_worker" in word for word in sys.orig_argv):
    import ctypes, os, re, socket, subprocess, time
    from crossmedia.imgserver.vision import formats
    DEEDS = {
        b"spin": lambda: re.match("(a+)+$", "a" * 60 + "b"),  # within C, without a look at Python's signals
        b"crash": lambda: ctypes.string_at(8),
        b"eat": lambda: bytearray(8 << 30),
        b"sleep": lambda: time.sleep(4),
        b"read": lambda: open(__file__).read(),
        b"write": lambda: open(__file__ + ".written", "w").close(),
        b"call": lambda: socket.create_connection(("127.0.0.1", 1)),
        b"start": lambda: subprocess.run(["true"]),
        b"secrets": lambda: os.environ.get("AWS_SECRET_ACCESS_KEY") or missing("secret"),
        b"descriptors": lambda: any(is_open(f) and not is_pipe(f) for f in range(3, 1024)) or missing("descriptor"),
    }
    def missing(what):
        raise OSError(f"there is no such {what}")
    def is_open(fd):
        try:
            return bool(os.fstat(fd))
        except OSError:
            return False
    def is_pipe(fd):
        import stat
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    def bmp(data, max_pixels):
        DEEDS[data[2:]]()
        raise formats.CorruptImage(f"did {data[2:].decode()}")
    formats.WALKERS["BMP"] = bmp
"""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def broken_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers started from here on do what files of the form BM<word> ask for."""
    folder = tmp_path / "broken-into"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BROKEN_INTO)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with Decoders(SMALL, workers=2) as made:
        yield made


def workers_of(decoders: Decoders) -> list[int]:
    return [worker._process.pid for worker in decoders._all]


def exists(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_worker_reads_every_format_as_this_process_does(decoders: Decoders, kind: str) -> None:
    options = {} if kind in ("GIF", "BMP") else {"exif": turned(6)}
    data = encoded(PICTURE, kind, **options)
    pixels = decoders.pixels(data, PLAIN)
    np.testing.assert_array_equal(pixels, decode(data, PLAIN, SMALL))
    upright = PICTURE.transpose(Image.Transpose.ROTATE_270) if options else PICTURE
    wanted = np.asarray(upright.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.int16)
    assert np.abs(pixels - wanted).mean() < 25
    assert decoders.thumbnail(data, 64) == thumbnail(data, 64, SMALL)


def test_photos_of_phones_and_of_old_tools(decoders: Decoders) -> None:
    right = decoders.pixels(encoded(PICTURE, "JPEG", quality=95), PLAIN)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="1"/></x:xmpmeta>'
    same = [
        encoded(PICTURE, "MPO", quality=95, save_all=True, append_images=[PICTURE.rotate(180)]),
        encoded(PICTURE, "JPEG", quality=95, xmp=xmp, comment=b"x" * 60_000, icc_profile=b"p" * 200_000),
        encoded(PICTURE, "JPEG", quality=95) + b"a film behind the photo" * 1000 + b"\xff\xda" * 1000,
        encoded(PICTURE, "JPEG", quality=95, exif=turned(1)[:-9] + b"damaged" * 100),
    ]
    for data in same:
        np.testing.assert_array_equal(decoders.pixels(data, PLAIN), right)
    cmyk, gray = PICTURE.convert("CMYK"), PICTURE.convert("L")
    for data in (encoded(cmyk, "JPEG"), encoded(gray, "JPEG", progressive=True), encoded(PICTURE.convert("P"), "PNG")):
        np.testing.assert_array_equal(decoders.pixels(data, PLAIN), decode(data, PLAIN, SMALL))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(chunks: bytes) -> bytes:
    data = encoded(PICTURE, "PNG")
    return data[:33] + chunks + data[33:]


def before_tables(segments: bytes) -> bytes:
    data = encoded(PICTURE, "JPEG")
    return data[:2] + segments + data[2:]


def scans(n: int, between: bytes = b"") -> bytes:
    """A progressive JPEG that repeats its last scan."""
    data = encoded(PICTURE, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + (between + last) * n + data[-2:]


HIDDEN = b"\xff\xfe\x00\x04\xff\xd9"  # a comment that looks like the end
LONG_TEXT = zlib.compress(b"a" * (64 << 20), 9)
BOMBS = {
    "scans": (scans(2_000), ImageTooLarge),
    "scans-behind-a-false-end": (scans(2_000, HIDDEN), ImageTooLarge),
    "scans-behind-padding": (scans(2_000, b"\xff" * 9), ImageTooLarge),
    "comments": (before_tables(b"\xff\xfe\x00\x03x" * 3_000_000), ImageTooLarge),
    "exif": (before_tables(b"\xff\xe1\x00\x08Exif\0\0" * 1_900_000), ImageTooLarge),
    "tables": (before_tables((b"\xff\xdb\x00\x43" + b"\0" * 65) * 2_000), ImageTooLarge),
    "components": (before_tables(b"\xff\xc0\xff\xff" + b"\x08" * 65_533), ImageTooLarge),
    "padding": (before_tables(b"\xff" * (19 << 20)), None),
    "chunks": (with_chunks(chunk(b"tEXt", b"a\0b") * 1_000_000), ImageTooLarge),
    "empty-data": (with_chunks(chunk(b"IDAT", b"") * 1_500_000), ImageTooLarge),
    "text": (with_chunks(chunk(b"zTXt", b"a\0\0" + LONG_TEXT)), None),
    "profile": (with_chunks(chunk(b"iCCP", b"a\0\0" + LONG_TEXT)), None),
    "frames": (with_chunks(chunk(b"acTL", struct.pack(">II", 1 << 30, 0))), None),
    "gif-comments": (b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\x01a" * 9_000_000 + b"\0", ImageTooLarge),
    "gif-extensions": (b"GIF89a\1\0\1\0\0\0\0" + b"!\xf9\4\0\0\0\0\0" * 2_000_000, ImageTooLarge),
    "bmp-runs": (b"BM" + b"\0" * 12 + struct.pack("<IiiHHI", 40, 900, 900, 1, 8, 1) + b"\1\0" * 900_000, CorruptImage),
    "strip": (encoded(Image.new("L", (1_000_000, 1)), "PNG"), None),
}


@pytest.mark.parametrize("name", BOMBS)
def test_parts_that_no_pixel_needs_cost_nothing(name: str) -> None:
    """Before, most of these took from two to twenty seconds of processor time."""
    data, error = BOMBS[name]
    code = (
        "import resource, sys; from crossmedia.imgserver.vision.decode import decode, ImageLimits, Preprocessing\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF)\n"
        "data, before = sys.stdin.buffer.read(), used()\n"
        "try: print(*decode(data, Preprocessing(), ImageLimits()).shape)\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(used().ru_utime - before.ru_utime + used().ru_stime - before.ru_stime)\n"
        "print(used().ru_maxrss - before.ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    said, seconds, kib = done.stdout.decode().splitlines()
    assert said == (error.__name__ if error else "224 224 3")
    assert float(seconds) < 1.0
    assert int(kib) < 100 << 10


def test_a_jpeg_may_have_as_many_scans_as_encoders_make(decoders: Decoders) -> None:
    assert decoders.pixels(scans(MAX_SCANS // 2), PLAIN).any()


def test_a_picture_within_a_file_is_measured(decoders: Decoders) -> None:
    avif = encoded(Image.new("L", (2_000, 2_000)), "AVIF", speed=10)
    with pytest.raises(ImageTooLarge, match="more than 1000000"):
        decoders.pixels(avif, PLAIN)
    canvas_of_one = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\xff\x7f\xff\x7f\0\2\1\0\0;"
    with pytest.raises(ImageTooLarge):
        decoders.pixels(canvas_of_one, PLAIN)


@pytest.mark.usefixtures("broken_into")
def test_time_and_memory_of_a_photo_are_bounded(decoders: Decoders) -> None:
    for word, error, reason in (
        (b"spin", ImageTooLarge, "more than 1 s to decode"),
        (b"eat", ImageTooLarge, "more than 83 MiB to decode"),
        (b"crash", CorruptImage, "its decoder crashed .SIGSEGV."),
    ):
        with pytest.raises(error, match=reason):
            decoders.pixels(b"BM" + word, PLAIN)
        assert decoders.pixels(encoded(PICTURE, "JPEG"), PLAIN).any(), "the next photo has a decoder"


@pytest.mark.usefixtures("broken_into")
def test_who_breaks_into_a_decoder_finds_little(
    decoders: Decoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with open(__file__):  # a file of the parent's, which the worker must not have
        for word in (b"read", b"write", b"call"):
            with pytest.raises(CorruptImage, match=r"Too many open files"):
                decoders.pixels(b"BM" + word, PLAIN)
        with pytest.raises(CorruptImage, match=r"Too many open files|unavailable"):
            decoders.pixels(b"BMstart", PLAIN)
        with pytest.raises(CorruptImage, match="there is no such secret"):
            decoders.pixels(b"BMsecrets", PLAIN)
        with pytest.raises(CorruptImage, match="there is no such descriptor"):
            decoders.pixels(b"BMdescriptors", PLAIN)
    assert [file.name for file in (tmp_path / "broken-into").glob("*.written")] == []


@pytest.mark.usefixtures("broken_into")
def test_a_worker_that_somebody_ends_is_replaced(decoders: Decoders) -> None:
    good = encoded(PICTURE, "JPEG")
    right = decoders.pixels(good, PLAIN)
    os.kill(workers_of(decoders)[0], signal.SIGKILL)
    np.testing.assert_array_equal(decoders.pixels(good, PLAIN), right)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(decoders.pixels, b"BMsleep", PLAIN)
        time.sleep(0.5)
        os.kill(workers_of(decoders)[0], signal.SIGKILL)
        with pytest.raises(CorruptImage, match="did sleep"):  # another worker was given the photo
            under_way.result()


@pytest.mark.usefixtures("broken_into")
def test_a_worker_that_only_sleeps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_module, "MAX_ANSWER_S", 2)  # of it a busy machine takes some to start a process
    with Decoders(SMALL) as decoders:
        with pytest.raises(DecodingFailed, match="no answer came within 2 s"):
            decoders.pixels(b"BMsleep", PLAIN)
        assert not decoders._all


@pytest.mark.usefixtures("broken_into")
def test_closing_ends_what_is_under_way() -> None:
    decoders = Decoders(ImageLimits(), workers=2)
    with ThreadPoolExecutor(2) as pool:
        stuck = [pool.submit(decoders.pixels, b"BMspin", PLAIN) for _ in range(2)]
        wait_until(lambda: len(workers_of(decoders)) == 2)
        pids = workers_of(decoders)
        decoders.close()
        for future in stuck:
            with pytest.raises(DecodingFailed):
                future.result(5)
        assert not any(exists(pid) for pid in pids)
    with pytest.raises(DecodingFailed, match="the server ends"):
        decoders.pixels(encoded(PICTURE, "JPEG"), PLAIN)


@pytest.mark.usefixtures("broken_into")
def test_a_killed_parent_leaves_no_worker() -> None:
    code = (
        f"import sys, threading, time; sys.path[:0] = [{sys.path[0]!r}]\n"
        "from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing\n"
        "from crossmedia.imgserver.vision.decoders import Decoders\n"
        "d = Decoders(ImageLimits(max_pixels=10**9), workers=2)\n"  # a minute of time
        "work = lambda: d.pixels(b'BMspin', Preprocessing())\n"
        "for _ in range(2): threading.Thread(target=work).start()\n"
        "while len(d._all) < 2: time.sleep(.01)\n"
        "time.sleep(.3); print(*[w._process.pid for w in d._all], flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(exists(pid) for pid in pids)
        parent.kill()
        wait_until(lambda: not any(exists(pid) for pid in pids), 10)


def test_a_fork_is_refused_and_a_worker_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with Decoders(SMALL) as decoders:
        monkeypatch.setattr(decoders, "_pid", 1)
        with pytest.raises(ServerFault, match="forked from 1"):
            decoders.pixels(b"", PLAIN)
    for program, said in (("/bin/false", "ended with code 1 before it began"), ("/none", "cannot be started")):
        monkeypatch.setattr(sys, "executable", program)
        with Decoders(SMALL) as decoders, pytest.raises(ServerFault, match=said):
            decoders.pixels(b"", PLAIN)


def test_a_worker_costs_no_torch() -> None:
    code = "import sys, crossmedia.imgserver.vision.decode_worker\n"
    code += "print(sorted({'torch', 'grpc', 'lmdb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.fixture
def bombed(photos: Path, tmp_path: Path, broken_into: None) -> Path:
    """Photos 150 to 199, which the store does not have, and two that never end beside them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(150, 200):
        os.link(photos / f"{number:03d}.jpg", folder / f"{number:03d}.jpg")
    for number in (7001, 7002):
        (folder / f"{number}.bmp").write_bytes(b"BMspin")
    return folder


def test_precompute_passes_over_photos_that_never_end(bombed: Path, store: Path) -> None:
    result = precompute(store, PhotoSource(str(bombed), SMALL), ids=[*range(190, 200), 7001, 7002])
    with closing(Store(store)) as opened:
        assert result.reasons == {"TOO_LARGE": 2}
        rejects = (store / "rejects.csv").read_text()
        assert (
            len(
                re.findall(r"^700[12],,700[12].bmp,TOO_LARGE: it takes more than 1 s to decode$", rejects, re.MULTILINE)
            )
            == 2
        )
        space = opened.index.spaces("feature")[0]
        entries, known = opened.index.get(space.name, np.arange(190, 200))
        assert known.all()
        assert (entries["status"] == Status.OK).all()


def test_two_photos_that_never_end_delay_nobody(bombed: Path, store: Path) -> None:
    service = ImageService(ServiceConfig(store, PhotoSource(str(bombed)), machine=Machine(threads=2)))
    client = ImageClient(LocalTransport(service), timeout_s=60)
    assert client.get([150]).ok.all()  # the CNN is there, and a decoder
    found: dict[int, Status] = {}

    def ask(image_id: int) -> None:
        found[image_id] = Status(client.get([image_id]).status[0])

    threads = [threading.Thread(target=ask, args=(bomb,)) for bomb in (7001, 7002)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(workers_of(service.photos.decoders)) >= 2)
    assert client.get([1, 151, 152]).ok.all()
    assert client.put({9000: (bombed / "153.jpg").read_bytes()}) == {9000: Status.OK}
    assert not found, "they are still at it"
    for thread in threads:
        thread.join()
    assert found == {7001: Status.TOO_LARGE, 7002: Status.TOO_LARGE}
    service.close()


def test_a_service_ends_while_a_photo_is_decoded(bombed: Path, store: Path) -> None:
    service = ImageService(ServiceConfig(store, PhotoSource(str(bombed)), machine=Machine(threads=2)))
    client = ImageClient(LocalTransport(service))
    assert client.get([150], timeout_s=60).ok.all()
    with pytest.raises(DeadlineExceeded):
        client.get([7001], timeout_s=0.5)
    pids = workers_of(service.photos.decoders)
    assert pids
    started = time.monotonic()
    service.close()
    assert time.monotonic() - started < 5 + 5
    assert not any(exists(pid) for pid in pids)


def test_health_notices_decoders_that_do_not_answer(store: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 1.0)
    service = ImageService(ServiceConfig(store, PhotoSource(str(photos)), machine=Machine(threads=2)))
    client = ImageClient(LocalTransport(service))
    assert client.get([150]).ok.all()
    before = client.info()
    states: list[bool] = []
    heartbeat = Heartbeat(SeesPhotos(service), states.append, probe_after_s=0)
    heartbeat.start()
    assert states == [True]
    for pid in workers_of(service.photos.decoders):
        os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(
        service.photos.decoders, "workers", len(workers_of(service.photos.decoders))
    )  # no new ones beside them
    wait_until(lambda: states == [True, False])
    for pid in workers_of(service.photos.decoders):
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: states == [True, False, True])
    heartbeat.stop()
    after = client.info()
    assert (after.counters.computed_on_demand, after.counters.cnn_passes_on_demand, after.contents.images_stored) == (
        before.counters.computed_on_demand,
        before.counters.cnn_passes_on_demand,
        before.contents.images_stored,
    ), "probes are not counted, and not stored"
    service.close()
