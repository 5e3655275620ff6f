"""Training that now and then forgets which item it sees, so that a model learns what the rest says of an item.

An item that a model never saw has no id to go by. A model that always has the ids never learns to do without: what a
picture says of a seen item its id says too (DropoutNet, Volkovs et al., NeurIPS 2017).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from crossmedia.errors import BadInput
from crossmedia.features.columns import IMAGE, ITEM
from crossmedia.trainer.tensors import Bag, TensorBatch

FORGOTTEN = (ITEM, IMAGE)  # vocabularies whose ids become place 0


def without_ids(batch: TensorBatch, rate: float) -> TensorBatch:
    """A batch in which some items are unknown, as target and as behaviour: ``item_id`` and image ids are place 0.

    Their other columns, words and vectors stay. Draws from torch's generator.

    Args:
        batch: of training.
        rate: share of the batch's items that lose their ids; 0 gives the batch back.

    Raises:
        BadInput: the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise BadInput(f"id_dropout is {rate}: a share from 0 on and below 1.")
    if rate == 0:
        return batch
    items = batch.items
    lost = torch.rand(items.count, device=batch.lengths.device) < rate
    lists = dict(items.lists)
    if IMAGE in lists:
        images = lists[IMAGE]
        lists[IMAGE] = Bag(images.values.masked_fill(lost.index_select(0, images.owners), 0), images.owners)
    ids = items.ids | {ITEM: items.ids[ITEM].masked_fill(lost, 0)}
    return replace(batch, items=replace(items, ids=ids, lists=lists))
