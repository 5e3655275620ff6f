"""Deep Interest Network (Zhou et al., KDD 2018, arXiv 1706.06978)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.layers.attention import ActivationUnit
from trainer.layers.dice import Dice
from trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from trainer.layers.jagged import segment_sum
from trainer.layers.mlp import MLP
from trainer.tensors import ImageVectors, TensorBatch


class DIN(nn.Module):
    """Behaviours weighted by what they say about the target: v_U(t) = sum_j a(h_j, t) h_j, no softmax.

    With images on, h and t hold the projected image vector, so attention sees the pictures too.

    Args:
        spec: columns and sizes; ``vector_dim`` above 0 turns images on.
        width: numbers in an embedding.
        hidden: widths of the MLP.
    """

    def __init__(self, spec: InputSpec, width: int = 16, hidden: tuple[int, ...] = (200, 80)):
        super().__init__()
        self.inputs = ModelInputs(spec, width)
        self.unit = ActivationUnit(self.inputs.item_width)
        self.mlp = MLP(2 * self.inputs.item_width + self.inputs.other_width, hidden, Dice)

    def _weights(self, x: Inputs, batch: TensorBatch) -> Tensor:
        weights: Tensor = self.unit(x.history, x.target, batch.segments)
        return weights

    def attention(self, batch: TensorBatch, image_vectors: ImageVectors | None = None) -> Tensor:
        """The weight of each behaviour, shape (N,): what ``forward`` multiplies it with."""
        return self._weights(self.inputs(batch, image_vectors), batch)

    def forward(self, batch: TensorBatch, image_vectors: ImageVectors | None = None) -> Tensor:
        """Logits, shape (B,)."""
        x = self.inputs(batch, image_vectors)
        interest = segment_sum(x.history * self._weights(x, batch)[:, None], batch.segments, len(batch))
        logits: Tensor = self.mlp(torch.cat([x.target, interest, x.other], dim=1))
        return logits
