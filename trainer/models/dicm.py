"""DICM, the model of CrossMedia: ids as in a base model, images of ad and behaviours beside them (arXiv 1711.06505)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossmedia.arguments import must
from crossmedia.errors import BadInput
from crossmedia.trainer.layers import aggregators
from crossmedia.trainer.layers.attention import ActivationUnit
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.layers.jagged import segment_mean, segment_softmax, segment_sum
from crossmedia.trainer.layers.mlp import MLP
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.tensors import TensorBatch

AGGREGATORS: dict[str, Callable[[int, int, int], aggregators.Aggregator]] = {
    "concat": lambda width, ids, slots: aggregators.ConcatAggregator(width, slots),
    "max": lambda width, ids, slots: aggregators.MaxAggregator(width),
    "sum": lambda width, ids, slots: aggregators.SumAggregator(width),
    "attentive": lambda width, ids, slots: aggregators.AttentiveAggregator(width, width),
    "multi_query": lambda width, ids, slots: aggregators.MultiQueryAttentiveAggregator(width, ids),
}
BASES, SHOWN = ("embedding_mlp", "din"), ("ad", "behaviours", "both")


class DICM(EmbeddingModel):
    """The ad's image and the aggregated images of the behaviours, beside the ids of a base model.

    Each space is shown, and aggregated, by itself. With images off it is the base model with PReLU.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: numbers in an embedding, of an image too.
        inputs: embeddings shared with another model.
        base: what pools the behaviours' ids: ``embedding_mlp`` (their mean) or ``din`` (its attention).
        aggregator: of the behaviours' images: concat, max, sum, attentive or multi_query.
        softmax: normalise the attention of the base ``din`` over the behaviours, as in DIN.
        shown: which images are used: ``ad``, ``behaviours`` or ``both``.
        slots: latest behaviours that ``concat`` takes.
        hidden: widths of the MLP.
        activation: of the MLP, ``prelu``, ``dice`` or ``batch_norm`` (with ReLU).

    Raises:
        BadInput: an option is none of its choices.
    """

    paper = "Ge et al., CIKM 2018, arXiv 1711.06505"

    def __init__(
        self,
        spec: InputSpec,
        width: int = 16,
        inputs: ModelInputs | None = None,
        *,
        base: str = "embedding_mlp",
        softmax: bool = False,
        aggregator: str = "multi_query",
        shown: str = "both",
        slots: int = 10,
        hidden: tuple[int, ...] = (200, 80),
        activation: str = "prelu",
    ):
        super().__init__(spec, width, inputs)
        choices = (("base", base, BASES), ("shown", shown, SHOWN), ("aggregator", aggregator, tuple(AGGREGATORS)))
        for name, value, known in choices:
            if value not in known:
                raise BadInput(f"dicm has no {name} {value!r}; there are: {', '.join(known)}.")
        must(slots >= 1, "slots", slots, "at least 1")
        images = self.inputs.shown_width
        ids = self.inputs.item_width - images
        self.unit, self.softmax = ActivationUnit(ids) if base == "din" else None, softmax
        self.ad = bool(images) and shown != "behaviours"
        aggregate = [AGGREGATORS[aggregator](width, ids, slots) for _ in spec.spaces if shown != "ad"]
        self.aggregate = nn.ModuleList(one for one in aggregate if isinstance(one, nn.Module))
        features = 2 * ids + self.inputs.other_width + self.ad * images
        features += sum(one.width for one in aggregate)
        self.mlp = MLP(features, hidden, len(spec.labels), activation)

    def _of_ids(self, x: Inputs) -> Inputs:
        ids = x.target.shape[1] - self.inputs.shown_width
        return replace(x, target=x.target[:, :ids], history=x.history[:, :ids])

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L)."""
        of_ids = self._of_ids(x)
        ids = of_ids.target.shape[1]
        if self.unit is None:
            pooled = segment_mean(of_ids.history, batch.segments, batch.rows)
        else:
            weights = self.unit(of_ids.history, of_ids.target, batch.segments)
            if self.softmax:
                weights = segment_softmax(weights, batch.segments, batch.rows)
            pooled = segment_sum(of_ids.history * weights[:, None], batch.segments, batch.rows)
        parts = [of_ids.target, pooled, x.other]
        if self.ad:
            parts.append(x.target[:, ids:])
        width = self.inputs.width
        for number, aggregate in enumerate(self.aggregate):
            space = slice(ids + number * width, ids + (number + 1) * width)
            parts.append(aggregate(x.history[:, space], x.target[:, space], of_ids.target, batch.segments))
        logits: Tensor = self.mlp(torch.cat(parts, dim=1))
        return logits
