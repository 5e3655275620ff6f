"""Batches made by hand, for the tests of layers and models."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.tensors import ImageVectors, TensorBatch, TensorImages

LENGTHS = [3, 0, 2]
SPEC = InputSpec({"item_id": 9, "shop_id": 4}, {"user_id": 5}, {"title": 6}, 7, 3, vector_dim=8)


def make_batch(
    lengths: list[int] = LENGTHS, seed: int = 0, *, labels: bool = False
) -> tuple[TensorBatch, ImageVectors]:
    """Random ids for rows with so many behaviours; labels are ones, or drawn."""
    rng = torch.Generator().manual_seed(seed)

    def ids(n: int, size: int) -> Tensor:
        return torch.randint(0, size, (n,), generator=rng)

    b, n, k = len(lengths), sum(lengths), 5
    segments = torch.repeat_interleave(torch.arange(b), torch.tensor(lengths, dtype=torch.int64))
    batch = TensorBatch(
        labels={"label": ids(b, 2).float() if labels else torch.ones(b)},
        ids={"item_id": ids(b, 9), "shop_id": ids(b, 4), "user_id": ids(b, 5)},
        history={"item_id": ids(n, 9), "shop_id": ids(n, 4), "action": ids(n, 3)},
        history_age=ids(n, 32),
        segments=segments,
        lengths=torch.tensor(lengths, dtype=torch.int64),
        text={"title": (ids(4, 6), torch.tensor([0, 0, 1, 1])) if b else (ids(0, 6), ids(0, 1))},
        images=TensorImages(ids(k, 7), ids(b, k + 1) - 1, ids(n, k + 1) - 1),
    )
    return batch, ImageVectors(torch.randn(k, 8, generator=rng), torch.tensor([True, True, False, True, True]))
