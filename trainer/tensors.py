"""Batches as tensors, on the device that trains.

Legend: B rows, N history entries of the batch together, K unique images, D numbers in a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossmedia.features.batch import Batch, Jagged


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
    """Copy a batch to ``device``."""

    def tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)

    def rows(jagged: Jagged) -> Tensor:
        return tensor(np.repeat(np.arange(len(jagged)), jagged.lengths))

    first = next(iter(batch.history.values()), None)
    lengths = first.lengths if first is not None else np.zeros(len(batch), dtype=np.int64)
    age = np.log2(np.maximum(batch.history_age_s, 1)).astype(np.int64) + 1
    images = None
    if batch.images is not None:
        found = batch.images
        images = TensorImages(tensor(found.unique_index), tensor(found.target), tensor(found.history.values))
    return TensorBatch(
        labels={name: tensor(values) for name, values in batch.labels.items()},
        ids={name: tensor(values) for name, values in batch.ids.items()},
        history={name: tensor(jagged.values) for name, jagged in batch.history.items()},
        history_age=tensor(np.minimum(age, AGE_BUCKETS - 1)),
        segments=tensor(np.repeat(np.arange(len(batch)), lengths)),
        lengths=tensor(lengths),
        text={name: (tensor(jagged.values), rows(jagged)) for name, jagged in batch.text.items()},
        images=images,
    )
