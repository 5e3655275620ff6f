"""One photo of the catalogue: read, checked, decoded, and what can be said of it when that fails."""

from __future__ import annotations

from dataclasses import dataclass

from crossmedia.v1 import image_server_pb2 as pb

from imgserver.storage.catalog import FolderCatalog
from imgserver.storage.index import content_hash
from imgserver.storage.store import Source
from imgserver.vision.decode import CorruptImage, ImageLimits, ImageTooLarge, Pixels, Preprocessing, decode


@dataclass(frozen=True)
class Photo:
    """What became of one photo.

    Attributes:
        image_id: its id.
        status: a ``VectorStatus``: OK means there are pixels.
        source: size, time and content hash of the bytes.
        pixels: uint8, shape (size, size, 3), or None.
        reason: why there are no pixels, for people.
    """

    image_id: int
    status: int
    source: Source
    pixels: Pixels | None = None
    reason: str = ""


def read_photo(catalog: FolderCatalog, image_id: int, preprocessing: Preprocessing, limits: ImageLimits) -> Photo:
    """Read and decode one photo; never raises for what is wrong with it."""
    fingerprint = catalog.fingerprint(image_id)
    if fingerprint is None:
        return Photo(image_id, pb.VECTOR_STATUS_NOT_FOUND, Source(0, 0, 0), reason="the catalogue has no such image")
    size, mtime_ns = fingerprint.size, fingerprint.mtime_ns
    try:
        data = catalog.read(image_id, limits.max_bytes)
    except OSError as error:
        return Photo(image_id, pb.VECTOR_STATUS_FAILED, Source(size, mtime_ns, 0), reason=f"cannot be read: {error}")
    if data is None:
        return Photo(image_id, pb.VECTOR_STATUS_NOT_FOUND, Source(0, 0, 0), reason="vanished while it was read")
    source = Source(size, mtime_ns, content_hash(data))
    try:
        return Photo(image_id, pb.VECTOR_STATUS_OK, source, decode(data, preprocessing, limits))
    except ImageTooLarge as error:
        return Photo(image_id, pb.VECTOR_STATUS_TOO_LARGE, source, reason=str(error))
    except CorruptImage as error:
        return Photo(image_id, pb.VECTOR_STATUS_CORRUPT, source, reason=str(error))
    except MemoryError:
        return Photo(image_id, pb.VECTOR_STATUS_FAILED, source, reason="not enough memory to decode it")
