"""MUSE's ranker: attention that knows how alike the pictures are, beside SimTier (arXiv 2512.07216)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.layers.jagged import segment_softmax
from crossmedia.trainer.layers.similarity import similarity
from crossmedia.trainer.models.simtier import SimTier
from crossmedia.trainer.tensors import TensorBatch


class MUSE(SimTier):
    """Similarity-aware target attention, a = softmax(g1 a_id + g2 R + g3 a_id R), with R the cosine, and SimTier.

    a_id is DIN's activation unit. Each space has an R, g2 and g3 of its own. With images off it is DIN with a softmax.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: numbers in an embedding.
        inputs: embeddings shared with another model.
        options: those of SimTier; the softmax is always on.
    """

    paper = "Wu et al., 2025, arXiv 2512.07216"

    def __init__(self, spec: InputSpec, width: int = 16, inputs: ModelInputs | None = None, **options: Any):
        super().__init__(spec, width, inputs, **options)
        self.mix = nn.Parameter(torch.tensor([1.0, *[1.0, 0.0] * max(1, len(spec.spaces))]))  # g1, g2, g3, g2, g3, …

    def weights(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """The weight of each behaviour, shape (N,)."""
        of_ids: Tensor = self.unit(x.history, x.target, batch.segments)
        if not x.vectors:
            return segment_softmax(of_ids, batch.segments, batch.rows)
        mixed = self.mix[0] * of_ids
        for number, (name, vectors) in enumerate(x.vectors.items()):
            alike, _ = similarity(batch, vectors, name)
            mixed = mixed + self.mix[2 * number + 1] * alike + self.mix[2 * number + 2] * of_ids * alike
        return segment_softmax(mixed, batch.segments, batch.rows)
