"""Mini-batch aware regularisation of embeddings (DIN, arXiv 1706.06978, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer import processes
from crossmedia.trainer.layers.sharded import held_rows
from crossmedia.trainer.models.base import EmbeddingModel, Model
from crossmedia.trainer.tensors import TensorBatch
from crossmedia.trainer.training.id_dropout import FORGOTTEN

AfterBackward = Callable[[TensorBatch], None]


def mini_batch_aware(model: Model, samples: Samples, strength: float, id_dropout: float = 0.0) -> AfterBackward:
    """What adds the regulariser's gradient after each backward pass; nothing at strength 0.

    The gradient of row j of a table grows by lambda / n_j * w_j when j occurs in the batch (equation 11), n_j being how
    often it occurs in the training part. It stands beside the gradient of the mean loss: lambda is not divided by the
    batch size, so that over an epoch every row that is trained is pulled by about lambda, however rare it is.

    With ``id_dropout`` place 0 of items and of images occurs in each batch, and in no training row: it counts as often
    as ids are forgotten. Else it would be pulled by lambda a step, and what the model is to learn of items that it does
    not know would be held at 0.

    Args:
        model: whose embeddings.
        samples: counts n_j, in one pass over the training part.
        strength: lambda.
        id_dropout: share of the items whose ids ``without_ids`` takes away.

    Raises:
        BadInput: the strength is below 0, or the model has no embeddings.
    """
    if strength == 0:
        return lambda batch: None
    if strength < 0 or not isinstance(model, EmbeddingModel):
        raise BadInput(f"embedding_l2 is {strength}: it must be 0 or more, and needs a model that has embeddings.")
    inputs = model.inputs
    weights = {}
    for name, counts in samples.occurrences().items():
        if name in FORGOTTEN:
            counts[0] += round(id_dropout * counts[1:].sum())
        if name in inputs.tables:
            weight = inputs.tables[name].weight
            assert isinstance(weight, Tensor)
            found = torch.from_numpy(counts).clamp(min=1).to(weight.device)
            weights[name] = (weight, strength / found.float())

    @torch.no_grad()
    def add_gradient(batch: TensorBatch) -> None:
        for name, places in inputs.places(batch).items():
            parameter, pull = weights[name]
            if parameter.grad is None:
                continue
            weight, gradient, first = held_rows(parameter)
            padded = places.new_full((processes.most(len(places), places.device),), -1)
            padded[: len(places)] = places
            of_all = processes.everyones(padded)
            occurs = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
            occurs[of_all[(of_all >= first) & (of_all < first + len(weight))] - first] = True
            rows = torch.nonzero(occurs).squeeze(1)
            gradient.index_add_(0, rows, weight.index_select(0, rows) * pull.index_select(0, rows + first)[:, None])

    return add_gradient
