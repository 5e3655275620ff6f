"""Rocket Launching (Zhou et al., AAAI 2018, arXiv 1708.04106): a light net that a booster net pulls up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.models.registry import make
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch


class Rocket(EmbeddingModel):
    """A light and a booster net over the same embeddings, trained together; the light one answers.

    loss = H(y, light) + H(y, booster) + hint * mean((l - z)^2), with l and z the logits, and z detached: the hint moves
    the light net only (the gradient block), while both train the embeddings.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: numbers in an embedding.
        inputs: embeddings shared with another model.
        light: which model is the light net; it must start from embeddings.
        booster: which model is the booster net, likewise.
        hint: weight of the hint loss.
        block: keep the hint's gradient from the booster.
        light_options: options of the light net.
        booster_options: options of the booster net.

    Raises:
        BadInput: light or booster is no model that starts from embeddings.
    """

    paper = "Zhou et al., AAAI 2018, arXiv 1708.04106"

    def __init__(
        self,
        spec: InputSpec,
        width: int = 16,
        inputs: ModelInputs | None = None,
        *,
        light: str = "embedding_mlp",
        booster: str = "din",
        hint: float = 0.1,
        block: bool = True,
        light_options: Mapping[str, Any] | None = None,
        booster_options: Mapping[str, Any] | None = None,
    ):
        super().__init__(spec, width, inputs)
        self.hint, self.block = hint, block
        self.light = self._net(light, width, light_options)
        self.booster = self._net(booster, width, booster_options)

    def _net(self, name: str, width: int, options: Mapping[str, Any] | None) -> EmbeddingModel:
        net = make(name, self.spec, width, options or {}, inputs=self.inputs)
        if not isinstance(net, EmbeddingModel) or isinstance(net, Rocket):
            raise BadInput(f"{name} cannot be a net of rocket: it must be one model that starts from embeddings.")
        return net

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """The light net's logits, shape (B, L)."""
        return self.light.top(x, batch)

    def loss(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Both cross entropies and the hint loss (equation 2)."""
        x = self.inputs(batch, vectors)
        light, booster = self.light.top(x, batch), self.booster.top(x, batch)
        hint = mse_loss(light, booster.detach() if self.block else booster)
        loss = self.cross_entropy(light, batch) + self.cross_entropy(booster, batch) + self.hint * hint
        return loss + self.light.penalty(batch) + self.booster.penalty(batch)

    def id_rows(self) -> dict[str, dict[str, tuple[int, int]]]:
        """As ``EmbeddingModel.id_rows``, and what each net has of its own."""
        nets = {"light": self.light.factors, "booster": self.booster.factors}
        own = [factors.id_rows(f"{name}.factors") for name, factors in nets.items() if factors is not None]
        return {name: columns for found in (super().id_rows(), *own) for name, columns in found.items()}

    def acquaint(self, counts: Tensor, cards: Mapping[str, ConceptCard]) -> None:
        """As ``Model.acquaint``, of both nets."""
        self.light.acquaint(counts, cards)
        self.booster.acquaint(counts, cards)

    def sampled(self, rate: float) -> None:
        """As ``Model.sampled``, of all three."""
        super().sampled(rate)
        self.light.sampled(rate)
        self.booster.sampled(rate)

    def served(self) -> EmbeddingModel:
        """The light net alone, with the embeddings."""
        return self.light


def booster_of(model: torch.nn.Module) -> EmbeddingModel | None:
    """The booster net of a Rocket; None of any other model."""
    return model.booster if isinstance(model, Rocket) else None
