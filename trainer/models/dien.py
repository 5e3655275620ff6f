"""Deep Interest Evolution Network (Zhou et al., AAAI 2019, arXiv 1809.03672)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.auxiliary import auxiliary_loss
from crossmedia.trainer.layers.gru import JaggedGRU, Packing, Variant
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.layers.jagged import segment_softmax
from crossmedia.trainer.layers.mlp import MLP
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch

EVOLUTIONS: dict[str, Variant] = {"augru": "augru", "agru": "agru", "aigru": "gru"}


class DIEN(EmbeddingModel):
    """A GRU extracts interests from the behaviours; a second one, steered by attention to the target, evolves them.

    Attention is softmax_t(h_t W e_a) (equation 8). AIGRU multiplies the second GRU's inputs by it, AGRU puts it in the
    place of the update gate, AUGRU scales the update gate by it (section 4.3).

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: numbers in an embedding.
        inputs: embeddings shared with another model.
        evolution: ``augru``, ``agru`` or ``aigru``.
        auxiliary: weight of the auxiliary loss (alpha); 0 leaves it out.
        hidden: widths of the MLP.
        activation: of the MLP, ``dice``, ``prelu`` or ``batch_norm`` (with ReLU).
        factors: as of ``DIN``.

    Raises:
        BadInput: there is no such evolution.
    """

    paper = "Zhou et al., AAAI 2019, arXiv 1809.03672"

    def __init__(
        self,
        spec: InputSpec,
        width: int = 16,
        inputs: ModelInputs | None = None,
        *,
        evolution: str = "augru",
        auxiliary: float = 1.0,
        hidden: tuple[int, ...] = (200, 80),
        activation: str = "dice",
        factors: int = 0,
    ):
        super().__init__(spec, width, inputs, factors)
        if evolution not in EVOLUTIONS:
            raise BadInput(f"There is no evolution {evolution!r}; there are: {', '.join(EVOLUTIONS)}.")
        self.scales_inputs, self.auxiliary = evolution == "aigru", auxiliary
        e = self.inputs.item_width
        self.extractor = JaggedGRU(e, e)
        self.attention_weight = nn.Linear(e, e, bias=False)
        self.evolution = JaggedGRU(e, e, EVOLUTIONS[evolution])
        self.mlp = MLP(2 * e + self.inputs.other_width, hidden, len(spec.labels), activation)

    def _interests(self, x: Inputs, batch: TensorBatch) -> tuple[Tensor, Packing]:
        """States of the extractor, shape (N, E), packed."""
        packing = Packing.of(batch.lengths, batch.segments)
        return self.extractor(x.history.index_select(0, packing.order), packing), packing

    def _head(self, x: Inputs, batch: TensorBatch, interests: Tensor, packing: Packing) -> Tensor:
        segments = batch.segments.index_select(0, packing.order)
        asked = self.attention_weight(x.target).index_select(0, segments)
        attention = segment_softmax((interests * asked).sum(1), segments, batch.rows)
        if self.scales_inputs:
            evolved = self.evolution(interests * attention[:, None], packing)
        else:
            evolved = self.evolution(interests, packing, attention)
        return self.with_factors(self.mlp(torch.cat([x.target, packing.last(evolved), x.other], dim=1)), batch)

    def _padded(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits by padded steps, for tracing, which cannot follow steps whose number the batch decides."""
        rows, steps = batch.rows, max(self.spec.max_history, 1)  # one empty step without histories
        first = torch.cumsum(batch.lengths, 0) - batch.lengths
        n = batch.segments.shape[0]
        step = torch.arange(n, device=batch.segments.device) - first.index_select(0, batch.segments)
        place = batch.segments * steps + step
        entries = x.history.new_zeros(rows * steps, x.history.shape[1]).index_copy(0, place, x.history)
        interests = self.extractor.padded(entries.view(rows, steps, entries.shape[1]), batch.lengths)
        asked = (interests * self.attention_weight(x.target)[:, None]).sum(2)
        there = torch.arange(steps, device=asked.device) < batch.lengths[:, None]
        attention = torch.softmax(asked.masked_fill(~there, -1e30), dim=1) * there
        if self.scales_inputs:
            evolved = self.evolution.padded(interests * attention[:, :, None], batch.lengths)
        else:
            evolved = self.evolution.padded(interests, batch.lengths, attention)
        return self.with_factors(self.mlp(torch.cat([x.target, evolved[:, -1], x.other], dim=1)), batch)

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L)."""
        if torch.compiler.is_exporting():
            return self._padded(x, batch)
        return self._head(x, batch, *self._interests(x, batch))

    def loss(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Cross entropy and ``auxiliary`` times the auxiliary loss (equation 7)."""
        x = self.inputs(batch, vectors)
        interests, packing = self._interests(x, batch)
        loss = self.cross_entropy(self._head(x, batch, interests, packing), batch) + self.penalty(batch)
        if self.auxiliary and self.spec.actions:
            states = interests.index_select(0, packing.place)
            loss = loss + self.auxiliary * auxiliary_loss(
                states, x.history, batch.history_ids("item_id"), batch.segments
            )
        return loss
