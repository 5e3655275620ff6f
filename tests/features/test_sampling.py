"""Rows taken out of a batch, and negatives left out of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unfolded import unfolded

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch, BatchItems, Jagged, VectorKeys, concatenate
from crossmedia.features.reading.sampling import keep_negatives


def jagged(rng: np.random.Generator, lengths: list[int], top: int) -> Jagged:
    return Jagged.of_lengths(rng.integers(0, top, sum(lengths)), np.array(lengths, dtype=np.int64))


def make_batch(lengths: list[int], seed: int) -> Batch:
    """Rows with so many behaviours each, of some of 20 items."""
    rng = np.random.default_rng(seed)
    b, n, rows = len(lengths), sum(lengths), np.sort(rng.permutation(20)[:7])
    images = jagged(rng, rng.integers(0, 4, len(rows)).tolist(), 40)
    unique, index = np.unique(images.values, return_inverse=True)
    items = BatchItems(
        rows,
        {"item_id": rows + 1, "shop": rows % 3},
        {"price": (rows / 2).astype(np.float32)},
        {"tags": Jagged.of_lengths(np.repeat(rows, rows % 3), rows % 3)},
        {"title": Jagged.of_lengths(np.repeat(rows, rows % 4), rows % 4)},
        {"photo": VectorKeys(unique, unique % 5, Jagged(index.reshape(-1), images.offsets))},
    )
    return Batch(
        labels={"click": rng.integers(0, 2, b).astype(np.float32)},
        timestamp=np.arange(b) + 1000 * seed,
        ids={"user_id": rng.integers(0, 9, b)},
        numbers={"age": rng.random(b).astype(np.float32)},
        lists={"likes": jagged(rng, rng.integers(0, 3, b).tolist(), 9)},
        items=items,
        target=rng.integers(0, len(rows), b),
        history=jagged(rng, lengths, len(rows)),
        action=rng.integers(0, 3, n),
        history_age_s=rng.integers(1, 99, n),
    )


many_lengths = st.lists(st.integers(0, 4), min_size=1, max_size=6)


def check_items(batch: Batch) -> None:
    """Each item and each key stands once, and there is none that nothing refers to."""
    used = {*batch.target.tolist(), *batch.history.values.tolist()}
    assert used == set(range(len(batch.items)))
    assert (np.diff(batch.items.rows) > 0).all()
    keys = batch.items.vectors["photo"]
    assert set(keys.of_items.values.tolist()) == set(range(len(keys.unique)))
    assert (np.diff(keys.unique) > 0).all()
    assert keys.unique_index.tolist() == (keys.unique % 5).tolist()


@given(many_lengths, st.integers(0, 9), st.data())
def test_rows_that_are_taken_are_what_they_were(lengths: list[int], seed: int, data: st.DataObject) -> None:
    batch = make_batch(lengths, seed)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), unique=True, max_size=len(lengths)))
    taken, every = batch.take(np.array(rows, dtype=np.int64)), unfolded(batch)
    assert len(taken) == len(rows)
    check_items(taken)  # nothing is fetched for rows that are gone
    assert unfolded(taken) == [every[row] for row in rows]


@given(many_lengths, many_lengths, st.integers(0, 9))
def test_batches_that_are_joined_are_what_they_were(first: list[int], second: list[int], seed: int) -> None:
    """Keys of images are of one table, in which an item of a row has the same in every batch."""
    one = make_batch([*first, *second], seed)
    left, right = one.take(np.arange(len(first))), one.take(np.arange(len(first), len(one)))
    both = concatenate([left, right])
    check_items(both)
    assert unfolded(both) == [*unfolded(left), *unfolded(right)] == unfolded(one)
    assert concatenate([one]) is one


def test_items_of_requests_are_not_taken_for_one_another() -> None:
    batch = make_batch([1, 1], 0)
    request = replace(batch, items=replace(batch.items, rows=np.full(len(batch.items), -1)))
    assert unfolded(concatenate([request, request])) == [*unfolded(batch), *unfolded(batch)]


def test_rows_without_behaviours_and_vectors_are_taken() -> None:
    none = np.zeros(0, dtype=np.int64)
    batch = make_batch([0, 0, 0], 0)
    batch = replace(batch, items=replace(batch.items, vectors={}))
    taken = batch.take(np.array([2, 0]))
    assert taken.ids["user_id"].tolist() == batch.ids["user_id"][[2, 0]].tolist()
    assert taken.items.vectors == {}
    assert taken.action.dtype == taken.history_age_s.dtype == np.int64
    assert taken.history.values.tolist() == none.tolist()


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
