"""Photos on their way to the CNN: read and decoded ahead, in batches, and why some never get there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.vision.backbone import Backbone
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.engines import MAX_BATCH
from crossmedia.imgserver.vision.photos import Photo, read_photo


def decoded(catalogue: Catalogue, backbone: Backbone, decoders: Decoders, ids: Ids) -> Iterator[Photo]:
    """Photos in the order of ``ids``, read in threads and decoded ahead, a bounded number at a time."""
    with ThreadPoolExecutor(max(catalogue.readers, decoders.workers), thread_name_prefix="decode") as pool:
        ahead: deque[Future[Photo]] = deque()
        try:
            for image_id in ids.tolist():
                ahead.append(pool.submit(read_photo, catalogue, image_id, backbone.preprocessing, decoders))
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
