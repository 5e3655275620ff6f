"""Deep Interest Network (Zhou et al., KDD 2018, arXiv 1706.06978)."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmedia.trainer.layers.attention import ActivationUnit
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.layers.jagged import segment_softmax, segment_sum
from crossmedia.trainer.layers.mlp import MLP
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch


class DIN(EmbeddingModel):
    """Behaviours weighted by what they say about the target: v_U(t) = sum_j a(h_j, t) h_j, no softmax.

    With images on, h and t hold the projected image vector, so attention sees the pictures too.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: numbers in an embedding.
        inputs: embeddings shared with another model.
        beside: numbers a row that a subclass adds to the MLP's input.
        hidden: widths of the MLP.
        activation: of the MLP, ``dice``, ``prelu`` or ``batch_norm`` (with ReLU).
        attention_hidden: widths of the activation unit.
        softmax: normalise the weights over the behaviours, which the paper advises against; docs/adr/0041 says when
            it is better.
        factors: numbers of each user and of each item whose product is added to the logit; 0 leaves it out.
            docs/adr/0063 says what they are worth.
    """

    paper = "Zhou et al., KDD 2018, arXiv 1706.06978"

    def __init__(
        self,
        spec: InputSpec,
        width: int = 16,
        inputs: ModelInputs | None = None,
        beside: int = 0,
        *,
        hidden: tuple[int, ...] = (200, 80),
        activation: str = "dice",
        attention_hidden: tuple[int, ...] = (64, 16),
        softmax: bool = False,
        factors: int = 0,
    ):
        super().__init__(spec, width, inputs, factors)
        self.unit = ActivationUnit(self.inputs.item_width, attention_hidden)
        self.softmax = softmax
        features = 2 * self.inputs.item_width + self.inputs.other_width + beside
        self.mlp = MLP(features, hidden, len(spec.labels), activation)

    def weights(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """The weight of each behaviour, shape (N,)."""
        weights: Tensor = self.unit(x.history, x.target, batch.segments)
        return segment_softmax(weights, batch.segments, batch.rows) if self.softmax else weights

    def attention(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """The weight of each behaviour, shape (N,): what ``forward`` multiplies it with."""
        return self.weights(self.inputs(batch, vectors), batch)

    def pooled(self, x: Inputs, weights: Tensor, batch: TensorBatch) -> Tensor:
        """Target, weighted behaviours and the rest, shape (B, 2 E + O)."""
        interest = segment_sum(x.history * weights[:, None], batch.segments, batch.rows)
        return torch.cat([x.target, interest, x.other], dim=1)

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L)."""
        return self.with_factors(self.mlp(self.pooled(x, self.weights(x, batch), batch)), batch)
