"""JPEGs that the GPU decodes itself: which photos that is for, and from their bytes to pixels that are there already.

Where two cores feed a GPU, decoding holds it up; its own decoder (nvJPEG) does not. It gives other pixels than Pillow,
so a backbone that takes them is another version, ``#nvjpeg``. It decodes in this process, where the workers of
``decoders`` are confined: for a catalogue of one's own, not for photos of strangers. What is no plain upright JPEG goes
the usual way, within the same version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, scaled_size
from crossmedia.imgserver.vision.formats import ImageTooLarge, format_of, plain_jpeg

AT_ONCE = 32  # pictures of one size that are resized together


@dataclass(frozen=True)
class Jpeg:
    """The bytes of a photo that the GPU decodes, without what its pixels do not need."""

    data: bytes


def for_gpu(data: bytes, limits: ImageLimits) -> Jpeg | None:
    """A photo that the GPU decodes; None where it goes the usual way.

    Raises:
        ImageTooLarge: it has more bytes, pixels or segments than is accepted.
        CorruptImage: the bytes are no picture.
    """
    limits.check(data)
    plain = plain_jpeg(data) if format_of(data) == "JPEG" else None
    if plain is None:
        return None
    kept, width, height = plain
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{width} x {height} pixels are more than {limits.max_pixels}")
    return Jpeg(kept)


Decode = Callable[[Sequence[Jpeg], torch.device], list[Tensor]]


def decoder() -> Decode:
    """What torchvision has for it.

    Raises:
        BadInput: torchvision is not there, or was built without it.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except (ImportError, RuntimeError) as error:
        raise BadInput(
            f"JPEGs are decoded on a GPU by torchvision, which cannot be loaded ({error}). Install the build for this "
            f"torch, or leave out #nvjpeg."
        ) from error

    def decode(photos: Sequence[Jpeg], device: torch.device) -> list[Tensor]:
        data = [torch.frombuffer(bytearray(photo.data), dtype=torch.uint8) for photo in photos]
        found: list[Tensor] = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
        return found

    return decode


def resized(pictures: Sequence[Tensor], how: Preprocessing) -> Tensor:
    """Pictures of any size, uint8, shape (3, height, width), as a backbone wants them: (n, size, size, 3), uint8."""
    out = torch.empty((len(pictures), how.size, how.size, 3), dtype=torch.uint8, device=pictures[0].device)
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, picture in enumerate(pictures):
        alike[tuple(picture.shape)].append(place)
    for shape, places in alike.items():
        wide, high = scaled_size(shape[2], shape[1], how)
        left, top = round((wide - how.size) / 2), round((high - how.size) / 2)
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            whole = torch.stack([pictures[place] for place in some]).float()
            small = interpolate(whole, (high, wide), mode=how.interpolation, antialias=True, align_corners=False)
            small = small[:, :, top : top + how.size, left : left + how.size]
            pixels = small.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            if some[-1] - some[0] + 1 == len(some):
                out[some[0] : some[-1] + 1] = pixels
            else:
                for place, one in zip(some, pixels, strict=True):
                    out[place] = one
    return out
