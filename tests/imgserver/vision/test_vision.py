from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossmedia.errors import BadInput
from crossmedia.imgserver.head import Head, HeadSpec, fit_pca
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode, open_image, thumbnail
from crossmedia.imgserver.vision.engines import OpenVinoEngine, TorchEngine
from crossmedia.imgserver.vision.formats import MAX_SEGMENTS, CorruptImage, ImageTooLarge

LIMITS = ImageLimits()
PLAIN = Preprocessing()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no data: a decompression bomb's header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


RED = Image.new("RGB", (90, 60), (200, 20, 20))


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("RGB", (1, 1), (200, 20, 20)), "PNG"),
        encoded(RED.convert("CMYK"), "JPEG"),
        encoded(RED.convert("P"), "PNG"),
        encoded(RED.convert("RGBA"), "PNG"),
        encoded(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (90, 60), "blue")]),
        encoded(RED, "WEBP"),
    ],
    ids=["1x1", "cmyk", "palette", "alpha", "animated", "webp"],
)
def test_odd_photos_decode_to_what_they_show(data: bytes) -> None:
    pixels = decode(data, PLAIN, LIMITS)
    assert pixels.shape == (224, 224, 3)
    assert np.abs(pixels.reshape(-1, 3).mean(0) - [200, 20, 20]).max() < 40


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    gray = Image.fromarray(np.full((40, 40), 128 * 257, dtype=np.uint16))
    assert abs(decode(encoded(gray, "PNG"), PLAIN, LIMITS).mean() - 128) < 2


@pytest.mark.parametrize("brightest", [200, 255, 256, 25_000, 65_535])
def test_sixteen_bits_are_scaled_by_their_mode_whatever_the_picture_holds(brightest: int) -> None:
    ramp = np.linspace(0, brightest, 40 * 40).reshape(40, 40).round().astype(np.uint16)
    deep = open_image(encoded(Image.fromarray(ramp), "PNG"), LIMITS, 0)
    plain = Image.fromarray((ramp / 257).round().astype(np.uint8)).convert("RGB")
    assert (np.asarray(deep) == np.asarray(plain)).all()


def test_a_clear_colour_of_sixteen_bits_is_white() -> None:
    gray = np.full((8, 8), 1000, dtype=np.uint16)
    gray[:4] = 40_000
    clear = (2).to_bytes(4) + b"tRNS" + (1000).to_bytes(2) + zlib.crc32(b"tRNS" + (1000).to_bytes(2)).to_bytes(4)
    png = encoded(Image.fromarray(gray), "PNG")
    pixels = np.asarray(open_image(png[:33] + clear + png[33:], LIMITS, 0))
    assert (pixels[:4] == round(40_000 / 257)).all()
    assert (pixels[4:] == 255).all()


def test_damaged_and_large_tags_cost_the_tag_in_every_format() -> None:
    damaged = b"Exif\0\0" + b"\x00\x08\x00\x02\x01\x12\x00\x03" * 4
    for kind in ("JPEG", "PNG", "WEBP", "AVIF"):
        plain = encoded(RED, kind)
        tagged = [encoded(RED, kind, icc_profile=bytes(3_000_000))]
        if kind == "AVIF":  # Pillow writes no damaged EXIF there
            exif = Image.Exif()
            exif[0x010F] = "Acme"
            whole = encoded(RED, kind, exif=exif.tobytes())
            tagged.append(re.sub(rb"MM\0\*|II\*\0", b"\xff" * 4, whole))
            assert tagged[-1] != whole
        else:
            tagged += [encoded(RED, kind, exif=exif) for exif in (damaged, b"Exif\0\0" + TURNED[:14], b"Exif\0\0")]
        for data in tagged:
            assert (np.asarray(open_image(data, LIMITS, 0)) == np.asarray(open_image(plain, LIMITS, 0))).all(), kind
    gif = encoded(RED, "GIF", comment=b"x" * 200_000)
    assert open_image(gif, LIMITS, 0).size == RED.size


def _in_png(kind: bytes, body: bytes) -> bytes:
    """A PNG with a chunk more, before its pixels."""
    plain = encoded(Image.new("RGB", (40, 20), (200, 10, 10)), "PNG")
    chunk = len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)
    return plain[:33] + chunk + plain[33:]


TURNED = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
XMP = b"XML:com.adobe.xmp\0"


@pytest.mark.parametrize(
    ("kind", "body", "size"),
    [
        (b"eXIf", TURNED, (20, 40)),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 9\n" + TURNED.hex().encode(), (20, 40)),
        (b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(b'tiff:Orientation="6"'), (20, 40)),
        (b"eXIf", b"\xff" * 50, (40, 20)),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 9\nzz zz", (40, 20)),
        (b"zTXt", b"Raw profile type exif\0\0garbage", (40, 20)),
        (b"iTXt", XMP + b"\1\0\0\0garbage", (40, 20)),
        (b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(b" " * (2 << 20)), (40, 20)),
        (b"iTXt", XMP, (40, 20)),
    ],
)
def test_a_damaged_tag_of_a_png_costs_the_tag(kind: bytes, body: bytes, size: tuple[int, int]) -> None:
    assert open_image(_in_png(kind, body), LIMITS, 0).size == size


