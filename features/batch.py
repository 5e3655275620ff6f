"""What a batch of samples is: numpy arrays, lists of uneven length kept as values and offsets.

Legend: B rows of the batch, N all history entries of the batch together, K unique image ids of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NULL_IMAGE = -1

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Jagged:
    """Rows of uneven length, without padding: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        values: shape (N,), all entries, row after row.
        offsets: shape (B + 1,), int64, starts at 0 and ends at N.
    """

    values: Int64Array
    offsets: Int64Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64Array:
        """Entries of each row, shape (B,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class BatchImages:
    """The images that a batch refers to, each once.

    An index points into ``unique``; ``NULL_IMAGE`` (-1) where the row has no image, so that columns stay aligned.

    Attributes:
        unique: shape (K,), image ids, ascending, without the null image.
        unique_index: shape (K,), the id's place in the image vocabulary (0 when it is not in there): the sparse
            ``image_id`` feature, so that an id-only baseline knows the same image ids as a model with vectors.
        target: shape (B,), index into ``unique`` of the impression's own image.
        history: index into ``unique`` of each behaviour's image; same offsets as every other history column.
    """

    unique: Int64Array
    unique_index: Int64Array
    target: Int64Array
    history: Jagged


@dataclass(frozen=True)
class Batch:
    """One batch of samples.

    All history columns share one ``offsets`` array. Ids are places in the vocabulary (0: unknown or null).

    Attributes:
        labels: label name -> shape (B,), float32, 0 or 1; the first name is the label that is trained.
        timestamp: shape (B,), int64, seconds.
        ids: column name (``user_id, item_id, …``) -> shape (B,), int64.
        history: column name without ``hist_`` (``item_id, cate_id, …, action``) -> Jagged, oldest first. ``action``
            is a place in the vocabulary of behaviours, too.
        history_age_s: shape (N,), int64, seconds between the behaviour and the impression, always >= 1.
        text: text column name -> Jagged of token ids (0: unknown token).
        images: the images of the batch, or None when the samples have none.
    """

    labels: dict[str, Float32Array]
    timestamp: Int64Array
    ids: dict[str, Int64Array]
    history: dict[str, Jagged]
    history_age_s: Int64Array
    text: dict[str, Jagged]
    images: BatchImages | None

    def __len__(self) -> int:
        return len(self.timestamp)
