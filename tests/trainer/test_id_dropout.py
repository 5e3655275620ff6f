"""Items that lose their ids in training, and those of their images, everywhere in the batch, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_batches import EVERYTHING, make_batch

from crossmedia.errors import BadInput
from crossmedia.trainer.training.id_dropout import without_ids


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=9), seed=st.integers(0, 99), rate=st.floats(0, 0.99))
def test_an_item_loses_its_ids_wherever_it_stands(lengths: list[int], seed: int, rate: float) -> None:
    batch, _ = make_batch(lengths, seed, spec=EVERYTHING)
    torch.manual_seed(seed)
    found = without_ids(batch, rate)
    images, before = found.items.lists["image_id"], batch.items.lists["image_id"]
    for item in range(batch.items.count):
        mine = images.owners == item
        own, others = found.items.ids["item_id"][item], batch.items.ids["item_id"][item]
        if own == others != 0:
            assert torch.equal(images.values[mine], before.values[mine])
        elif own != others:
            assert own == 0
            assert not images.values[mine].any()
    items = replace(found.items, ids=batch.items.ids, lists=batch.items.lists)
    assert replace(found, items=items) == replace(batch, items=items)  # all else is the very same
    assert torch.equal(found.items.ids["shop_id"], batch.items.ids["shop_id"])
    assert found.items.lists["tags"] is batch.items.lists["tags"]
    assert found.items.vectors is batch.items.vectors  # what shows the pictures themselves
    if rate == 0:
        assert found is batch


def test_the_share_is_the_rate() -> None:
    batch, _ = make_batch([1])
    items = replace(batch.items, ids={"item_id": torch.ones(20_000, dtype=torch.long)}, lists={})
    found = without_ids(replace(batch, items=items), 0.3).items.ids["item_id"]
    assert float((found == 0).float().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_share_is_said(rate: float) -> None:
    with pytest.raises(BadInput, match="id_dropout"):
        without_ids(make_batch()[0], rate)
