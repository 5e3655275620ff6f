"""From the bytes of one photo to the pixels that a backbone wants. A bad photo raises here, alone, before any batch."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, UnidentifiedImageError, WebPImagePlugin

from crossmedia.imgserver.vision.formats import (
    CorruptImage,
    ImageTooLarge,
    essentials,
    format_of,
    not_read,
    orientation,
)

Pixels = npt.NDArray[np.uint8]
# Imported here, for Pillow would import the plugins of all its formats to find these two.
PLUGINS = WebPImagePlugin, AvifImagePlugin
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # photos are decoded side by side already
BAND_PIXELS = 1 << 20  # converted at a time, so that only one picture is in memory twice
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Preprocessing:
    """How pixels are made for a backbone; every field is part of the backbone's version.

    Attributes:
        size: height and width of the input, in pixels.
        fit: ``stretch`` maps the whole photo to the square, so that nothing of a poster or a tall product is cut off;
            ``crop`` scales the shorter side to ``resize`` and takes the middle.
        resize: of ``crop``, in pixels; 0 otherwise.
        interpolation: ``bilinear`` or ``bicubic``, with antialiasing.
        mean, scale: of each channel, red first: a pixel value x of 0 to 255 becomes (x - mean) / scale.
        draft: JPEGs are decoded at the smallest scale of the format (1, 1/2, 1/4, 1/8) that is at least so many times
            what is needed; 0 decodes them whole. 1 takes less than half the time of that on large photos, and changes
            no pixel of small ones.
        truncated: a photo that ends early is refused, not filled with grey.
        orientation: photos are turned as their EXIF tag says.
        jpeg: what decodes plain JPEGs: ``pillow``, or on a GPU ``nvjpeg``, whose pixels are others.
    """

    size: int = 224
    fit: str = "stretch"
    resize: int = 0
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (127.0, 127.0, 127.0)
    scale: tuple[float, ...] = (128.0, 128.0, 128.0)
    draft: float = 1.0
    truncated: str = "refuse"
    orientation: str = "exif"
    jpeg: str = "pillow"


RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class ImageLimits:
    """What is accepted as a photo.

    Attributes:
        max_bytes: of the file.
        max_pixels: of the picture, by its header, before anything is decoded; and of what ``crop`` scales it to.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 50_000_000

    def check(self, data: bytes) -> None:
        """Before anything is done with the bytes.

        Raises:
            ImageTooLarge: they are more than ``max_bytes``.
        """
        if len(data) > self.max_bytes:
            raise ImageTooLarge(f"the file has more than {self.max_bytes} bytes")

    @property
    def decode_s(self) -> float:
        """Seconds of processor time to decode one: over twice what the slowest honest photo takes, 38 ns a pixel."""
        return 1.0 + 80e-9 * self.max_pixels

    @property
    def decode_bytes(self) -> int:
        """Bytes of memory to decode one; a WebP with transparency takes the most, 17 a pixel."""
        return 20 * self.max_pixels + (64 << 20)


def decode(data: bytes, preprocessing: Preprocessing, limits: ImageLimits) -> Pixels:
    """Decode one photo whole and resize it.

    Returns:
        uint8, shape (size, size, 3), RGB.

    Raises:
        ImageTooLarge: more bytes or pixels than ``limits`` allow.
        CorruptImage: the bytes are no picture, or a truncated one.
    """
    need = max(preprocessing.size, preprocessing.resize)
    image = open_image(data, limits, int(preprocessing.draft * need))
    return np.asarray(_fit(image, preprocessing, limits), dtype=np.uint8)


