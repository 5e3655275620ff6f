"""How alike target and behaviours are in a space: what a ranker learns more from than from the vectors themselves.

Legend: B rows, N behaviours of the batch, A kinds of behaviours, T tiers, W numbers of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from crossmedia.trainer.layers.numbers import EMBEDDING_STD
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.tensors import ImageVectors, TensorBatch


def similarity(batch: TensorBatch, vectors: ImageVectors, space: str) -> tuple[Tensor, Tensor]:
    """Cosine of each behaviour's vector with that of its row's target; of several of an item, of their mean direction.

    Args:
        batch: whose items show the vectors.
        vectors: of the space.
        space: its name.

    Returns:
        cosine, shape (N,), 0 where a vector is missing on either side; there, shape (N,), whether none is.
    """
    directions = ImageVectors(normalize(vectors.values, dim=1), vectors.ok)
    mean, ok = mean_vectors(directions, batch.items.vectors[space], batch.items.count)
    unit = normalize(mean, dim=1)
    target = batch.target.index_select(0, batch.segments)
    there = ok.index_select(0, target) & ok.index_select(0, batch.history)
    cosine = (unit.index_select(0, target) * unit.index_select(0, batch.history)).sum(dim=1)
    return torch.where(there, cosine, 0.0), there


class SimTiers(nn.Module):
    """SimTier: a histogram of the cosines of a row, a kind of behaviour each, as log(1 + count) (arXiv 2407.19467).

    A cosine counts for the two tiers beside it, by how near it is to each, so that a head learns through the counts; a
    plain histogram would have no gradient. A linear layer brings the counts to the scale of embeddings.

    Args:
        actions: A, kinds of behaviours.
        tiers: T, evenly spaced from -1 to 1.
        width: W, numbers that the model sees.
    """

    def __init__(self, actions: int, tiers: int, width: int):
        super().__init__()
        self.actions, self.tiers = max(actions, 1), tiers
        self.linear = nn.Linear(self.actions * tiers, width)
        nn.init.normal_(self.linear.weight, std=EMBEDDING_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, cosine: Tensor, there: Tensor, action: Tensor, batch: TensorBatch) -> Tensor:
        """What the histograms say, shape (B, W); the arguments are those of ``counts``."""
        found: Tensor = self.linear(self.counts(cosine, there, action, batch))
        return found

    def counts(self, cosine: Tensor, there: Tensor, action: Tensor, batch: TensorBatch) -> Tensor:
        """Log counts, shape (B, A T).

        Args:
            cosine: shape (N,).
            there: shape (N,), which of them count.
            action: shape (N,), the kind of each behaviour.
            batch: whose rows they belong to.
        """
        place = (cosine.clamp(-1, 1) + 1) * ((self.tiers - 1) / 2)
        low = place.detach().floor().long().clamp(max=self.tiers - 2)
        share = place - low
        first = (batch.segments * self.actions + action) * self.tiers + low
        counts = cosine.new_zeros(batch.rows * self.actions * self.tiers)
        counts = counts.index_add(0, first, torch.where(there, 1 - share, 0.0))
        counts = counts.index_add(0, first + 1, torch.where(there, share, 0.0))
        return torch.log1p(counts).view(batch.rows, self.actions * self.tiers)
