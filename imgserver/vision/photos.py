"""One photo, or one text: read, checked, decoded, and what can be said of it when that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.catalogue.remote import in_words
from crossmedia.imgserver.storage.records import SOURCE, Ids, Rows, Space, content_hash, spread
from crossmedia.imgserver.text.reading import BadText, Text, TextReading, TextTooLong
from crossmedia.imgserver.vision.decode import Pixels, Preprocessing
from crossmedia.imgserver.vision.decoders import Decoders, DecodingFailed
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge
from crossmedia.imgserver.vision.gpu_jpeg import Jpeg, for_gpu
from crossmedia.status import Status, is_ok


class Source(NamedTuple):
    """Where a photo came from: the fields of ``SOURCE``; all 0 when it was not there."""

    size: int = 0
    stamp: int = 0
    content: int = 0


@dataclass(frozen=True)
class Photo:
    """What became of one photo.

    Attributes:
        image_id: its id.
        status: what became of it: OK means there are pixels.
        source: size, stamp and content hash of the bytes.
        pixels: uint8, shape (size, size, 3), or the bytes of which a GPU makes them, or None; of a text, the text.
        reason: why there are no pixels, for people.
    """

    image_id: int
    status: Status
    source: Source
    pixels: Pixels | Jpeg | Text | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether it can have a row."""
        return self.status == Status.OK


def rows_of(space: Space, photos: Sequence[Photo], found: npt.NDArray[Any] | None) -> Rows:
    """What is stored of n photos.

    Args:
        space: where their rows go.
        photos: what became of each.
        found: rows of those that are OK, in their order, shape (m, D); None when there is none.
    """
    ids = np.array([photo.image_id for photo in photos], dtype=np.int64)
    status = np.array([photo.status for photo in photos], dtype=np.uint8)
    sources = np.array([photo.source for photo in photos], dtype=SOURCE)
    found = np.zeros((0, space.dim), dtype=space.value_dtype) if found is None else found
    return Rows(space, ids, status, sources, spread(found, is_ok(status)))


def read_photos(catalogue: Catalogue, ids: Ids, preprocessing: Preprocessing, decoders: Decoders) -> list[Photo]:
    """Read and decode photos of the catalogue, one after the other; never raises for what is wrong with one."""
    try:
        found = catalogue.fingerprints(ids)
    except OSError:  # of one of them; each is looked at by itself
        return [read_photo(catalogue, image_id, preprocessing, decoders) for image_id in ids.tolist()]
    sources = map(Source, found.size.tolist(), found.stamp.tolist())
    return [
        _read(catalogue, image_id, source if there else None, preprocessing, decoders)
        for image_id, source, there in zip(ids.tolist(), sources, found.there.tolist(), strict=True)
    ]


def read_photo(
    catalogue: Catalogue, image_id: int, preprocessing: Preprocessing | TextReading, decoders: Decoders
) -> Photo:
    """Read and decode one photo of the catalogue; never raises for what is wrong with it."""
    try:
        found = catalogue.fingerprints(np.array([image_id]))
    except OSError as error:
        return _unreadable(image_id, error)
    seen = Source(int(found.size[0]), int(found.stamp[0])) if found.there[0] else None
    return _read(catalogue, image_id, seen, preprocessing, decoders)


def _read(
    catalogue: Catalogue,
    image_id: int,
    seen: Source | None,
    preprocessing: Preprocessing | TextReading,
    decoders: Decoders,
) -> Photo:
    """Read and decode a photo whose size and stamp were ``seen``; None: there is none."""
    if seen is None:
        return Photo(image_id, Status.NOT_FOUND, Source(), reason="the catalogue has no such image")
    try:
        data = catalogue.read(image_id, decoders.limits.max_bytes)
    except OSError as error:
        return _unreadable(image_id, error)
    if data is None:
        reason = "it has gone, its cell is empty, or it leads to where no photos are read (--photo-root)"
        return Photo(image_id, Status.NOT_FOUND, Source(), reason=reason)
    source = Source(seen.size, seen.stamp, content_hash(data))
    return photo_from_bytes(image_id, data, source, preprocessing, decoders)


def _unreadable(image_id: int, error: OSError) -> Photo:
    return Photo(image_id, Status.FAILED, Source(), reason=f"cannot be read: {in_words(error)}")


def photo_from_bytes(
    image_id: int, data: bytes, source: Source, preprocessing: Preprocessing | TextReading, decoders: Decoders
) -> Photo:
    """Decode the bytes of one photo, or read those of a text; never raises for what is wrong with them."""
    if isinstance(preprocessing, TextReading):
        return text_from_bytes(image_id, data, source, preprocessing)
    try:
        picture = for_gpu(data, decoders.limits) if preprocessing.jpeg == "nvjpeg" else None
        return Photo(image_id, Status.OK, source, picture or decoders.pixels(data, preprocessing))
    except ImageTooLarge as error:
        return Photo(image_id, Status.TOO_LARGE, source, reason=str(error))
    except CorruptImage as error:
        return Photo(image_id, Status.CORRUPT, source, reason=str(error))
    except DecodingFailed as error:
        return Photo(image_id, Status.FAILED, source, reason=str(error))


def text_from_bytes(image_id: int, data: bytes, source: Source, reading: TextReading) -> Photo:
    """Read the bytes of one text; never raises for what is wrong with them."""
    try:
        return Photo(image_id, Status.OK, source, reading.read(data))
    except TextTooLong as error:
        return Photo(image_id, Status.TOO_LARGE, source, reason=str(error))
    except BadText as error:
        return Photo(image_id, Status.CORRUPT, source, reason=str(error))
