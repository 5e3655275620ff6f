"""Small JPEGs of photos, for reports and people."""

from __future__ import annotations

from crossmedia.errors import InvalidRequest
from crossmedia.imgserver.serving.photo_reader import PhotoReader
from crossmedia.imgserver.serving.requests import ids_of
from crossmedia.imgserver.shards import Ownership
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller
from crossmedia.v1 import image_server_pb2 as pb

MAX_THUMBNAILS = 120  # of the largest side, in bytes of the worst photo, they fit a message
MAX_SIDE, DEFAULT_SIDE = 512, 128
PIXEL_BYTES = 2  # of a JPEG; of photos it has a tenth of that


class Thumbnails:
    """Answers ``GetThumbnails``.

    Args:
        admission: counts what is under way.
        photos: makes thumbnails of them.
        ownership: whose photos may be seen; None: all.
    """

    def __init__(self, admission: Admission, photos: PhotoReader, ownership: Ownership | None):
        self._admission, self._photos, self._ownership = admission, photos, ownership

    def draw(self, request: pb.GetThumbnailsRequest, caller: Caller) -> pb.GetThumbnailsResponse:
        """A JPEG for each image; empty where there is no photo that can be decoded.

        Args:
            request: what is asked for; a side of 0 takes the default.
            caller: who waits.

        Raises:
            InvalidRequest: a broken id block, too many ids, or too large a side.
            WrongShard: another server owns one of the images.
            Overloaded: too much is under way.
            DeadlineExceeded: it took too long, or the caller has gone.
        """
        ids, side = ids_of(request.image_ids, MAX_THUMBNAILS, self._ownership), request.max_side or DEFAULT_SIDE
        if side > MAX_SIDE:
            raise InvalidRequest(f"max_side is {side}; thumbnails have at most {MAX_SIDE} pixels a side.")
        reply = Cost(size=len(ids) * PIXEL_BYTES * side * side)
        with self._admission.held_until_sent(reply, caller), self._admission.held(Cost(slow=1), caller):
            jpegs = [self._photos.thumbnail(image_id, side, caller) for image_id in ids.tolist()]
            return pb.GetThumbnailsResponse(jpegs=jpegs)
