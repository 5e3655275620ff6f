"""Layers of an additive model: each gives contributions to the logit, one a term, and nothing but their sum counts.

Legend: B rows, N behaviours of the batch, U items, K concepts (numbers of a vector), W numbers of an embedding, F
columns, L labels, T terms of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossmedia.trainer.layers.jagged import segment_sum
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.tensors import ImageVectors, TensorBatch

BIAS, ID, NUMBER, POPULARITY, MISSING, SELLS, TASTE, MATCH, SAME, PREFERENCE = (
    *("bias", "id", "number", "popularity", "missing", "sells", "taste", "match", "same", "preference"),
)
KINDS = (BIAS, ID, NUMBER, POPULARITY, MISSING, SELLS, TASTE, MATCH, SAME, PREFERENCE)


@dataclass(frozen=True)
class Term:
    """What a contribution is of.

    Attributes:
        kind: one of ``KINDS``: a column (``id``, ``number``) or ``popularity`` by itself; a concept of the ad's photo
            that sells to all (``sells``), or to some (``taste``), or that a behaviour's photo has as well (``match``);
            a column's ids that are like those of a behaviour (``same``); a photo that is ``missing``; what the user
            asked for (``preference``).
        column: of ids or numbers; of ``taste`` that of the user.
        space: of the vectors that the concept is a number of.
        place: of the concept in its vector; -1 for what is of none.
    """

    kind: str
    column: str = ""
    space: str = ""
    place: int = -1


class Weights(nn.Module):
    """What each behaviour counts, by its kind and age, a column or space each; 1 before training.

    2 sigmoid((a + g) k) lies between 0 and 2; a and g are the embeddings of kind and age. The history's length, to the
    power of ``-power``, is the same for all behaviours of a row.

    Args:
        width: W.
        count: columns and spaces, F.
        power: 0: behaviours add up; 1: their mean counts.
    """

    def __init__(self, width: int, count: int, power: float):
        super().__init__()
        self.power = power
        self.linear = nn.Linear(width, count, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, context: Tensor, batch: TensorBatch) -> Tensor:
        """Shape (N, F), of the embedded kind and age of each behaviour, shape (N, W)."""
        share = (batch.lengths.clamp(min=1).float() ** -self.power).index_select(0, batch.segments)
        found: Tensor = 2 * torch.sigmoid(self.linear(context)) * share[:, None]
        return found


class ConceptTerms(nn.Module):
    """What the concepts of one space add: what sells, to whom, and what the user's behaviours have in common with it.

    c(ad) w_c + sum over user columns of c(ad) <v_c, e(id)> + sum over behaviours t of m_c kappa_t c(ad) c(h_t). An item
    with several vectors has their mean; one without any has 0 of each concept, and a term of its own for that.

    Args:
        space: its name.
        dim: K.
        columns: of users, F.
        width: W.
        matches: whether there are behaviours.
        labels: L.
    """

    scale: Tensor

    def __init__(self, space: str, dim: int, columns: tuple[str, ...], width: int, matches: bool, labels: int):
        super().__init__()
        self.space, self.dim, self.columns = space, dim, columns
        self.sells = nn.Parameter(torch.zeros(dim, labels))
        self.missing = nn.Parameter(torch.zeros(labels))
        self.taste = nn.Parameter(torch.zeros(len(columns), width, dim, labels)) if columns else None
        self.match = nn.Parameter(torch.zeros(dim, labels)) if matches else None
        self.register_buffer("scale", torch.ones(dim))

    def concepts(self, batch: TensorBatch, vectors: ImageVectors) -> tuple[Tensor, Tensor]:
        """The concepts of each item, shape (U, K), and whether it has a vector, (U,)."""
        found, there = mean_vectors(vectors, batch.items.vectors[self.space], batch.items.count)
        return found * self.scale, there

    def terms(self) -> list[Term]:
        """What the contributions of ``forward`` are of, in their order."""
        places = range(self.dim)
        found = [Term(SELLS, space=self.space, place=place) for place in places]
        found += [Term(MISSING, space=self.space)]
        found += [Term(TASTE, column, self.space, place) for column in self.columns for place in places]
        return found + ([Term(MATCH, space=self.space, place=k) for k in places] if self.match is not None else [])

    def forward(self, batch: TensorBatch, vectors: ImageVectors, users: list[Tensor], weights: Tensor) -> Tensor:
        """Contributions, shape (B, T, L).

        Args:
            batch: the rows.
            vectors: of the space.
            users: of each user column the embeddings, shape (B, W).
            weights: of each behaviour, shape (N,).
        """
        of_items, there = self.concepts(batch, vectors)
        concepts = of_items.index_select(0, batch.target)[:, :, None]
        absent = (~there).to(concepts.dtype).index_select(0, batch.target)
        found = [concepts * self.sells, absent[:, None, None] * self.missing]
        if self.taste is not None:
            for user, taste in zip(users, self.taste, strict=True):
                found.append(concepts * (user @ taste.flatten(1)).view(batch.rows, *taste.shape[1:]))
        if self.match is not None:
            seen = of_items.index_select(0, batch.history) * weights[:, None]
            found.append(concepts * segment_sum(seen, batch.segments, batch.rows)[:, :, None] * self.match)
        return torch.cat(found, dim=1)

    def by_behaviour(self, batch: TensorBatch, vectors: ImageVectors, weights: Tensor) -> Tensor:
        """What each behaviour adds to the terms of kind ``match``, shape (N, K, L)."""
        assert self.match is not None
        of_items, _ = self.concepts(batch, vectors)
        target = batch.target.index_select(0, batch.segments)
        both = of_items.index_select(0, target) * of_items.index_select(0, batch.history) * weights[:, None]
        return both[:, :, None] * self.match


class SameIds(nn.Module):
    """Ids that are like those of the behaviours: of each column sum over t of <s, e(ad) e(h_t)> kappa_t.

    An item with a list of ids has the mean of their embeddings.

    Args:
        columns: of items, F.
        width: W.
        labels: L.
    """

    def __init__(self, columns: tuple[str, ...], width: int, labels: int):
        super().__init__()
        self.columns = columns
        self.scales = nn.Parameter(torch.ones(len(columns), width, labels))

    def terms(self) -> list[Term]:
        """What the contributions are of, in their order."""
        return [Term(SAME, column) for column in self.columns]

    def forward(self, batch: TensorBatch, items: Tensor, weights: Tensor) -> Tensor:
        """Contributions, shape (B, F, L).

        Args:
            batch: the rows.
            items: embeddings of each column of the items, shape (U, F, W).
            weights: of each behaviour and column, shape (N, F).
        """
        seen = segment_sum(items.index_select(0, batch.history) * weights[:, :, None], batch.segments, batch.rows)
        return self._scaled(items.index_select(0, batch.target) * seen)

    def by_behaviour(self, batch: TensorBatch, items: Tensor, weights: Tensor) -> Tensor:
        """What each behaviour adds, shape (N, F, L)."""
        target = batch.target.index_select(0, batch.segments)
        both = items.index_select(0, target) * items.index_select(0, batch.history) * weights[:, :, None]
        return self._scaled(both)

    def _scaled(self, products: Tensor) -> Tensor:
        """Products, shape (n, F, W), summed with the scales: shape (n, F, L)."""
        return (products[:, :, :, None] * self.scales).sum(dim=2)
