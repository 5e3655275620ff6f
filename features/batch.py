"""Batches of samples: numpy arrays, where lists of uneven length are values and offsets.

Legend: B rows of the batch, N all history entries of the batch together, K unique image ids of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.keys import NULL_IMAGE

__all__ = ["NULL_IMAGE", "Batch", "BatchImages", "Float32Array", "Int64Array", "Jagged", "concatenate"]

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
        """Number of entries of each row, shape (B,)."""
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


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of several of the same samples, in order; one alone is returned as it is."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    return Batch(
        labels={name: np.concatenate([b.labels[name] for b in batches]) for name in first.labels},
        timestamp=np.concatenate([b.timestamp for b in batches]),
        ids={name: np.concatenate([b.ids[name] for b in batches]) for name in first.ids},
        history={name: _join([b.history[name] for b in batches]) for name in first.history},
        history_age_s=np.concatenate([b.history_age_s for b in batches]),
        text={name: _join([b.text[name] for b in batches]) for name in first.text},
        images=_join_images([b.images for b in batches if b.images is not None]),
    )


def _join(parts: Sequence[Jagged]) -> Jagged:
    lengths = np.concatenate([part.lengths for part in parts])
    return Jagged(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))


def _join_images(parts: Sequence[BatchImages]) -> BatchImages | None:
    if not parts:
        return None
    unique, first, index = np.unique(
        np.concatenate([part.unique for part in parts]), return_index=True, return_inverse=True
    )
    moved, start = [], 0
    for part in parts:
        # Where each image of the part is now; the last entry is found by NULL_IMAGE.
        moved.append(np.append(index[start : start + len(part.unique)], NULL_IMAGE))
        start += len(part.unique)
    history = [Jagged(to[part.history.values], part.history.offsets) for to, part in zip(moved, parts, strict=True)]
    return BatchImages(
        unique=unique,
        unique_index=np.concatenate([part.unique_index for part in parts])[first],
        target=np.concatenate([to[part.target] for to, part in zip(moved, parts, strict=True)]),
        history=_join(history),
    )
