"""Samples as padded arrays, the form in which both libraries take them.

Every place of a vocabulary is moved up by one, so that 0 is padding and nothing else: both libraries mask zeros. What
is unknown or null, our place 0, becomes 1 and has an embedding, as with us. A behaviour is its item's ids, its image's
place, its kind and its age; the target gets place 0 of the latter two, as in our models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from crossmedia.features.batch import Batch, Int64Array, Jagged, VectorKeys
from crossmedia.features.reading.samples import Samples
from crossmedia.features.splits import SPLITS

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]

READ = 16_384  # rows at a time
ACTION, AGE, IMAGE = "action", "age", "image_id"
AGE_BUCKETS = 32  # as trainer/tensors.py


@dataclass(frozen=True)
class Columns:
    """What there is, with the size of each vocabulary, padding included.

    Attributes:
        item: columns that the target and a behaviour share: ids, image, kind, age; without behaviours ids and image.
        user: the other id columns.
        text: token columns of the target.
        text_widths: W of each.
        history: T; 0 when there are no behaviours.
    """

    item: dict[str, int]
    user: dict[str, int]
    text: dict[str, int]
    text_widths: dict[str, int]
    history: int

    @classmethod
    def of(cls, samples: Samples) -> Columns:
        """The columns of a folder of samples, as wide as the widest row of all splits."""
        user = {name: size + 1 for name, size in samples.row_ids.items()}
        item = {name: size + 1 for name, size in samples.item_ids.items()}
        if samples.image_vocabulary_size:
            item[IMAGE] = samples.image_vocabulary_size + 1
        if samples.actions:
            item |= {ACTION: samples.actions + 1, AGE: AGE_BUCKETS + 1}
        return cls(
            item,
            user,
            {name: size + 1 for name, size in samples.text_columns.items()},
            {name: max(_longest(samples, name), 1) for name in samples.text_columns},
            _longest(samples, "hist_item_id") if samples.actions else 0,
        )


@dataclass(frozen=True)
class Arrays:
    """Rows of samples; every list starts at the left, the oldest behaviour first, and ends in zeros.

    Attributes:
        labels: shape (R,), the label that is trained.
        target: column of ``Columns.item`` -> shape (R,).
        history: the same -> shape (R, T).
        lengths: shape (R,), behaviours of each row.
        user: column -> shape (R,).
        text: column -> shape (R, W).
    """

    labels: Float32Array
    target: dict[str, Int32Array]
    history: dict[str, Int32Array]
    lengths: Int32Array
    user: dict[str, Int32Array]
    text: dict[str, Int32Array]

    def __len__(self) -> int:
        return len(self.labels)


def read(samples: Samples, columns: Columns, split: str) -> Arrays:
    """A whole split in the order of the file."""
    return _joined([to_arrays(batch, samples, columns) for batch in samples.batches(split, READ)])


def read_steps(samples: Samples, columns: Columns, steps: int, batch_size: int, seed: int) -> Arrays:
    """The training rows of our trainer's first steps: those of its first epoch, in the order that the seed draws."""
    batches = islice(samples.batches("train", batch_size, shuffle_seed=seed, epoch=0), steps)
    return _joined([to_arrays(batch, samples, columns) for batch in batches])


def to_arrays(batch: Batch, samples: Samples, columns: Columns) -> Arrays:
    """Pad one batch."""
    rows, none = len(batch), np.ones(len(batch), dtype=np.int32)  # 1: place 0 of our vocabularies
    of_items = dict(batch.items.ids)
    if IMAGE in columns.item:
        of_items[IMAGE] = _first_images(batch.items.vectors["image"])
    target = {name: _up(places[batch.target]) for name, places in of_items.items()}
    jagged = {name: Jagged(places[batch.history.values], batch.history.offsets) for name, places in of_items.items()}
    lengths = np.zeros(rows, dtype=np.int32)
    if columns.history:
        offsets = batch.history.offsets
        jagged[ACTION] = Jagged(batch.action, offsets)
        age = np.log2(np.maximum(batch.history_age_s, 1)).astype(np.int64) + 1
        jagged[AGE] = Jagged(np.minimum(age, AGE_BUCKETS - 1), offsets)
        target |= {ACTION: none, AGE: none}
        lengths = np.minimum(np.diff(offsets), columns.history).astype(np.int32)
    return Arrays(
        batch.labels[samples.labels[0]],
        {name: target[name] for name in columns.item},
        {name: _padded(jagged[name], columns.history) for name in columns.item if columns.history},
        lengths,
        {name: _up(batch.ids[name]) for name in columns.user},
        {name: _padded(batch.items.text[name].take(batch.target), columns.text_widths[name]) for name in columns.text},
    )


def _first_images(keys: VectorKeys) -> Int64Array:
    """The place of each item's first image; 0 where it has none."""
    places, there = np.zeros(len(keys.of_items), dtype=np.int64), keys.of_items.lengths > 0
    places[there] = keys.unique_index[keys.of_items.values[keys.of_items.offsets[:-1][there]]]
    return places


def _up(places: Int64Array) -> Int32Array:
    return (places + 1).astype(np.int32)


def _padded(jagged: Jagged, width: int) -> Int32Array:
    """Shape (B, width); a longer row keeps its last entries, which are the most recent."""
    lengths = np.minimum(jagged.lengths, width)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out = np.zeros((len(lengths), width), dtype=np.int32)
    out[rows, places] = jagged.values[np.repeat(jagged.offsets[1:] - lengths, lengths) + places] + 1
    return out


def _longest(samples: Samples, column: str) -> int:
    tables = (table for split in SPLITS for table in samples.frames(split, [column]))
    return max((pc.max(pc.list_value_length(table[column])).as_py() or 0 for table in tables), default=0)


def _joined(parts: list[Arrays]) -> Arrays:
    def join(found: Iterable[dict[str, Int32Array]]) -> dict[str, Int32Array]:
        several = list(found)
        return {name: np.concatenate([one[name] for one in several]) for name in several[0]}

    return Arrays(
        np.concatenate([part.labels for part in parts]),
        join(part.target for part in parts),
        join(part.history for part in parts),
        np.concatenate([part.lengths for part in parts]),
        join(part.user for part in parts),
        join(part.text for part in parts),
    )
