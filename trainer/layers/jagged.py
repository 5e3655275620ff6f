"""Sums, means, maxima and softmax over rows of uneven length, without padding."""

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
    counts = segment_sum(torch.ones_like(segments, dtype=values.dtype), segments, rows).clamp(min=1)
    return segment_sum(values, segments, rows) / counts.view(-1, *[1] * (values.dim() - 1))


def segment_max(values: Tensor, segments: Tensor, rows: int) -> Tensor:
    """Maximum of ``values`` a segment and number, shape (rows, …); an empty segment is zeros."""
    out = torch.zeros((rows, *values.shape[1:]), dtype=values.dtype, device=values.device)
    places = segments.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    return out.scatter_reduce(0, places, values, "amax", include_self=False)


def segment_softmax(values: Tensor, segments: Tensor, rows: int) -> Tensor:
    """Softmax of ``values``, shape (N,), within each segment: shape (N,)."""
    # The maximum moves no gradient: softmax is the same for any shift.
    top = segment_max(values.detach(), segments, rows)
    exps = torch.exp(values - top.index_select(0, segments))
    return exps / segment_sum(exps, segments, rows).index_select(0, segments)
