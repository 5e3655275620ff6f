"""Small JPEGs of photos, for reports and people."""

from __future__ import annotations

from crossmedia.errors import InvalidRequest
from crossmedia.imgserver.serving.photo_reader import PhotoReader
from crossmedia.imgserver.storage.records import Ids
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller

MAX_THUMBNAILS = 120  # of the largest side, in bytes of the worst photo, they fit a message
MAX_SIDE, DEFAULT_SIDE = 512, 128
PIXEL_BYTES = 2  # of a JPEG; of photos it has a tenth of that


class Thumbnails:
    """Answers ``GetThumbnails``.

    Args:
        admission: counts what is under way.
        photos: makes thumbnails of them.
    """

    def __init__(self, admission: Admission, photos: PhotoReader):
        self._admission, self._photos = admission, photos

    def of(self, ids: Ids, side: int, caller: Caller) -> list[bytes]:
        """A JPEG for each image; empty where there is no photo that can be decoded.

        Args:
            ids: shape (n,).
            side: longest side in pixels; 0 takes the default.
            caller: who waits.

        Raises:
            InvalidRequest: too large a side.
            Overloaded: too much is under way.
            DeadlineExceeded: it took too long, or the caller has gone.
        """
        side = side or DEFAULT_SIDE
        if side > MAX_SIDE:
            raise InvalidRequest(f"max_side is {side}; thumbnails have at most {MAX_SIDE} pixels a side.")
        reply = Cost(size=len(ids) * PIXEL_BYTES * side * side)
        with self._admission.held_until_sent(reply, caller), self._admission.held(Cost(slow=1), caller):
            return [self._photos.thumbnail(image_id, side, caller) for image_id in ids.tolist()]
