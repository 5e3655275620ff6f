"""Which photos the GPU decodes, and that what is resized there is what Pillow resizes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge
from crossmedia.imgserver.vision.gpu_jpeg import for_gpu, resized

LIMITS = ImageLimits()


def jpeg(mode: str = "RGB", size: tuple[int, int] = (300, 200), **options: object) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return jpeg(exif=tags)


def test_a_plain_jpeg_is_for_the_gpu_without_what_its_pixels_do_not_need(photos: Path) -> None:
    for data in (jpeg(), jpeg("L"), turned(1), jpeg(comment=b"x" * 1000), jpeg(icc_profile=b"x" * 5000)):
        found = for_gpu(data, LIMITS)
        assert found is not None
        assert len(found.data) < len(jpeg()) + 200
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(found.data))), np.asarray(Image.open(io.BytesIO(data)))
        )
    assert all(for_gpu(file.read_bytes(), LIMITS) for file in sorted(photos.iterdir())[:20])


@pytest.mark.parametrize(
    "data",
    [
        jpeg(progressive=True),
        jpeg("CMYK"),
        turned(6),
        jpeg()[:-2],  # cut off
        jpeg()[:400],
        jpeg() + jpeg(),  # two pictures
        b"\x89PNG\r\n\x1a\n" + bytes(100),
    ],
)
def test_what_is_no_plain_jpeg_goes_the_usual_way(data: bytes) -> None:
    assert for_gpu(data, LIMITS) is None


def test_limits_hold_before_the_gpu_sees_a_photo() -> None:
    with pytest.raises(ImageTooLarge, match="300 x 200 pixels are more than 1000"):
        for_gpu(jpeg(), ImageLimits(max_pixels=1000))
    with pytest.raises(ImageTooLarge, match="more than 100 bytes"):
        for_gpu(jpeg(), ImageLimits(max_bytes=100))
    with pytest.raises(CorruptImage):
        for_gpu(b"no picture", LIMITS)


@pytest.mark.parametrize(
    "how",
    [
        Preprocessing(size=64, draft=0),
        Preprocessing(size=64, draft=0, fit="crop", resize=72, interpolation="bilinear"),
    ],
)
def test_what_is_resized_as_on_a_gpu_is_what_pillow_resizes(how: Preprocessing) -> None:
    sizes = [(300, 200), (90, 310), (300, 200), (64, 64), (90, 310)]
    data = [jpeg(size=size, quality=95) for size in sizes]
    whole = [torch.from_numpy(np.asarray(Image.open(io.BytesIO(one))).copy()).permute(2, 0, 1) for one in data]
    found = resized(whole, how).numpy().astype(int)
    for one, photo in zip(found, data, strict=True):
        difference = np.abs(one - decode(photo, how, LIMITS))
        assert difference.mean() < 0.6
        assert difference.max() <= 3


def test_it_is_a_version_of_its_own_and_leaves_others_as_they_were() -> None:
    plain, gpu = get_backbone("efficientnet_lite0"), get_backbone("efficientnet_lite0#nvjpeg")
    assert plain.version == "efficientnet_lite0@8080e1527fb3"  # of stores that are there
    assert gpu.version != plain.version
    assert get_backbone("efficientnet_lite0#nvjpeg#bf16").version == gpu.version + "#bf16"
    assert get_backbone("efficientnet_lite0#bf16#nvjpeg").version == gpu.version + "#bf16"
