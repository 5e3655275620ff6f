"""Photos through the CNN: their features, as they are stored, and which photos have none that can be."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossmedia.errors import StoreError
from crossmedia.imgserver.storage.records import Rows, Space
from crossmedia.imgserver.storage.versions import FEATURE_DTYPE
from crossmedia.imgserver.text.backbone import TextEngine
from crossmedia.imgserver.vision.backbone import AnyBackbone
from crossmedia.imgserver.vision.backbones import any_backbone
from crossmedia.imgserver.vision.engines import Engine, run_all
from crossmedia.imgserver.vision.gpu_jpeg import Jpeg
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photos import Photo, rows_of
from crossmedia.status import NOT_KEPT, Status

NOT_FINITE = "the backbone gives numbers for it that are not finite in float16"


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
    why = engine.no_feature if isinstance(engine, TextEngine) else NOT_FINITE
    return [_without_feature(photo, why) if id(photo) in bad else photo for photo in photos], features[good]


def embedded(engine: Engine, photos: Sequence[Photo], space: Space) -> tuple[Rows, dict[int, str]]:
    """What is to be stored of photos, features for those that have one, and why others have none, by image id."""
    reasons = reasons_of(photos)
    photos, features = embed(engine, [photo for photo in photos if photo.status not in NOT_KEPT], space.dim)
    return rows_of(space, photos, features), reasons | reasons_of(photos)


def reasons_of(photos: Iterable[Photo]) -> dict[int, str]:
    """Why photos have no feature, by image id."""
    return {photo.image_id: f"{photo.status.name}: {photo.reason}" for photo in photos if not photo.ok}


def _without_feature(photo: Photo, reason: str) -> Photo:
    if isinstance(photo.pixels, Jpeg):
        reason = f"the GPU cannot decode it, or {reason}"
    return replace(photo, status=Status.CORRUPT, pixels=None, reason=reason)


class Embedder:
    """Runs the backbone whose features a store holds; made when it is first needed: seconds, and hundreds of megabytes.

    Args:
        recipe: what makes the backbone.
        version: the backbone's version in the store.
        cache: folder for converted graphs, in that of the store.
        machine: what is taken of this machine.
    """

    def __init__(self, recipe: str, version: str, cache: Path, machine: Machine):
        self.version, self._recipe, self._cache, self._machine = version, recipe, cache, machine
        self._lock = threading.Lock()
        self._made: tuple[AnyBackbone, Engine] | None = None

    @property
    def engine_name(self) -> str:
        """What runs it; ``none`` before it was needed."""
        return self._made[1].name if self._made else "none"

    @property
    def backbone(self) -> AnyBackbone:
        """The backbone; made now if it was not needed before."""
        return self._get()[0]

    @property
    def engine(self) -> Engine:
        """Its engine; made now if it was not needed before."""
        return self._get()[1]

    def _get(self) -> tuple[AnyBackbone, Engine]:
        """Both.

        Raises:
            BadInput: the backbone's files are not there any more.
            StoreError: they are not what the store's features came from.
        """
        with self._lock:
            if self._made is None:
                backbone = any_backbone(self._recipe, self._cache.parent)
                if backbone.version != self.version:
                    raise StoreError(
                        f"The backbone {self._recipe} is {backbone.version} here; the store holds features of "
                        f"{self.version}. Bring back the former weights, or run 'imgserver precompute' again."
                    )
                self._made = backbone, make_engine(backbone, self._cache, self._machine)
            return self._made
