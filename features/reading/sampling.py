"""Keep fewer negatives: a share of the rows whose label is 0, drawn again each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch, BatchImages, Int64Array, Jagged


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
            yield take_rows(batch, np.flatnonzero(stays))


def take_rows(batch: Batch, rows: Int64Array) -> Batch:
    """Some rows of a batch, in the order of ``rows``, shape (n,), without the images that none of them refers to."""
    first = next(iter(batch.history.values()), None)
    entries = _entries(first, rows) if first is not None else np.zeros(0, dtype=np.int64)
    images = None
    if batch.images is not None:
        target, history = batch.images.target[rows], batch.images.history.values[entries]
        used = np.zeros(len(batch.images.unique) + 1, dtype=np.int64)  # last: the null image, which is index -1
        used[target], used[history] = 1, 1
        kept = np.flatnonzero(used[:-1])
        place = np.append(np.cumsum(used[:-1]) - 1, -1)
        images = BatchImages(
            batch.images.unique[kept],
            batch.images.unique_index[kept],
            place[target],
            Jagged(place[history], _offsets(batch.images.history, rows)),
        )
    return Batch(
        labels={name: values[rows] for name, values in batch.labels.items()},
        timestamp=batch.timestamp[rows],
        ids={name: values[rows] for name, values in batch.ids.items()},
        history={
            name: Jagged(jagged.values[entries], _offsets(jagged, rows)) for name, jagged in batch.history.items()
        },
        history_age_s=batch.history_age_s[entries],
        text={
            name: Jagged(jagged.values[_entries(jagged, rows)], _offsets(jagged, rows))
            for name, jagged in batch.text.items()
        },
        images=images,
    )


def _offsets(jagged: Jagged, rows: Int64Array) -> Int64Array:
    return np.concatenate([[0], np.cumsum(jagged.lengths[rows])]).astype(np.int64)


def _entries(jagged: Jagged, rows: Int64Array) -> Int64Array:
    """Positions of the entries of some rows, row after row."""
    offsets = _offsets(jagged, rows)
    return np.repeat(jagged.offsets[rows] - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])
