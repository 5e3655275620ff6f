"""The first stage: what the store has of an image, or else its pixels."""

from __future__ import annotations

import logging

from crossmedia.imgserver.serving.embed_stage import EmbedStage
from crossmedia.imgserver.serving.miss import Miss, for_callers
from crossmedia.imgserver.serving.photo_reader import PhotoReader
from crossmedia.imgserver.serving.stage import Stage
from crossmedia.imgserver.serving.under_way import UnderWay
from crossmedia.imgserver.storage.stores import ServedStore, Stored
from crossmedia.logs import Sparingly
from crossmedia.service.fair import FairQueue
from crossmedia.status import NOT_KEPT, NOT_YET, Status

log = logging.getLogger(__name__)


class DecodeStage(Stage[Miss]):
    """Threads that read and decode, of the catalogue's photos or of those that callers bring; callers take turns.

    Args:
        store: what is there already.
        photos: reads them.
        embedding: the next stage.
        under_way: where images end.
        brought: whether these are the photos that callers bring.
    """

    fault = "failed before the CNN"

    def __init__(
        self, store: ServedStore, photos: PhotoReader, embedding: EmbedStage, under_way: UnderWay, *, brought: bool
    ):
        name = "decode-brought" if brought else "decode"
        super().__init__(name, under_way, photos.at_once(brought=brought))
        self._store, self._photos, self._embedding = store, photos, embedding
        self.waiting: FairQueue[Miss] = FairQueue()
        self._sparingly = Sparingly()

    def append(self, item: Miss) -> None:
        """Let an image wait."""
        item.wait_in(self.waiting)

    def share(self, misses: list[Miss], name: str) -> None:
        """One more caller waits for images: let those that are still here wait for its turns too."""
        with self._changed:
            for miss in misses:
                if miss in self.waiting:
                    self.waiting.append(name, miss)

    def take(self) -> list[Miss]:
        """The next image."""
        return [self.waiting.pop()]

    def work(self, misses: list[Miss]) -> None:
        """Hand an image to the CNN, or end it."""
        (miss,) = misses
        status = self.look(miss) if miss.wanted else Status.TIMED_OUT
        if status == NOT_YET:
            self._embedding.put(miss)
        else:
            self._under_way.end(misses, status)

    def look(self, miss: Miss) -> int:
        """Bring a stored feature or pixels to one image, or say its final status."""
        known = self._store.fetch(miss.maker.table.space, miss.image_id)
        if known is not None and miss.is_made_as(known):
            miss.vector = known.row
            return Status.OK
        feature = self._store.fetch(miss.maker.features, miss.image_id)
        if feature is not None and miss.is_made_as(feature):
            miss.take_feature(feature)
            return NOT_YET
        if known is not None and self._same_failure(miss, known):
            return int(known.entry["status"])
        photo = miss.photo = self._photos.photo(miss)
        if photo.status == Status.FAILED and self._sparingly.allows("photo"):
            with for_callers([miss]):
                log.warning("image %d %s", miss.image_id, photo.reason)
        return photo.status if photo.status in NOT_KEPT else NOT_YET

    def _same_failure(self, miss: Miss, known: Stored) -> bool:
        """Whether an image failed before and its photo has not been touched since: it need not be read again."""
        failed = miss.data is None and known.entry["status"] != Status.OK
        return failed and self._photos.untouched(miss.image_id, known)
