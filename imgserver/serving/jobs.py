"""One image under way, and the calls that wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.head import Head
from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.stores import Lookups
from crossmedia.imgserver.vision.embedding import Embedder
from crossmedia.imgserver.vision.photos import Photo
from crossmedia.logs import request_id
from crossmedia.service.callers import Caller
from crossmedia.status import NOT_YET

MOST_NAMED = 10  # calls in a line of the log


@dataclass(frozen=True)
class Model:
    """What makes more vectors of a version; imported vectors have none.

    Attributes:
        embedder: makes features.
        head: makes vectors of them; None: the version is the backbone's, and its vectors are the features.
        features: where they are kept.
    """

    embedder: Embedder
    head: Head | None
    features: Space


@dataclass(frozen=True)
class Serving:
    """A version that is served; replaced as a whole, so no reply mixes two versions."""

    version: str
    table: Lookups
    model: Model | None


@dataclass(eq=False)
class Job:
    """One image under way, for all calls that wait for it."""

    image_id: int
    serving: Serving
    model: Model
    data: bytes | None = None  # brought by a caller; else the catalogue's
    content: int = 0  # hash of ``data``
    name: str = ""  # of the caller who asked first, of whose share it is
    probe: bool = False  # goes all the way in the lane of lookups, and is not stored
    callers: list[Caller] = field(default_factory=list)
    status: int = NOT_YET
    photo: Photo | None = None
    feature: npt.NDArray[Any] | None = None
    vector: npt.NDArray[Any] | None = None
    started_ns: int = 0

    @property
    def key(self) -> tuple[str, int, int]:
        """What one computation is enough for."""
        return self.serving.version, self.image_id, self.content

    @property
    def brought(self) -> bool:
        """Whether a caller brought the photo, who may be asked to wait longer."""
        return self.data is not None and not self.probe

    @property
    def wanted(self) -> bool:
        """Whether any caller still waits."""
        return any(caller.waits for caller in self.callers)


@contextmanager
def for_callers(jobs: list[Job]) -> Iterator[None]:
    """Lines that are logged meanwhile have the ids of the calls that wait for these images."""
    waiting = dict.fromkeys(caller.request for job in jobs for caller in job.callers if caller.request)
    token = request_id.set(",".join(islice(waiting, MOST_NAMED)))
    try:
        yield
    finally:
        request_id.reset(token)


def features_of(jobs: list[Job]) -> npt.NDArray[Any] | None:
    """Features of jobs that have one, shape (n, F); None when there is no job."""
    return np.stack([job.feature for job in jobs if job.feature is not None]) if jobs else None
