"""From the image vectors of the behaviours to one vector a row (Image Matters, arXiv 1711.06505, section 5).

Legend: B rows, N history entries, W numbers an image, Q numbers of the target's ids.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from crossmedia.trainer.layers.jagged import segment_max, segment_sum


class Aggregator(Protocol):
    """What an aggregator offers: numbers it makes a row, and ``forward``."""

    width: int

    def __call__(self, images: Tensor, target_image: Tensor, target_ids: Tensor, segments: Tensor) -> Tensor:
        """Images (N, W), the target's image (B, W) and ids (B, Q), rows of the images (N,); shape (B, ``width``)."""
        ...


class ConcatAggregator(nn.Module):
    """The latest images side by side, the latest first, zeros where there are fewer.

    Args:
        width: W.
        slots: how many.
    """

    def __init__(self, width: int, slots: int):
        super().__init__()
        self.slots, self.width = slots, width * slots

    def forward(self, images: Tensor, target_image: Tensor, target_ids: Tensor, segments: Tensor) -> Tensor:
        """As ``Aggregator``."""
        rows, w = target_image.shape[0], images.shape[1]
        ends = torch.cumsum(segment_sum(torch.ones_like(segments), segments, rows), 0)
        back = ends.index_select(0, segments) - 1 - torch.arange(segments.shape[0], device=segments.device)
        slot = torch.where(back < self.slots, segments * self.slots + back, rows * self.slots)  # the last: let go
        out = images.new_zeros(rows * self.slots + 1, w).index_add_(0, slot, images)
        return out[:-1].view(rows, self.slots * w)


class MaxAggregator(nn.Module):
    """The largest of each number."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, images: Tensor, target_image: Tensor, target_ids: Tensor, segments: Tensor) -> Tensor:
        """As ``Aggregator``."""
        return segment_max(images, segments, target_image.shape[0])


class SumAggregator(nn.Module):
    """The sum of each number."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, images: Tensor, target_image: Tensor, target_ids: Tensor, segments: Tensor) -> Tensor:
        """As ``Aggregator``."""
        return segment_sum(images, segments, target_image.shape[0])


class AttentiveAggregator(nn.Module):
    """The sum of the images, each weighted by a net of it and a query: w = MLP 64-16-1 ([e_i, q]), no softmax.

    The first layer is computed in parts, the query's once a row.

    Args:
        width: W.
        query: numbers of the query.
    """

    def __init__(self, width: int, query: int):
        super().__init__()
        self.width = width
        self.of_image, self.of_query = nn.Linear(width, 64, bias=False), nn.Linear(query, 64)
        self.rest = nn.Sequential(nn.PReLU(), nn.Linear(64, 16), nn.PReLU(), nn.Linear(16, 1))

    def attend(self, images: Tensor, query: Tensor, segments: Tensor) -> Tensor:
        """Weighted sums, shape (B, W), for queries (B, query)."""
        hidden = self.of_image(images) + self.of_query(query).index_select(0, segments)
        return segment_sum(images * self.rest(hidden), segments, query.shape[0])

    def forward(self, images: Tensor, target_image: Tensor, target_ids: Tensor, segments: Tensor) -> Tensor:
        """As ``Aggregator``, the target's image being the query."""
        return self.attend(images, target_image, segments)


class MultiQueryAttentiveAggregator(nn.Module):
    """Two attentive channels side by side, one asked by the target's image, one by its ids."""

    def __init__(self, width: int, ids: int):
        super().__init__()
        self.by_image, self.by_ids = AttentiveAggregator(width, width), AttentiveAggregator(width, ids)
        self.width = 2 * width

    def forward(self, images: Tensor, target_image: Tensor, target_ids: Tensor, segments: Tensor) -> Tensor:
        """As ``Aggregator``."""
        channels = [self.by_image.attend(images, target_image, segments)]
        channels.append(self.by_ids.attend(images, target_ids, segments))
        return torch.cat(channels, dim=1)
