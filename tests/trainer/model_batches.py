"""Batches made by hand, for the tests of layers and models."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.tensors import Bag, ImageVectors, TensorBatch, TensorItems

LENGTHS = [3, 0, 2]
# What samples with ids, words and one image an item have, and what samples with everything have.
SPEC = InputSpec({"item_id": 9, "shop_id": 4}, {"user_id": 5}, {"title": 6}, 7, 3, spaces={"image": 8})
EVERYTHING = InputSpec(
    {"item_id": 9, "shop_id": 4},
    {"user_id": 5, "slot": 3},
    {"title": 6},
    7,
    3,
    spaces={"image": 8, "title": 6},
    item_lists={"tags": 5},
    user_lists={"interests": 4},
    item_numbers=("price", "stars"),
    user_numbers=("age",),
)


def make_batch(
    lengths: list[int] = LENGTHS, seed: int = 0, *, labels: bool = False, spec: InputSpec = SPEC
) -> tuple[TensorBatch, dict[str, ImageVectors]]:
    """Random ids for rows with so many behaviours; labels are ones, or drawn."""
    rng = torch.Generator().manual_seed(seed)

    def ids(n: int, size: int) -> Tensor:
        return torch.randint(0, size, (n,), generator=rng)

    def numbers(n: int) -> Tensor:
        found = torch.randn(n, generator=rng)
        return torch.where(torch.rand(n, generator=rng) < 0.3, torch.nan, found)

    def bag(owners: int, size: int, most: int, least: int = 0) -> Bag:
        counts = torch.randint(least, most + 1, (owners,), generator=rng)
        return Bag(ids(int(counts.sum()), size), torch.repeat_interleave(torch.arange(owners), counts))

    b, n, u, k = len(lengths), sum(lengths), 6, 5
    segments = torch.repeat_interleave(torch.arange(b), torch.tensor(lengths, dtype=torch.int64))
    several = 3 if spec.item_lists else 1
    lists = {"image_id": bag(u, 7, several, 1)} | {name: bag(u, size, 3) for name, size in spec.item_lists.items()}
    batch = TensorBatch(
        labels={"label": ids(b, 2).float() if labels else torch.ones(b)},
        ids={name: ids(b, size) for name, size in spec.user_columns.items()},
        numbers={name: numbers(b) for name in spec.user_numbers},
        lists={name: bag(b, size, 3) for name, size in spec.user_lists.items()},
        text={name: bag(b, size, 3) for name, size in spec.text_columns.items()},
        items=TensorItems(
            {name: ids(u, size) for name, size in spec.item_columns.items()},
            {name: numbers(u) for name in spec.item_numbers},
            lists,
            {name: bag(u, k, several) for name in spec.spaces},
        ),
        target=ids(b, u),
        history=ids(n, u),
        action=ids(n, 3),
        history_age=ids(n, 32),
        segments=segments,
        lengths=torch.tensor(lengths, dtype=torch.int64),
    )
    there = torch.tensor([True, True, False, True, True])
    vectors = {
        name: ImageVectors(torch.randn(k, dim, generator=rng) * there[:, None], there)
        for name, dim in spec.spaces.items()
    }
    return batch, vectors
