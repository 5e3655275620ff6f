"""Photos through the CNN: their features, as they are stored, and which photos have none that can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.records import Rows, Space
from crossmedia.imgserver.storage.versions import FEATURE_DTYPE
from crossmedia.imgserver.vision.engines import Engine, run_all
from crossmedia.imgserver.vision.photos import Photo, rows_of
from crossmedia.status import NOT_KEPT, Status


def embed(engine: Engine, photos: Sequence[Photo], dim: int) -> tuple[list[Photo], npt.NDArray[np.float16]]:
    """Features of photos.

    They are rounded to what is stored, so that a vector is the same whether its feature was just computed or read.

    Args:
        engine: what runs the backbone.
        photos: n of them, decoded or not.
        dim: F, numbers in a feature.

    Returns:
        the photos; one that the backbone has no finite numbers for is now CORRUPT, for stored it would poison whatever
        is computed with it. And the features of those that have pixels still, in their order, shape (m, F).
    """
    seen = [photo for photo in photos if photo.pixels is not None]
    if not seen:
        return list(photos), np.zeros((0, dim), FEATURE_DTYPE)
    with np.errstate(over="ignore"):  # said below
        features = run_all(engine, [photo.pixels for photo in seen if photo.pixels is not None]).astype(FEATURE_DTYPE)
    good = np.isfinite(features).all(axis=1)
    if good.all():
        return list(photos), features
    bad = {id(photo) for photo, fine in zip(seen, good.tolist(), strict=True) if not fine}
    return [_without_feature(photo) if id(photo) in bad else photo for photo in photos], features[good]


def embedded(engine: Engine, photos: Sequence[Photo], space: Space) -> tuple[Rows, dict[int, str]]:
    """What is to be stored of photos, features for those that have one, and why others have none, by image id."""
    reasons = reasons_of(photos)
    photos, features = embed(engine, [photo for photo in photos if photo.status not in NOT_KEPT], space.dim)
    return rows_of(space, photos, features), reasons | reasons_of(photos)


def reasons_of(photos: Iterable[Photo]) -> dict[int, str]:
    """Why photos have no feature, by image id."""
    return {photo.image_id: f"{photo.status.name}: {photo.reason}" for photo in photos if not photo.ok}


def _without_feature(photo: Photo) -> Photo:
    reason = "the backbone gives numbers for it that are not finite in float16"
    return replace(photo, status=Status.CORRUPT, pixels=None, reason=reason)
