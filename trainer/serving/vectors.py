"""Vectors for requests that cannot wait: where an image server is away, those that were kept, and else none.

Who is away is asked again in the background, so that no request waits for it, and vectors come as before when it is
back.
"""

from __future__ import annotations

import logging
import threading

import numpy as np
import numpy.typing as npt

from crossmedia.errors import CrossMediaError, DeadlineExceeded, ServerUnavailable
from crossmedia.features.batch import Int64Array
from crossmedia.imgserver.client import ImageClient, Vectors
from crossmedia.logs import Sparingly
from crossmedia.status import AWAY, CACHED, Status, is_ok
from crossmedia.trainer.images.image_head import StoredVectors

log = logging.getLogger(__name__)

ASK_AGAIN_S = 0.5


class SpareVectors(Vectors):
    """Vectors that were kept, of a server that could not be asked; each status is CACHED, AWAY, or a permanent one."""

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which rows hold a vector, shape (n,)."""
        found: npt.NDArray[np.bool_] = self.status == CACHED
        return found


class ServedVectors(StoredVectors):
    """Vectors of a client; where it fails, those that it has kept.

    Args:
        source: the client.

    Attributes:
        failures: error class -> fetches that failed with it.
    """

    def __init__(self, source: ImageClient):
        super().__init__(source)
        self._lock, self._asking, self._stop = threading.Lock(), False, threading.Event()
        self._sparingly = Sparingly(1)
        self.away = False
        self.failures: dict[str, int] = {}

    def fetch(self, image_ids: Int64Array) -> Vectors:
        """Vectors of images, shape (K,), as fp32; it raises nothing because a server is away."""
        if not self.away:
            try:
                return super().fetch(image_ids)
            except CrossMediaError as error:
                self._failed(error)
        return self._spare(image_ids)

    def close(self, connections: bool = True) -> None:
        """Stop asking whether it is back, and give up the connections, unless another one uses them."""
        self._stop.set()
        if connections:
            self.source.close()

    def _failed(self, error: CrossMediaError) -> None:
        kind = type(error).__name__
        if self._sparingly.allows(kind):
            log.warning("scoring without the image server: %s: %s", kind, error)
        with self._lock:
            self.failures[kind] = self.failures.get(kind, 0) + 1
            if not isinstance(error, ServerUnavailable | DeadlineExceeded):
                return
            self.away |= isinstance(error, ServerUnavailable)  # one deadline may be over for the sake of one photo
            if not self._asking:
                self._asking = True
                threading.Thread(target=self._ask_until_back, name="vectors", daemon=True).start()

    def _ask_until_back(self) -> None:
        while not self._stop.is_set():
            try:
                self.source.info(timeout_s=ASK_AGAIN_S)
                break
            except CrossMediaError:
                self.away = True
            self._stop.wait(ASK_AGAIN_S)
        with self._lock:
            was_away, self.away, self._asking = self.away, False, False
        if was_away:
            log.info("the image server answers again")

    def _spare(self, image_ids: Int64Array) -> Vectors:
        kept = self.source.cached(image_ids)
        status = kept.status.copy()
        status[is_ok(kept.status)], status[kept.status == Status.FAILED] = CACHED, AWAY
        return SpareVectors(kept.values.astype(np.float32), status, self.version, kept.generation)
