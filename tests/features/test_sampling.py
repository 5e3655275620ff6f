"""Rows taken out of a batch, and negatives left out of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch, BatchImages, Jagged
from crossmedia.features.reading.sampling import keep_negatives, take_rows


def make_batch(lengths: list[int], seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    b, n = len(lengths), sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    words = rng.integers(0, 3, b)
    return Batch(
        labels={"click": rng.integers(0, 2, b).astype(np.float32)},
        timestamp=np.arange(b),
        ids={"item_id": rng.integers(0, 9, b)},
        history={"item_id": Jagged(rng.integers(0, 9, n), offsets)},
        history_age_s=rng.integers(1, 99, n),
        text={"title": Jagged(rng.integers(0, 9, words.sum()), np.concatenate([[0], np.cumsum(words)]))},
        images=BatchImages(
            np.array([3, 5, 8, 9]),
            np.array([1, 0, 2, 3]),
            rng.integers(-1, 4, b),
            Jagged(rng.integers(-1, 4, n), offsets),
        ),
    )


def shown(batch: Batch, row: int) -> list[int]:
    """Image ids of a row: its own and its behaviours'."""
    assert batch.images is not None
    places = [batch.images.target[row], *jagged_row(batch.images.history, row)]
    assert min(places) >= -1
    return [int(batch.images.unique[p]) if p >= 0 else -1 for p in places]


def jagged_row(jagged: Jagged, row: int) -> list[int]:
    found: list[int] = jagged.values[jagged.offsets[row] : jagged.offsets[row + 1]].tolist()
    return found


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 9), st.data())
def test_rows_that_are_taken_are_what_they_were(lengths: list[int], seed: int, data: st.DataObject) -> None:
    batch = make_batch(lengths, seed)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), unique=True, max_size=len(lengths)))
    taken = take_rows(batch, np.array(rows, dtype=np.int64))
    assert len(taken) == len(rows)
    assert taken.images is not None
    for new, old in enumerate(rows):
        assert taken.labels["click"][new] == batch.labels["click"][old]
        assert taken.ids["item_id"][new] == batch.ids["item_id"][old]
        assert jagged_row(taken.history["item_id"], new) == jagged_row(batch.history["item_id"], old)
        assert jagged_row(taken.text["title"], new) == jagged_row(batch.text["title"], old)
        ages = (Jagged(b.history_age_s, b.history["item_id"].offsets) for b in (taken, batch))
        assert jagged_row(next(ages), new) == jagged_row(next(ages), old)
        assert shown(taken, new) == shown(batch, old)
    used = {image for row in range(len(rows)) for image in shown(taken, row)} - {-1}
    assert set(taken.images.unique.tolist()) == used  # nothing is fetched for rows that are gone
    assert batch.images is not None
    index = dict(zip(batch.images.unique.tolist(), batch.images.unique_index.tolist(), strict=True))
    assert taken.images.unique_index.tolist() == [index[image] for image in taken.images.unique.tolist()]


def test_rows_without_behaviours_and_images_are_taken() -> None:
    none = np.zeros(0, dtype=np.int64)
    batch = replace(make_batch([2, 1, 3], 0), history={}, history_age_s=none, images=None)
    taken = take_rows(batch, np.array([2, 0]))
    assert taken.ids["item_id"].tolist() == batch.ids["item_id"][[2, 0]].tolist()
    assert taken.history == {}
    assert taken.images is None
    assert taken.history_age_s.dtype == np.int64
    assert len(taken.history_age_s) == 0


def test_every_positive_stays_and_the_share_of_negatives() -> None:
    batches = [make_batch([1] * 500, seed) for seed in range(20)]
    kept = list(keep_negatives(batches, "click", 0.2, seed=1, epoch=0))
    before, after = (np.concatenate([b.labels["click"] for b in found]) for found in (batches, kept))
    assert after.sum() == before.sum()
    assert 0.17 < (after == 0).sum() / (before == 0).sum() < 0.23
    again, other = (
        np.concatenate([b.timestamp for b in keep_negatives(batches, "click", 0.2, seed=1, epoch=epoch)])
        for epoch in (0, 1)
    )
    assert np.array_equal(again, np.concatenate([b.timestamp for b in kept]))
    assert not np.array_equal(again, other)
    assert list(keep_negatives(batches, "click", 1.0, seed=1, epoch=0)) == batches


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(BadInput, match="share of negatives"):
        list(keep_negatives([], "click", rate, seed=0, epoch=0))
