"""Photos on their way to the CNN: read and decoded ahead, in batches, and why some never get there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from crossmedia.v1 import image_server_pb2 as pb

from imgserver.client.results import Status
from imgserver.storage.catalog import Catalog
from imgserver.storage.records import Ids
from imgserver.vision.backbone import Backbone
from imgserver.vision.decoders import Decoders
from imgserver.vision.engines import MAX_BATCH
from imgserver.vision.photos import Photo, read_photo

OK = pb.VECTOR_STATUS_OK


def decoded(catalog: Catalog, backbone: Backbone, decoders: Decoders, ids: Ids) -> Iterator[Photo]:
    """Photos in the order of ``ids``, read in threads and decoded ahead, a bounded number at a time."""
    with ThreadPoolExecutor(max(catalog.readers, decoders.workers), thread_name_prefix="decode") as pool:
        ahead: deque[Future[Photo]] = deque()
        try:
            for image_id in ids.tolist():
                ahead.append(pool.submit(read_photo, catalog, image_id, backbone.preprocessing, decoders))
                if len(ahead) > 2 * MAX_BATCH:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def batched(photos: Iterator[Photo], size: int) -> Iterator[list[Photo]]:
    """Lists of ``size`` photos; the last may be shorter."""
    while batch := list(islice(photos, size)):
        yield batch


def reasons_of(photos: Iterable[Photo]) -> dict[int, str]:
    """Why photos have no feature, by image id."""
    return {photo.image_id: f"{Status(photo.status).name}: {photo.reason}" for photo in photos if photo.status != OK}
