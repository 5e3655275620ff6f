"""What a model says of one request's candidates: scores, what they rest on, and reasons.

Legend: n candidates, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import NO_ROW, Batch
from crossmedia.imgserver.client import Vectors
from crossmedia.status import UNKNOWN_ITEM, Status
from crossmedia.trainer.reasons.explained import Explained

_NOT_FOUND = int(Status.NOT_FOUND)


@dataclass(frozen=True)
class Answer:
    """Scores of one request's candidates.

    Attributes:
        probabilities: shape (n, L).
        status: shape (n,), uint8, what there was of each candidate: the highest ``Status`` of its vectors; or CACHED or
            AWAY of ``crossmedia/status.py``, where an image server could not be asked; or UNKNOWN_ITEM.
        explained: reasons; None: none were asked for.
    """

    probabilities: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    explained: Explained | None = None


def statuses(batch: Batch, fetched: Mapping[str, Vectors | None], looked_up: bool) -> npt.NDArray[np.uint8]:
    """What there was of each candidate, shape (n,): the highest status of its vectors.

    NOT_FOUND, where an item has no image; UNKNOWN_ITEM, where it is not in the table in which it was looked up.

    Args:
        batch: of the request.
        fetched: what there was under the keys of each space.
        looked_up: whether candidates were named by their ids alone, and looked up in a table.
    """
    n = len(batch)
    worst = np.full(n, int(Status.OK), dtype=np.uint8)
    for space, found in fetched.items():
        if found is None:
            continue
        of_items = batch.items.vectors[space].of_items
        lengths = of_items.lengths[:n]
        entries = of_items.values[: of_items.offsets[n]]
        np.maximum.at(worst, np.repeat(np.arange(n), lengths), found.status[entries])
        np.maximum(worst, _NOT_FOUND, out=worst, where=lengths == 0)
    if looked_up:
        worst[batch.items.rows[:n] == NO_ROW] = UNKNOWN_ITEM
    return worst
