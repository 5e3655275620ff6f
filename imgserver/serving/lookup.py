"""Rows of a version by image id: from its table, from what is known to fail, and from the CNN for the rest."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.serving.known_failures import KnownFailures
from crossmedia.imgserver.serving.misses import Misses
from crossmedia.imgserver.serving.open_versions import OpenVersion
from crossmedia.imgserver.storage.records import Ids
from crossmedia.logs import Sparingly
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller
from crossmedia.status import DAMAGED, PERMANENT, Status, is_ok
from crossmedia.v1 import image_server_pb2 as pb

Values = npt.NDArray[Any]
Statuses = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)
_sparingly = Sparingly()


class Lookup:
    """Looks ids up, and counts how.

    Args:
        misses: computes what no table holds.
        known_failures: failures that are believed for a while.
        admission: counts the calls that wait for images.
    """

    def __init__(self, misses: Misses, known_failures: KnownFailures, admission: Admission):
        self._misses, self._known_failures, self._admission = misses, known_failures, admission
        self.counts = {"hit": 0, "negative": 0, "miss": 0}
        self._lock = threading.Lock()

    def rows(self, serving: OpenVersion, ids: Ids, caller: Caller) -> tuple[Values, Statuses, int]:
        """Rows of a version as stored, shape (n, dim), their status, and how many had to be computed first.

        Args:
            serving: the version.
            ids: shape (n,).
            caller: who waits, until when.

        Raises:
            Overloaded: too many images, or calls for them, wait for the CNN.
        """
        values, status = serving.table.get(ids)
        if is_ok(status).all():
            self._count(len(ids), 0, 0)
            return values, status, 0
        return values, status, self._fill(serving, ids, values, status, caller)

    def told(self) -> pb.Counters:
        """What it looked up and had computed, since the server started."""
        computed = self._misses.counters
        return pb.Counters(
            ids_requested=sum(self.counts.values()),
            ids_from_table=self.counts["hit"],
            computed_on_demand=computed.computed,
            cnn_passes_on_demand=computed.cnn_passes,
            cnn_batches_on_demand=computed.cnn_batches,
            failed_on_demand=sum(computed.failed.values()),
            images_pending=self._misses.waiting,
        )

    def _count(self, hits: int, negative: int, missed: int) -> None:
        with self._lock:
            self.counts["hit"] += hits
            self.counts["negative"] += negative
            self.counts["miss"] += missed

    def _fill(self, serving: OpenVersion, ids: Ids, values: Values, status: Statuses, caller: Caller) -> int:
        """Compute the rows that have no vector, in place; return how many ids got one.

        A failure that is remembered stands as it is. One that the store knows from earlier is looked at again, once in
        a while, for the photo may have been replaced. What is damaged in the store is made anew from its feature or its
        photo, and FAILED where neither is to be had.
        """
        damaged = status == DAMAGED
        if damaged.any():
            status[damaged] = Status.FAILED
            _warn(serving.version, ids[damaged])
        failed = np.flatnonzero(~is_ok(status))
        remembered = self._known_failures.get(ids[failed])
        status[failed] = np.where(remembered, remembered, status[failed])
        todo = failed[remembered == 0]
        self._count(len(ids) - len(failed), len(failed) - len(todo), len(todo))
        if not len(todo):
            return 0
        if self._misses.photos.catalogue is None or serving.maker is None:
            status[todo] = np.where(status[todo], status[todo], Status.NOT_FOUND)
            todo = todo[damaged[todo]] if serving.maker is not None else todo[:0]
            if serving.maker is None or not len(todo):
                return 0
        unique, inverse = np.unique(ids[todo], return_inverse=True)
        with self._admission.held(Cost(slow=1), caller):
            fresh, outcome = self._misses.resolve(serving.maker, unique, caller)
        # The photo has gone, and there was a vector: that is no image that nobody knows.
        outcome[np.isin(unique, ids[damaged]) & (outcome == Status.NOT_FOUND)] = Status.FAILED
        permanent = np.isin(outcome, PERMANENT)
        self._known_failures.put(unique[permanent], outcome[permanent])
        values[todo] = fresh[inverse]
        status[todo] = outcome[inverse]
        return int(is_ok(outcome).sum())


def _warn(version: str, ids: Ids) -> None:
    if _sparingly.allows("damage"):
        log.error(
            "%d vectors of %s are damaged in the store, such as that of id %d; 'imgserver doctor --full' says more",
            *(len(ids), version, ids[0]),
        )
