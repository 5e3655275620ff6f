"""Vectors of one space as what a model sees of items: projected, and of several images of an item one vector.

Legend: B rows, N behaviours, U items, K vectors of the space, D numbers of a vector, W numbers that the model sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.jagged import segment_max, segment_softmax, segment_sum
from crossmedia.trainer.layers.numbers import EMBEDDING_STD
from crossmedia.trainer.tensors import Bag, ImageVectors, TensorBatch

MEAN, MAX, ATTENTION = "mean", "max", "attention"
POOLINGS = (MEAN, MAX, ATTENTION)
HIDDEN = -1e30  # of a logit: nothing is left of it behind a softmax


def mean_vectors(vectors: ImageVectors, of_items: Bag, items: int) -> tuple[Tensor, Tensor]:
    """The mean of the vectors that each item has, shape (U, D), zeros where it has none; and whether it has, (U,)."""
    total, count = _totals(vectors.values, vectors.ok, of_items, items)
    return total / count.clamp(min=1)[:, None], count > 0


def _totals(rows: Tensor, ok: Tensor, lists: Bag, count: int) -> tuple[Tensor, Tensor]:
    """Sums over the rows of each list that are ok, and how many these are."""
    there = ok.index_select(0, lists.values).to(rows.dtype)
    total = segment_sum(rows.index_select(0, lists.values) * there[:, None], lists.owners, count)
    return total, segment_sum(there, lists.owners, count)


class SpaceInput(nn.Module):
    """Vectors of a space to the width of the model; an item without any is a learned vector of its own.

    It begins at the scale of embeddings, for vectors of mean square 1: at PyTorch's own, thirty times as large, images
    drown the ids at first, and the model never quite recovers.

    Several vectors of an item are pooled by ``mean``, ``max``, or ``attention``: weighted by a softmax of q . e, where
    e is the projected vector, and the query q is linear in what the target of the row is, its ids and the mean of its
    own vectors; both are brought to one scale, for they begin too small to ask with. It begins as the mean. Vectors
    that are missing do not count.

    Args:
        dim: D.
        width: W.
        pooling: one of ``POOLINGS``.
        ids: numbers of a target's ids, which ask for the vectors by attention.

    Raises:
        BadInput: there is no such pooling.
    """

    def __init__(self, dim: int, width: int, pooling: str = MEAN, ids: int = 0):
        super().__init__()
        if pooling not in POOLINGS:
            raise BadInput(f"There is no pooling {pooling!r}; there are: {', '.join(POOLINGS)}.")
        self.pooling = pooling
        self.linear = nn.Linear(dim, width)
        nn.init.normal_(self.linear.weight, std=EMBEDDING_STD / dim**0.5)
        nn.init.zeros_(self.linear.bias)
        self.missing = nn.Parameter(torch.zeros(width))
        self.query = nn.Linear(ids + width, width) if pooling == ATTENTION else None
        if self.query is not None:
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.query.bias)

    def forward(self, vectors: ImageVectors, batch: TensorBatch, space: str, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What targets show, shape (B, W), and behaviours, shape (N, W).

        Args:
            vectors: of the space.
            batch: whose items show them.
            space: its name.
            ids: shape (B, ids), of the targets.
        """
        rows = self.linear(vectors.values)
        if self.query is None:
            of_items = self._pooled(rows, vectors.ok, batch.items.vectors[space], batch.items.count)
            return of_items.index_select(0, batch.target), of_items.index_select(0, batch.history)
        of_target, of_history = batch.shown(space)
        asked = self._asked(rows, vectors.ok, of_target, ids)
        weights = attention_weights(rows, vectors.ok, of_target, asked)
        asked_by = asked.index_select(0, batch.segments)
        of_behaviours = attention_weights(rows, vectors.ok, of_history, asked_by)
        history = self._weighted(rows, of_history, of_behaviours, batch.history.shape[0])
        return self._weighted(rows, of_target, weights, batch.rows), history

    def target_weights(self, vectors: ImageVectors, batch: TensorBatch, space: str, ids: Tensor) -> tuple[Bag, Tensor]:
        """Which vectors each target shows, and the weight of each in what the model sees; for ``attention`` alone."""
        rows, (of_target, _) = self.linear(vectors.values), batch.shown(space)
        asked = self._asked(rows, vectors.ok, of_target, ids)
        return of_target, attention_weights(rows, vectors.ok, of_target, asked)

    def _asked(self, rows: Tensor, ok: Tensor, of_target: Bag, ids: Tensor) -> Tensor:
        """The query of each row, shape (B, W)."""
        assert self.query is not None
        own = self._mean(rows, ok, of_target, ids.shape[0])
        target = torch.cat([ids, own], dim=1)
        found: Tensor = self.query(layer_norm(target, target.shape[1:])) / rows.shape[1] ** 0.5
        return found

    def _pooled(self, rows: Tensor, ok: Tensor, lists: Bag, count: int) -> Tensor:
        if self.pooling == MEAN:
            return self._mean(rows, ok, lists, count)
        there = ok.index_select(0, lists.values)
        top = segment_max(rows.index_select(0, lists.values).masked_fill(~there[:, None], HIDDEN), lists.owners, count)
        known = segment_sum(there.to(rows.dtype), lists.owners, count) > 0
        return torch.where(known[:, None], top, self.missing)

    def _mean(self, rows: Tensor, ok: Tensor, lists: Bag, count: int) -> Tensor:
        total, found = _totals(rows, ok, lists, count)
        return torch.where((found > 0)[:, None], total / found.clamp(min=1)[:, None], self.missing)

    def _weighted(self, rows: Tensor, lists: Bag, weights: Tensor, count: int) -> Tensor:
        total = segment_sum(rows.index_select(0, lists.values) * weights[:, None], lists.owners, count)
        known = segment_sum(weights, lists.owners, count) > 0
        return torch.where(known[:, None], total, self.missing)


def attention_weights(rows: Tensor, ok: Tensor, lists: Bag, asked: Tensor) -> Tensor:
    """A softmax of asked . row, at one scale, over the rows of each list that are ok, shape (n,); 0 for the others.

    Args:
        rows: shape (K, W).
        ok: shape (K,).
        lists: of indices of rows, n in all.
        asked: shape (lists, W).
    """
    there = ok.index_select(0, lists.values)
    scaled = layer_norm(rows, rows.shape[1:])
    logits = (scaled.index_select(0, lists.values) * asked.index_select(0, lists.owners)).sum(1)
    logits = logits.masked_fill(~there, HIDDEN)
    return segment_softmax(logits, lists.owners, asked.shape[0]) * there
