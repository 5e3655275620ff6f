"""Batches as tensors, on the device that trains.

Legend: B rows, N history entries of the batch together, K unique images, D numbers in a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossmedia.features.batch import Batch
from crossmedia.trainer.one_copy import copied


@dataclass(frozen=True)
class TensorImages:
    """``BatchImages`` as tensors: ``unique_index`` (K,), ``target`` (B,), ``history`` (N,); -1 is no image."""

    unique_index: Tensor
    target: Tensor
    history: Tensor


@dataclass(frozen=True)
class ImageVectors:
    """Vectors of a batch's unique images: ``values`` (K, D) fp32, zeros where missing, and ``ok`` (K,) bool."""

    values: Tensor
    ok: Tensor


@dataclass(frozen=True)
class TensorBatch:
    """``Batch`` as tensors.

    Attributes:
        labels: name -> (B,) fp32.
        ids: column -> (B,) int64.
        history: column -> (N,) int64, all columns aligned.
        history_age: (N,) int64, 1 + floor(log2(age in seconds)), below ``AGE_BUCKETS``.
        segments: (N,) int64, the row that each history entry belongs to.
        lengths: (B,) int64, history entries of each row.
        text: column -> (token values, their rows), each of one length.
        images: None when the samples have none.
    """

    labels: dict[str, Tensor]
    ids: dict[str, Tensor]
    history: dict[str, Tensor]
    history_age: Tensor
    segments: Tensor
    lengths: Tensor
    text: dict[str, tuple[Tensor, Tensor]]
    images: TensorImages | None

    @property
    def rows(self) -> int:
        """B; of a traced batch a symbol, which ``len`` could not give."""
        return self.lengths.shape[0]


AGE_BUCKETS = 32


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    """Copy a batch to ``device``, all of it at once."""
    first = next(iter(batch.history.values()), None)
    lengths = first.lengths if first is not None else np.zeros(len(batch), dtype=np.int64)
    age = np.log2(np.maximum(batch.history_age_s, 1)).astype(np.int64) + 1
    arrays = [
        np.minimum(age, AGE_BUCKETS - 1),
        np.repeat(np.arange(len(batch)), lengths),
        lengths,
        *batch.labels.values(),
        *batch.ids.values(),
        *(jagged.values for jagged in batch.history.values()),
        *(jagged.values for jagged in batch.text.values()),
        *(np.repeat(np.arange(len(jagged)), jagged.lengths) for jagged in batch.text.values()),
    ]
    if batch.images is not None:
        arrays += [batch.images.unique_index, batch.images.target, batch.images.history.values]
    found = iter(copied(arrays, device))
    return TensorBatch(
        history_age=next(found),
        segments=next(found),
        lengths=next(found),
        labels={name: next(found) for name in batch.labels},
        ids={name: next(found) for name in batch.ids},
        history={name: next(found) for name in batch.history},
        text=dict(zip(batch.text, _pairs(found, len(batch.text)), strict=True)),
        images=None if batch.images is None else TensorImages(next(found), next(found), next(found)),
    )


def _pairs(found: Iterator[Tensor], n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The next ``n`` tensors, each with the one that stands ``n`` places behind it."""
    return zip([next(found) for _ in range(n)], [next(found) for _ in range(n)], strict=True)
