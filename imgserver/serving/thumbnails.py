"""Small JPEGs of photos, for reports and people."""

from __future__ import annotations

import errno

from crossmedia.errors import InvalidRequest
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.vision.decoders import Decoders, DecodingFailed
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge
from crossmedia.service.admission import Admission, Cost, Turns
from crossmedia.service.callers import Caller

MAX_THUMBNAILS = 120  # of the largest side, in bytes of the worst photo, they fit a message
MAX_SIDE, DEFAULT_SIDE = 512, 128
PIXEL_BYTES = 2  # of a JPEG; of photos it has a tenth of that


class Thumbnails:
    """Answers ``GetThumbnails``.

    Args:
        admission: counts what is under way.
        decoding: turns of those who decode while a caller waits.
        decoders: of photos that callers want to see.
    """

    def __init__(self, admission: Admission, decoding: Turns, decoders: Decoders):
        self._admission, self._decoding, self._decoders = admission, decoding, decoders

    def of(self, catalogue: Catalogue | None, ids: Ids, side: int, caller: Caller) -> list[bytes]:
        """A JPEG for each image; empty where there is no photo that can be decoded.

        Args:
            catalogue: where photos are; None: nowhere.
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
            return [self._one(catalogue, image_id, side, caller) for image_id in ids.tolist()]

    def _one(self, catalogue: Catalogue | None, image_id: int, side: int, caller: Caller) -> bytes:
        if catalogue is None:
            return b""
        with self._decoding.one(caller):
            try:
                data = catalogue.read(image_id, self._decoders.limits.max_bytes)
                return self._decoders.thumbnail(data, side) if data else b""
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise  # says nothing of the photo
                return b""
            except (CorruptImage, ImageTooLarge, DecodingFailed):
                return b""