def test_what_other_readers_pass_over_is_no_fault_of_a_photo() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    jpeg = encoded(Image.fromarray(noise), "JPEG", restart_marker_blocks=1, subsampling=0)
    assert 8 * jpeg.count(b"\xff\xd0") > MAX_SEGMENTS
    old = encoded(Image.fromarray(noise[:64, :64]), "JPEG")
    many = old[:2] + 40 * (b"\xff\xe0\x10\0" + b"JFXX\0" + bytes(4089)) + old[2:]
    gif = encoded(Image.fromarray(noise[:64, :64]), "GIF")
    picture = gif.index(b",", 13 + 3 * 256)
    for data in (jpeg, many, gif[:picture] + bytes(3) + gif[picture:]):
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        assert (np.asarray(open_image(data, LIMITS, 0)) == expected).all()


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (100, 50), "black")
    image.paste((255, 255, 255), (0, 0, 50, 50))  # left half white; orientation 6 turns it to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encoded(image, "JPEG", exif=exif.tobytes()), PLAIN, LIMITS)
    assert pixels[:100].mean() > 230
    assert pixels[124:].mean() < 25


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", CorruptImage),
        (b"this is a text file, not a photo", CorruptImage),
        (encoded(RED, "JPEG")[:300], CorruptImage),
        (encoded(RED, "PNG")[:-30], CorruptImage),
        (header_only_png(30_000, 30_000), ImageTooLarge),
        (header_only_png(2_000, 2_000), CorruptImage),
        (b"\xff" * (21 << 20), ImageTooLarge),
    ],
    ids=["empty", "text", "truncated-jpeg", "truncated-png", "bomb", "hollow", "huge-file"],
)
def test_poison_raises_for_itself(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode(data, PLAIN, LIMITS)


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "ICNS", "JPEG2000", "PPM", "TGA", "PCX", "DDS", "EPS", "PDF", "QOI"])
def test_no_other_format_is_opened(kind: str) -> None:
    with pytest.raises(CorruptImage, match=r"it is .*; photos are JPEG, PNG, WEBP, GIF, BMP or AVIF"):
        decode(encoded(RED, kind), PLAIN, LIMITS)


HEIC_LIKE_AVIF = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(50)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "it is empty"),
        (bytes(100), "100 zero bytes"),
        (b"\n<!DOCTYPE html>\n<html><svg></svg>", "an HTML page"),
        (b"<h1>404 Not Found</h1>", "HTML"),
        (b'<?xml version="1.0"?>\n<!-- Created by -->\n<svg xmlns="http://www.w3.org/2000/svg"', "an SVG drawing"),
        (b'\xef\xbb\xbf<svg width="1">', "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>', "XML"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a Git LFS pointer.*git lfs pull",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "a HEIC photo"),
        (HEIC_LIKE_AVIF, "a HEIC photo"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL photo"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video"),
        (encoded(RED, "TIFF"), "a TIFF"),
        (encoded(RED, "TGA"), "a TGA picture"),
        (encoded(RED.convert("P"), "TGA"), "a TGA picture"),
        (encoded(RED.convert("L"), "TGA"), "a TGA picture"),
        (encoded(RED, "ICO"), r"an icon \(ICO\)"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\3\4\x14", "a ZIP archive"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "AppleDouble"),
        (b'{"error": "not found"}', "JSON"),
        ("Bild nicht verfügbar".encode(), "text, which begins 'Bild nicht verfügbar'"),
        (b"<!---->" * 5000, "text"),
        (b"\x01\x02\x03\x04", "none of what is known here, beginning with 01 02 03 04"),
        (encoded(RED, "JPEG")[:300], "JPEG|segment"),
        (encoded(RED, "PNG")[:33] + b"\xee" * 100, "begins as a PNG, and cannot be decoded"),
        (encoded(RED, "WEBP")[:60], "begins as a WEBP, and cannot be decoded"),
        (b"RIFF\x10\0\0\0WEBPnothing", "begins as a WEBP"),
        (b"BMW 320i", "begins as a BMP, and cannot be decoded"),
    ],
)
def test_a_reason_says_what_the_bytes_look_like(data: bytes, what: str) -> None:
    said = []
    for _ in range(2):
        with pytest.raises(CorruptImage, match=what) as raised:
            decode(data, PLAIN, LIMITS)
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert not re.search(r"0x|object at|Error\b(?! of)|<.*>", said[0].replace("<!---->", "")), said[0]


def test_no_program_is_started_for_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CorruptImage):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n", PLAIN, LIMITS)
    assert not (tmp_path / "started").exists()


def test_a_strip_is_refused_before_it_is_scaled_up() -> None:
    """Its shorter side becomes ``resize`` pixels, and its longer one more than memory holds."""
    strip = encoded(Image.new("RGB", (60_000, 2)), "PNG")
    assert decode(strip, PLAIN, LIMITS).shape == (224, 224, 3)
    with pytest.raises(ImageTooLarge, match="would be scaled to 7680000 x 256"):
        decode(strip, Preprocessing(fit="crop", resize=256), LIMITS)


