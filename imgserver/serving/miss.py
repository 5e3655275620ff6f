"""One image under way, and the calls that wait for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy.typing as npt

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.serving.open_versions import VectorMaker
from crossmedia.imgserver.storage.records import SOURCE_FIELDS
from crossmedia.imgserver.storage.stores import Stored
from crossmedia.imgserver.vision.photos import Photo, Source
from crossmedia.logs import request_id
from crossmedia.service.admission import Permit
from crossmedia.service.callers import Caller
from crossmedia.service.fair import FairQueue
from crossmedia.status import NOT_YET, Status

log = logging.getLogger(__name__)

MOST_NAMED = 10  # calls in a line of the log


@dataclass(eq=False)
class Miss:
    """One image under way, for all calls that wait for it."""

    image_id: int
    maker: VectorMaker
    data: bytes | None = None  # brought by a caller; else the catalogue's
    content: int = 0  # hash of ``data``
    probe: bool = False  # goes all the way in the lane of lookups, and is not stored
    permit: Permit | None = None  # of the caller who asked first, of whose share it is
    callers: list[Caller] = field(default_factory=list)
    status: int = NOT_YET
    photo: Photo | None = None
    feature: npt.NDArray[Any] | None = None
    vector: npt.NDArray[Any] | None = None
    started_ns: int = 0

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells misses apart; one computation is enough for each key."""
        return self.maker.table.space.name, self.image_id, self.content

    @property
    def brought(self) -> bool:
        """Whether a caller brought the photo; such a caller may be asked to wait longer."""
        return self.data is not None and not self.probe

    @property
    def wanted(self) -> bool:
        """Whether any caller still waits."""
        return any(caller.waits for caller in self.callers)

    @property
    def decoded(self) -> bool:
        """Whether there are pixels for the CNN; with a stored feature there need be none."""
        return self.photo is not None and self.photo.pixels is not None

    def wait_in(self, queue: FairQueue[Miss]) -> None:
        """Wait for a turn of each caller; a probe goes first, for it is not to measure how long others wait."""
        if self.probe:
            queue.push(self.callers[0].name, self)
        for caller in self.callers:
            queue.append(caller.name, self)

    def is_made_as(self, known: Stored) -> bool:
        """Whether what is stored is a row made from the bytes of this image."""
        return bool(
            known.entry["status"] == Status.OK and (self.data is None or known.entry["content"] == self.content)
        )

    def take_feature(self, known: Stored) -> None:
        """Go on with a stored feature, without the photo."""
        self.feature = known.row
        self.photo = Photo(self.image_id, Status.OK, Source(*known.entry[SOURCE_FIELDS].item()))

    def end(self, status: int) -> None:
        """Keep no more than the vector, free what it held of the admitted work, and wake who waits."""
        self.status, self.photo, self.feature = status, None, None
        if self.permit is not None:
            self.permit.free()
        for caller in self.callers:
            caller.one_ended(self.started_ns)


@contextmanager
def for_callers(misses: list[Miss]) -> Iterator[None]:
    """Give lines that are logged in the block the ids of the calls that wait for these images."""
    waiting = dict.fromkeys(caller.request for miss in misses for caller in miss.callers if caller.request)
    token = request_id.set(",".join(islice(waiting, MOST_NAMED)))
    try:
        yield
    finally:
        request_id.reset(token)


def say(error: Exception, what: str, misses: list[Miss]) -> None:
    """Log a fault that some images end with; its trace too, unless it is an error of ours."""
    trace = None if isinstance(error, CrossMediaError) else error
    with for_callers(misses):
        log.error("%s (images: %d, the first is %d): %s", what, len(misses), misses[0].image_id, error, exc_info=trace)
