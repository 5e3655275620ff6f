"""Sums and means over rows of uneven length, without padding."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, segments: Tensor, rows: int) -> Tensor:
    """Sum of ``values``, shape (N, …), a segment: shape (rows, …); an empty segment is zeros.

    Args:
        values: shape (N, …).
        segments: shape (N,), the row of each entry.
        rows: B.
    """
    out = torch.zeros((rows, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return out.index_add_(0, segments, values)


def segment_mean(values: Tensor, segments: Tensor, rows: int) -> Tensor:
    """Mean of ``values`` a segment, shape (rows, …); an empty segment is zeros."""
    counts = torch.bincount(segments, minlength=rows).clamp(min=1)
    return segment_sum(values, segments, rows) / counts.view(-1, *[1] * (values.dim() - 1))
