"""Embedding&MLP: embeddings, pooled behaviours, and a 200-80 net (the base model of DIN and DICM)."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.layers.jagged import segment_mean, segment_sum
from crossmedia.trainer.layers.mlp import MLP
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.tensors import TensorBatch

POOLINGS = {"mean": segment_mean, "sum": segment_sum}


class EmbeddingMLP(EmbeddingModel):
    """Embeddings of target, pooled behaviours, user and text, concatenated, into an MLP.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: numbers in an embedding.
        inputs: embeddings shared with another model.
        hidden: widths of the MLP.
        activation: ``prelu``, ``dice`` or ``batch_norm`` (with ReLU).
        behaviours: how they are pooled, ``mean`` or ``sum``.
        factors: as of ``DIN``.

    Raises:
        BadInput: there is no such activation or pooling.
    """

    paper = "base model of Zhou et al., KDD 2018, arXiv 1706.06978"

    def __init__(
        self,
        spec: InputSpec,
        width: int = 16,
        inputs: ModelInputs | None = None,
        *,
        hidden: tuple[int, ...] = (200, 80),
        activation: str = "prelu",
        behaviours: str = "mean",
        factors: int = 0,
    ):
        super().__init__(spec, width, inputs, factors)
        if behaviours not in POOLINGS:
            raise BadInput(f"There is no pooling of behaviours {behaviours!r}; there are: {', '.join(POOLINGS)}.")
        self.pool = POOLINGS[behaviours]
        features = 2 * self.inputs.item_width + self.inputs.other_width
        self.mlp = MLP(features, hidden, len(spec.labels), activation)

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L)."""
        pooled = self.pool(x.history, batch.segments, batch.rows)
        return self.with_factors(self.mlp(torch.cat([x.target, pooled, x.other], dim=1)), batch)
