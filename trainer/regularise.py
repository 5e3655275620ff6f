"""Mini-batch aware regularisation of embeddings (DIN, arXiv 1706.06978, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from features.samples import Samples
from imgserver.errors import BadInput
from trainer import processes
from trainer.models.base import EmbeddingModel, Model
from trainer.tensors import TensorBatch

AfterBackward = Callable[[TensorBatch], None]


def mini_batch_aware(model: Model, samples: Samples, strength: float) -> AfterBackward:
    """What adds the regulariser's gradient after each backward pass; nothing at strength 0.

    The gradient of row j of a table grows by lambda / n_j * w_j when j occurs in the batch (equation 11), n_j being how
    often it occurs in the training part. It stands beside the gradient of the mean loss: lambda is not divided by the
    batch size, so that over an epoch every row that is trained is pulled by about lambda, however rare it is.

    Args:
        model: whose embeddings.
        samples: counts n_j, in one pass over the training part.
        strength: lambda.

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
        if name in inputs.tables:
            table = inputs.tables[name]
            assert isinstance(table, nn.Embedding)
            found = torch.from_numpy(counts).clamp(min=1).to(table.weight.device)
            weights[name] = (table.weight, strength / found.float())

    @torch.no_grad()
    def add_gradient(batch: TensorBatch) -> None:
        for name, places in inputs.places(batch).items():
            weight, pull = weights[name]
            if weight.grad is None:
                continue
            occurs = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
            occurs[places] = True
            rows = torch.nonzero(processes.anywhere(occurs)).squeeze(1)
            weight.grad.index_add_(0, rows, weight.index_select(0, rows) * pull.index_select(0, rows)[:, None])

    return add_gradient
