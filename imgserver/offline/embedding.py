"""Photos through the CNN: read and decoded ahead, in batches, a broken one for itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt

from imgserver.storage.catalog import Catalog
from imgserver.storage.records import Ids
from imgserver.storage.versions import FEATURE_DTYPE
from imgserver.vision.backbone import Backbone
from imgserver.vision.decode import ImageLimits
from imgserver.vision.engines import MAX_BATCH, Engine, run_all
from imgserver.vision.photos import Photo, read_photo


def decoded(catalog: Catalog, backbone: Backbone, limits: ImageLimits, ids: Ids) -> Iterator[Photo]:
    """Photos in the order of ``ids``, read and decoded ahead in threads, a bounded number at a time."""
    with ThreadPoolExecutor(catalog.readers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Photo]] = deque()
        try:
            for image_id in ids.tolist():
                ahead.append(pool.submit(read_photo, catalog, image_id, backbone.preprocessing, limits))
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


def features_of(engine: Engine, photos: Sequence[Photo], dim: int) -> npt.NDArray[np.float16]:
    """Features of the photos that could be decoded, in their order, shape (m, F), rounded to what is stored."""
    pixels = [photo.pixels for photo in photos if photo.pixels is not None]
    if not pixels:
        return np.zeros((0, dim), FEATURE_DTYPE)
    return run_all(engine, pixels).astype(FEATURE_DTYPE)
