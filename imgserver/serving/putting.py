"""Photos that callers bring: checked, embedded and stored."""

from __future__ import annotations

import numpy as np

from crossmedia.errors import InvalidRequest, VersionMismatch
from crossmedia.imgserver.serving.misses import Misses
from crossmedia.imgserver.serving.open_versions import OpenVersions
from crossmedia.imgserver.shards import Ownership
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller
from crossmedia.v1 import image_server_pb2 as pb

MAX_PUT = 256


class Putting:
    """Answers ``PutImages``.

    Args:
        served: the versions that are open, of the store where the vectors go.
        misses: embeds photos and writes their vectors.
        admission: counts what is under way.
        ownership: whose images may be brought; None: all.
    """

    def __init__(self, served: OpenVersions, misses: Misses, admission: Admission, ownership: Ownership | None):
        self._served, self._misses, self._admission, self._ownership = served, misses, admission, ownership

    @property
    def most(self) -> int:
        """Photos that one call may bring."""
        return min(MAX_PUT, self._admission.share_of_items)

    def put(self, request: pb.PutImagesRequest, caller: Caller) -> pb.PutImagesResponse:
        """Embed photos that the caller brings; the next ``GetVectors`` serves them.

        Raises:
            InvalidRequest: too many photos, a negative id, or an id twice.
            NotReady: nothing was precomputed yet, so there is no head.
            VersionMismatch: the vectors served were imported; there is no CNN behind them.
            WrongShard: another server owns one of the images.
            Overloaded: too many images wait for the CNN, or too much is under way.
        """
        photos = [(photo.image_id, photo.data) for photo in request.images]
        ids = [image_id for image_id, _ in photos]
        if len(photos) > (most := self.most):
            raise InvalidRequest(f"{len(photos)} photos or texts came in one call; the limit is {most} (see GetInfo).")
        if ids and min(ids) < 0:
            raise InvalidRequest(f"Image id {min(ids)} is negative; ids are 0 or more.")
        if len(set(ids)) < len(ids):
            raise InvalidRequest("An id is there twice in one call; which photo or text should count?")
        if self._ownership is not None:
            self._ownership.check(np.array(ids, dtype=np.int64))
        serving = self._served.of("")
        if serving.maker is None:
            raise VersionMismatch(
                f"The vectors of {serving.version} were imported, so this server cannot make one. Import them again "
                f"with the new ones, or activate a version that has a backbone."
            )
        with self._admission.held(Cost(size=sum(len(data) for _, data in photos), slow=1), caller):
            status = self._misses.put(serving.maker, photos, caller)
        return pb.PutImagesResponse(
            version=serving.version, generation=self._served.store.index.generation, status=status.tobytes()
        )
