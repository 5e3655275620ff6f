"""Training that now and then forgets which item it sees, so that a model learns what the rest says of an item.

An item that a model never saw has no id to go by. A model that always has the ids never learns to do without: what a
picture says of a seen item its id says too (DropoutNet, Volkovs et al., NeurIPS 2017).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from crossmedia.errors import BadInput
from crossmedia.trainer.tensors import TensorBatch

ITEM = "item_id"


def without_ids(batch: TensorBatch, rate: float) -> TensorBatch:
    """A batch in which some items are unknown, as target and as behaviour: ``item_id`` and the image's id are place 0.

    Their other columns, words and image vectors stay. Draws from torch's generator.

    Args:
        batch: of training.
        rate: share of the batch's images, or without images of its rows, that lose their ids; 0 gives the batch back.

    Raises:
        BadInput: the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise BadInput(f"id_dropout is {rate}: a share from 0 on and below 1.")
    if rate == 0:
        return batch
    if batch.images is None:
        return replace(batch, ids=_hidden(batch.ids, torch.rand(batch.rows, device=batch.lengths.device) < rate))
    index = batch.images.unique_index
    lost = torch.cat([torch.rand(len(index), device=index.device) < rate, index.new_zeros(1, dtype=torch.bool)])
    return replace(
        batch,
        ids=_hidden(batch.ids, lost[batch.images.target]),
        history=_hidden(batch.history, lost[batch.images.history]),
        images=replace(batch.images, unique_index=index.masked_fill(lost[:-1], 0)),
    )


def _hidden(columns: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return columns | {ITEM: columns[ITEM].masked_fill(rows, 0)} if ITEM in columns else columns