def _fit(image: Image.Image, how: Preprocessing, limits: ImageLimits) -> Image.Image:
    resampling = RESAMPLING[how.interpolation]
    if how.fit == "stretch":
        return image.resize((how.size, how.size), resampling)
    width, height = image.size
    wide, high = scaled_size(width, height, how)
    if wide * high > limits.max_pixels:  # a strip of a few pixels' width becomes larger than memory
        raise ImageTooLarge(
            f"{width} x {height} pixels would be scaled to {wide} x {high}, more than {limits.max_pixels}"
        )
    image = image.resize((wide, high), resampling)
    left, top = round((image.width - how.size) / 2), round((image.height - how.size) / 2)
    return image.crop((left, top, left + how.size, top + how.size))


def scaled_size(width: int, height: int, how: Preprocessing) -> tuple[int, int]:
    """What a photo is scaled to, width and height, before the middle is taken."""
    if how.fit == "stretch":
        return how.size, how.size
    # As torchvision does it, to the pixel: the longer side is cut to a whole number, the middle is rounded.
    shorter = min(width, height)
    return how.resize * width // shorter, how.resize * height // shorter


def thumbnail(data: bytes, max_side: int, limits: ImageLimits) -> bytes:
    """A JPEG of the photo, longest side at most ``max_side`` pixels.

    Raises:
        ImageTooLarge, CorruptImage: as ``decode``.
    """
    image = open_image(data, limits, 2 * max_side)
    image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    image.info = {}  # a profile or a comment may be larger than the picture
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def open_image(data: bytes, limits: ImageLimits, draft_size: int) -> Image.Image:
    """Decode to RGB: the first frame, turned upright, transparency on white, 16-bit scaled to 8.

    This is the one place where bytes of others are opened as a picture.
    """
    limits.check(data)
    name, whole = format_of(data), data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what we refuse or accept ourselves
            data, tags = essentials(name, data, limits.max_pixels)
            image: Any = Image.open(io.BytesIO(data), formats=(name,))
            if image.width * image.height > limits.max_pixels:
                raise ImageTooLarge(f"{image.width} x {image.height} pixels are more than {limits.max_pixels}")
            if draft_size:
                image.draft("RGB", (draft_size, draft_size))
            image.load()
            tags = {**image.info, **tags}
            if (turn := TURNS.get(orientation(tags.get("exif") or b"", tags.get("xmp") or b""))) is not None:
                image = image.transpose(turn)
            return image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image)
    except (ImageTooLarge, CorruptImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"a picture in the file has more than {limits.max_pixels} pixels") from error
    except Exception as error:  # Pillow's plugins raise anything from OSError to SyntaxError and struct.error
        raise _damaged(name, whole, error) from error


def _damaged(name: str, data: bytes, error: Exception) -> CorruptImage:
    """Why a file cannot be decoded that begins as a photo does, without what Python calls the error."""
    if name == "AVIF" and not any(brand in data[: int.from_bytes(data[:4])] for brand in (b"avif", b"avis")):
        return not_read(data)  # HEIC may begin with the same letters
    said = str(error) if isinstance(error, OSError | SyntaxError) else ""  # others speak of Python, and not of photos
    if isinstance(error, UnidentifiedImageError) or not said or re.search(r"0x|<|b'", said):
        said = "its header or its picture is damaged"
    return CorruptImage(f"it begins as {'an' if name == 'AVIF' else 'a'} {name}, and cannot be decoded: {said}")


def _to_rgb(image: Image.Image) -> Image.Image:
    deep = image.mode.startswith("I;16")  # a PNG's grey; whatever the picture holds, 65535 is white
    if image.mode in ("I", "F"):
        raise CorruptImage("its numbers have no white that is known; save it with 8 or 16 bits")
    clear = image.info.get("transparency") if deep else None
    out = Image.new("RGB", image.size)
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = image.crop(box)
        if deep:
            values = np.asarray(band)
            values = np.where(values == clear, 65535, values) if clear is not None else values
            band = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
        if band.mode in ("RGBA", "LA", "PA") or "transparency" in band.info:
            white = Image.new("RGBA", band.size, (255, 255, 255, 255))
            band = Image.alpha_composite(white, band.convert("RGBA"))
        out.paste(band.convert("RGB"), box)
    return out
