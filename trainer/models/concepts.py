"""A white box: a sum of terms that have names, of what is in a photo, who sees it, and what they did before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.features.columns import ITEM
from crossmedia.trainer.layers.additive import BIAS, ID, NUMBER, POPULARITY, ConceptTerms, SameIds, Term, Weights
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs, check_spaces, named_modules
from crossmedia.trainer.layers.jagged import segment_mean
from crossmedia.trainer.layers.spaces import MEAN
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.tensors import Bag, SpaceVectors, TensorBatch

FASTER = 5.0  # steps of the weights of what sells, beside those of all others
REST = 1 / 3  # of a rest concept, so that the same penalty costs its weight nine times as much


class Concepts(EmbeddingModel):
    """A sum of named terms without a net: what sells, to whom, and what is like the user's behaviours; no more.

    logit = b + sum over columns of w_f . e_f(id) + numbers + popularity, and of each space of concepts: what sells,
    c(ad) w_c; to whom, c(ad) <v_c, e(user)>; matches, m_c kappa_t c(ad) c(h_t); and ids like those of behaviours. Where
    DIN answers by a net, each contribution here has a name, and their sum is the logit (GA2M, Lou et al., KDD 2013, in
    the form of a factorisation machine). Popularity is a term of its own, so that concepts do not take it up (DICE,
    Zheng et al., WWW 2021).

    Args:
        spec: columns and sizes; ``spaces`` turn images on, whose numbers must be concepts.
        width: W, numbers in an embedding.
        inputs: embeddings shared with another model.
        l2: penalty on the weights of concepts.
        length_power: p; of n behaviours each counts 1 / n^p: 0 adds them up, 1 takes their mean.

    Raises:
        BadInput: several images of an item are not to be pooled by their mean.
    """

    paper = "Lou et al., KDD 2013 (GA2M)"
    popularity: Tensor

    def __init__(
        self,
        spec: InputSpec,
        width: int = 16,
        inputs: ModelInputs | None = None,
        *,
        l2: float = 1e-3,
        length_power: float = 0.5,
    ):
        super().__init__(spec, width, inputs)
        if self.inputs.pooling != MEAN:
            raise BadInput(f"concepts takes the mean of an item's images: leave out pooling={self.inputs.pooling}.")
        labels, self.l2 = len(spec.labels), l2
        self.user_names = (*spec.user_columns, *spec.user_lists)
        self.item_names = (*spec.item_columns, *spec.item_bags)
        self.number_names = (*spec.item_numbers, *spec.user_numbers)
        columns = (*self.item_names, *self.user_names, *spec.text_columns, *self.number_names)
        self.bias = nn.Parameter(torch.zeros(labels))
        self.read = nn.Parameter(torch.randn(len(columns), width, labels) / width**0.5)
        self.popular = nn.Parameter(torch.zeros(labels))
        self.register_buffer("popularity", torch.zeros(spec.item_columns[ITEM]))
        seen = spec.actions > 0
        self.same = SameIds(self.item_names, width, labels) if seen else None
        self.weights = Weights(width, len(self.item_names) + len(spec.spaces), length_power) if seen else None
        if not seen:  # what is of behaviours has no place in the sum
            self.inputs.action.requires_grad_(False)
            self.inputs.age.requires_grad_(False)
        self.of_spaces = named_modules(
            {name: ConceptTerms(name, dim, self.user_names, width, seen, labels) for name, dim in spec.spaces.items()},
            "space",
        )

    @staticmethod
    def embedded(spec: InputSpec) -> InputSpec:
        """What of the samples is embedded: all but the vectors, whose numbers are taken as they are."""
        return replace(spec, spaces={})

    def acquaint(self, counts: Tensor, cards: Mapping[str, ConceptCard]) -> None:
        """As ``Model.acquaint``: how popular items are, and which concepts are rest.

        Raises:
            BadInput: the numbers of a space's vectors are no concepts.
        """
        for name, terms in self.of_spaces.items():
            if name not in cards:
                raise BadInput(
                    f"concepts explains by what the numbers of a vector mean, and those of the space {name!r} have no "
                    f"names. Make vectors that have: 'crossmedia imgserver concepts build', then 'precompute --head', "
                    f"and a server or --store with that version; a head that learns has none. Or train --no-images."
                )
            assert isinstance(terms, ConceptTerms)
            terms.scale.fill_(1.0)
            terms.scale[cards[name].of_kind("rest")] = REST
        known, size = counts.to(self.popularity), torch.log1p(counts.to(self.popularity))
        mean = (known * size).sum() / known.sum().clamp(min=1)
        self.popularity.copy_(torch.where(known > 0, size - mean, 0.0))  # of an unknown item: that of a mean row

    def terms(self) -> list[Term]:
        """What the contributions are of, in their order."""
        found = [Term(BIAS), Term(POPULARITY)]
        found += [Term(ID, name) for name in (*self.item_names, *self.user_names, *self.spec.text_columns)]
        found += [Term(NUMBER, name) for name in self.number_names]
        found += self.same.terms() if self.same is not None else []
        return found + [term for layer in self.of_spaces.values() for term in layer.terms()]  # type: ignore[operator]

    def contributions(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """What each term adds to the logits, shape (B, T, L); in training and before negatives are re-calibrated.

        Raises:
            ValueError: the model was made for other spaces than those of the vectors.
        """
        check_spaces(self.spec, vectors)
        items, users = self._items(batch), self._users(batch)
        weights = self._weights(batch)
        ad = items.index_select(0, batch.target)
        embedded = torch.cat([ad, torch.stack([*users, *self._words(batch)], dim=1), self._numbers(batch)], dim=1)
        target = batch.target_ids(ITEM)
        popular = self.popularity.index_select(0, target)[:, None] * self.popular
        bias = self.bias.expand(batch.rows, -1)
        found = [torch.stack([bias, popular], dim=1), (embedded[:, :, :, None] * self.read).sum(dim=2)]
        if self.same is not None:
            found.append(self.same(batch, items, weights[:, : len(self.item_names)]))
        for number, (name, layer) in enumerate(self.of_spaces.items()):
            found.append(layer(batch, vectors[name], users, weights[:, len(self.item_names) + number]))
        return torch.cat(found, dim=1)

    def by_behaviour(self, batch: TensorBatch, vectors: SpaceVectors) -> tuple[Tensor, list[Term]]:
        """What each behaviour adds to the terms that are of behaviours, shape (N, T', L), and these terms."""
        if self.same is None:
            return self.bias.new_zeros(0, 0, len(self.bias)), []
        weights, items = self._weights(batch), self._items(batch)
        found = [self.same.by_behaviour(batch, items, weights[:, : len(self.item_names)])]
        terms = self.same.terms()
        for number, (name, layer) in enumerate(self.of_spaces.items()):
            assert isinstance(layer, ConceptTerms)
            found.append(layer.by_behaviour(batch, vectors[name], weights[:, len(self.item_names) + number]))
            terms += layer.terms()[-layer.dim :]
        return torch.cat(found, dim=1), terms

    def score(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Logits, shape (B, L): the sum of the contributions."""
        return self.contributions(batch, vectors).sum(dim=1)

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L), beside a booster that needs more of the inputs."""
        return self.score(batch, x.vectors)

    def penalty(self, batch: TensorBatch) -> Tensor:
        """As ``Model.penalty``: L2 of the weights of concepts."""
        found = self.bias.new_zeros(())
        for layer in self.of_spaces.values():
            for weight in (layer.sells, layer.taste, layer.match):
                if isinstance(weight, Tensor):
                    found = found + weight.square().sum()
        return self.l2 * found * min(batch.rows, 1)  # a process without rows has nothing to say

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """As ``Model.optimizers``; weights of what sells take longer steps, for they begin at 0 and have far to go."""
        (optimizer,) = super().optimizers(learning_rate)
        fast = [layer.sells for layer in self.of_spaces.values() if isinstance(layer, ConceptTerms)]
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if all(parameter is not one for one in fast)]
        if fast:
            optimizer.add_param_group({"params": fast, "lr": FASTER * learning_rate})
        return [optimizer]

    def id_rows(self) -> dict[str, dict[str, tuple[int, int]]]:
        """As ``Model.id_rows``: of the embeddings, and how popular items are."""
        return super().id_rows() | {"popularity": {ITEM: (0, len(self.popularity))}}

    def _items(self, batch: TensorBatch) -> Tensor:
        """Embeddings of each column of the items, shape (U, F, W)."""
        tables, items = self.inputs.tables, batch.items
        found = [tables[name](items.ids[name]) for name in self.spec.item_columns]
        found += [self._mean(name, items.lists[name], items.count) for name in self.spec.item_bags]
        return torch.stack(found, dim=1)

    def _users(self, batch: TensorBatch) -> list[Tensor]:
        """Embeddings of each column of users and impressions, shape (B, W) each."""
        found = [self.inputs.tables[name](batch.ids[name]) for name in self.spec.user_columns]
        return found + [self._mean(name, batch.lists[name], batch.rows) for name in self.spec.user_lists]

    def _words(self, batch: TensorBatch) -> list[Tensor]:
        return [self._mean(name, batch.text[name], batch.rows) for name in self.spec.text_columns]

    def _mean(self, name: str, lists: Bag, count: int) -> Tensor:
        return segment_mean(self.inputs.tables[name](lists.values), lists.owners, count)

    def _numbers(self, batch: TensorBatch) -> Tensor:
        """Embeddings of the numbers of the target and of the row, shape (B, numbers, W)."""
        width = self.inputs.width
        found = [self.bias.new_zeros(batch.rows, 0, width)]
        if self.inputs.item_numbers is not None:
            of_items = self.inputs.item_numbers(batch.items.numbers).index_select(0, batch.target)
            found.append(of_items.view(batch.rows, len(self.spec.item_numbers), width))
        if self.inputs.user_numbers is not None:
            found.append(self.inputs.user_numbers(batch.numbers).view(batch.rows, len(self.spec.user_numbers), width))
        return torch.cat(found, dim=1)

    def _weights(self, batch: TensorBatch) -> Tensor:
        """What each behaviour counts for each item column and space, shape (N, F); nothing without behaviours."""
        if self.weights is None:
            return self.bias.new_zeros(0, len(self.item_names) + len(self.spec.spaces))
        context = self.inputs.action(batch.action) + self.inputs.age(batch.history_age)
        found: Tensor = self.weights(context, batch)
        return found