def test_thumbnails_fit() -> None:
    small = Image.open(io.BytesIO(thumbnail(encoded(RED, "JPEG"), 30, LIMITS)))
    assert small.size == (30, 20)


def test_engines_agree_on_real_photos(photos: Path, graph_cache: Path) -> None:
    backbone = get_backbone("efficientnet_lite0")
    files = sorted(photos.iterdir())[:16]
    pixels = np.stack([decode(f.read_bytes(), backbone.preprocessing, LIMITS) for f in files])
    a = OpenVinoEngine(backbone, graph_cache / "engine").run(pixels)
    b = TorchEngine(backbone).run(pixels)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert a.shape == (16, 1280)
    assert cosine.min() > 0.9999


@pytest.mark.data
def test_engines_agree_on_posters(test_data: Path, graph_cache: Path) -> None:
    backbone = get_backbone("efficientnet_lite0")
    with tarfile.open(test_data / "movielens_posters" / "posters_128x192_q80.tar") as tar:
        files = [tar.extractfile(member) for member in tar if member.isfile()][:48]
        data = [file.read() for file in files if file is not None]
    pixels = np.stack([decode(photo, backbone.preprocessing, LIMITS) for photo in data])
    a = OpenVinoEngine(backbone, graph_cache / "engine").run(pixels)
    b = TorchEngine(backbone).run(pixels)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.9999


def test_bf16_is_a_version_of_its_own_and_close(photos: Path, graph_cache: Path) -> None:
    plain, half = get_backbone("efficientnet_lite0"), get_backbone("efficientnet_lite0#bf16")
    assert half.version == plain.version + "#bf16"
    pixels = np.stack([decode(f.read_bytes(), plain.preprocessing, LIMITS) for f in sorted(photos.iterdir())[:48]])
    a = OpenVinoEngine(plain, graph_cache / "engine").run(pixels)
    for b in (OpenVinoEngine(half, None).run(pixels), TorchEngine(half).run(pixels)):
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99


def test_a_feature_does_not_depend_on_its_batch(photos: Path, graph_cache: Path) -> None:
    backbone = get_backbone("efficientnet_lite0")
    engine = OpenVinoEngine(backbone, graph_cache / "engine")
    pixels = np.stack([decode(f.read_bytes(), backbone.preprocessing, LIMITS) for f in sorted(photos.iterdir())[:5]])
    together = engine.run(pixels)
    np.testing.assert_array_equal(together, np.concatenate([engine.run(one[None]) for one in pixels]))


def test_converting_a_backbone_reports_nothing_to_anybody() -> None:
    code = (
        "import sys\n"
        "from crossmedia.imgserver.vision.backbones import get_backbone\n"
        "from crossmedia.imgserver.vision.engines import OpenVinoEngine\n"
        "OpenVinoEngine(get_backbone('efficientnet_lite0'), None)\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"], done.stderr


def test_the_version_depends_on_every_step(tmp_path: Path) -> None:
    from crossmedia.imgserver.vision.backbone import backbone_version

    for name in ("ab", "ac"):
        (tmp_path / name).write_text(name)
    ab, ac = [tmp_path / "ab"], [tmp_path / "ac"]
    base = backbone_version("net", ab, Preprocessing())
    assert base == backbone_version("net", ab, Preprocessing())
    others = [
        backbone_version("net", ac, Preprocessing()),
        backbone_version("net", ab, Preprocessing(size=192)),
        backbone_version("net", ab, Preprocessing(draft=0)),
        backbone_version("net", ab, Preprocessing(), "bgr"),
    ]
    assert len({base, *others}) == 5


def test_an_unknown_backbone_names_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"'resnet0'.*efficientnet_lite0"):
        get_backbone("resnet0")


def test_pca_equals_a_plain_svd() -> None:
    rng = np.random.default_rng(1)
    features = (rng.normal(size=(300, 20)) * np.linspace(3, 0.1, 20)) + 5
    head = fit_pca(features.astype(np.float32), 6)
    vectors = head.apply_numpy(features)
    u, s, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    plain = u[:, :6] * s[:6]
    plain /= np.sqrt((plain**2).mean())
    signs = np.sign((plain * vectors).sum(0))
    assert np.abs(plain * signs - vectors).max() < 1e-3
    assert abs((vectors**2).mean() - 1) < 1e-3


def test_a_head_survives_saving_and_refuses_other_files() -> None:
    head = Head(HeadSpec("mlp", (8, 5, 3)))
    again = Head.from_bytes(head.to_bytes())
    assert again.digest() == head.digest()
    with pytest.raises(BadInput, match="no head"):
        Head.from_bytes(b"\x08\0\0\0\0\0\0\0{}      ")


def test_too_few_photos_for_a_pca() -> None:
    with pytest.raises(BadInput, match=r"more than 64 features; there are 10.*smaller --dim"):
        fit_pca(np.zeros((10, 1280), dtype=np.float32), 64)
    with pytest.raises(BadInput, match=r"PCA of 8 numbers .* and not 20"):
        fit_pca(np.zeros((100, 8), dtype=np.float32), 20)
