"""Items that lose their ids in training: both of them, everywhere in the batch, and nothing else of theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_batches import make_batch

from crossmedia.errors import BadInput
from crossmedia.trainer.training.id_dropout import without_ids


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=9), seed=st.integers(0, 99), rate=st.floats(0, 0.99))
def test_an_item_loses_both_ids_wherever_it_stands(lengths: list[int], seed: int, rate: float) -> None:
    batch, _ = make_batch(lengths, seed)
    torch.manual_seed(seed)
    found = without_ids(batch, rate)
    assert batch.images is not None
    assert found.images is not None
    lost = (found.images.unique_index == 0).tolist()
    kept = torch.tensor([not gone for gone in lost])
    assert torch.equal(found.images.unique_index[kept], batch.images.unique_index[kept])
    for before, after, images in (
        (batch.ids, found.ids, batch.images.target),
        (batch.history, found.history, batch.images.history),
    ):
        for row, image in enumerate(images.tolist()):
            hidden = image >= 0 and lost[image] and int(batch.images.unique_index[image]) != 0
            if hidden:
                assert after["item_id"][row] == 0
            elif image < 0:
                assert after["item_id"][row] == before["item_id"][row]
        assert all(torch.equal(after[name], before[name]) for name in before if name != "item_id")
    assert torch.equal(found.images.target, batch.images.target)  # what shows the pictures themselves
    assert torch.equal(found.images.history, batch.images.history)
    if rate == 0:
        assert found is batch


def test_the_share_is_the_rate() -> None:
    batch, _ = make_batch([1] * 20_000)
    assert batch.images is not None
    rows = replace(batch, ids={"item_id": torch.ones(20_000, dtype=torch.long)}, images=None)
    assert float((without_ids(rows, 0.3).ids["item_id"] == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    many = replace(batch.images, unique_index=torch.ones(20_000, dtype=torch.long))
    images = without_ids(replace(batch, images=many), 0.3).images
    assert images is not None
    assert float((images.unique_index == 0).float().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_share_is_said(rate: float) -> None:
    with pytest.raises(BadInput, match="id_dropout"):
        without_ids(make_batch()[0], rate)
