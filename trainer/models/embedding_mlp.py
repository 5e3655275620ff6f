"""Embedding&MLP: embeddings, the mean of the behaviours, and a 200-80 net (the base model of DIN and DICM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.layers.inputs import InputSpec, ModelInputs
from trainer.layers.jagged import segment_mean
from trainer.layers.mlp import MLP
from trainer.tensors import ImageVectors, TensorBatch


class EmbeddingMLP(nn.Module):
    """Target, mean of the behaviours, user and text, concatenated, into the MLP.

    Args:
        spec: columns and sizes; ``vector_dim`` above 0 turns images on.
        width: numbers in an embedding.
        hidden: widths of the MLP.
    """

    def __init__(self, spec: InputSpec, width: int = 16, hidden: tuple[int, ...] = (200, 80)):
        super().__init__()
        self.inputs = ModelInputs(spec, width)
        self.mlp = MLP(2 * self.inputs.item_width + self.inputs.other_width, hidden, lambda _: nn.PReLU())

    def forward(self, batch: TensorBatch, image_vectors: ImageVectors | None = None) -> Tensor:
        """Logits, shape (B,)."""
        x = self.inputs(batch, image_vectors)
        pooled = segment_mean(x.history, batch.segments, len(batch))
        logits: Tensor = self.mlp(torch.cat([x.target, pooled, x.other], dim=1))
        return logits
