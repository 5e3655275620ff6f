"""DIN with SimTier: how many of the user's pictures are how alike the target's (arXiv 2407.19467)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.layers.similarity import SimTiers, similarity
from crossmedia.trainer.models.din import DIN
from crossmedia.trainer.tensors import TensorBatch


class SimTier(DIN):
    """DIN, and beside it a histogram of the cosines between the target's picture and those of the behaviours.

    Each space has a histogram of its own. With images off it is DIN.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: numbers in an embedding.
        inputs: embeddings shared with another model.
        tiers: of the histogram, a kind of behaviour each; 0 leaves it out.
        options: those of DIN.

    Raises:
        BadInput: one tier alone.
    """

    paper = "Sheng et al., CIKM 2024, arXiv 2407.19467"

    def __init__(
        self, spec: InputSpec, width: int = 16, inputs: ModelInputs | None = None, *, tiers: int = 20, **options: Any
    ):
        if tiers == 1 or tiers < 0:
            raise BadInput(f"A histogram needs 2 tiers or more, or 0 for none; got {tiers}.")
        counted = list(spec.spaces) if tiers and spec.actions else []
        super().__init__(spec, width, inputs, width * len(counted), **options)
        self.tiers = nn.ModuleDict({name: SimTiers(spec.actions, tiers, width) for name in counted})

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L)."""
        parts = [self.pooled(x, self.weights(x, batch), batch)]
        for name, tiers in self.tiers.items():
            parts.append(tiers(*similarity(batch, x.vectors[name], name), batch.action, batch))
        return self.with_factors(self.mlp(torch.cat(parts, dim=1)), batch)
