"""Keep fewer negatives: a share of the rows whose label is 0, drawn again each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch


def keep_negatives(batches: Iterable[Batch], label: str, rate: float, seed: int, epoch: int) -> Iterator[Batch]:
    """Each batch without a part of its negatives; a batch that has no row left is left out.

    Args:
        batches: what to draw from.
        label: a row is a negative when this label is 0.
        rate: share of the negatives that stay, above 0; 1 keeps every row.
        seed: with ``epoch``, draws.
        epoch: another draw.

    Raises:
        BadInput: the rate is no share above 0.
    """
    if not 0 < rate <= 1:
        raise BadInput(f"The share of negatives to keep is {rate}; it must be above 0 and at most 1.")
    if rate == 1:
        yield from batches
        return
    rng = np.random.default_rng([seed, epoch])
    for batch in batches:
        stays = (batch.labels[label] > 0) | (rng.random(len(batch)) < rate)
        if stays.any():
            yield batch.take(np.flatnonzero(stays))
