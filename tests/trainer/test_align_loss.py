"""The loss of pairs beside a slow, plain version of it, and the batches that it is given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossmedia.features.batch import Int64Array
from crossmedia.trainer import processes
from crossmedia.trainer.align.batches import PairBatch, PairBatches
from crossmedia.trainer.align.learner import COLDEST, WARMEST, AlignLearner
from crossmedia.trainer.align.loss import HARD_WEIGHT, Side, contrast
from crossmedia.trainer.align.pairs import Pairs
from crossmedia.trainer.tensors import ImageVectors

NO_IMAGE = 5


class Table(nn.Module):
    """Vectors of keys in memory, in place of images; one key has none."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, keys: Int64Array, fetched: None = None) -> ImageVectors:
        ok = torch.from_numpy(keys != NO_IMAGE)
        return ImageVectors(torch.where(ok[:, None], self.values[torch.from_numpy(keys)], 0.0), ok)


def some_pairs(count: int = 40, keys: int = 12, hard: bool = True) -> Pairs:
    rng = np.random.default_rng(1)
    left = rng.integers(keys, size=count)
    right = (left + rng.integers(1, keys, size=count)) % keys
    negatives = np.where(rng.random(count) < 0.5, rng.integers(keys, size=count), -1) if hard else np.full(count, -1)
    weights = rng.choice([1.0, 2.0, 3.0], size=count).astype(np.float32)
    return Pairs(rng.integers(8, size=count), left, right, weights, negatives)


def learner_of(dtype: torch.dtype = torch.float32, penalty: float = 0.0, keys: int = 12) -> AlignLearner:
    torch.manual_seed(2)
    table: Any = Table(torch.randn(keys, 4, dtype=dtype))
    return AlignLearner(table, penalty, 0.07).to(dtype)


def table_of(learner: AlignLearner) -> Tensor:
    """All vectors."""
    table: Any = learner.images
    values: Tensor = table.values
    return values


def plain_loss(values: np.ndarray[Any, Any], pairs: Pairs, rows: Int64Array, temperature: float) -> float:
    """As the documents say it: one pair after the other, one candidate after the other."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    both = [*pairs.left.tolist(), *pairs.right.tolist()]
    liked = {
        (int(user), key) for side in (pairs.left, pairs.right) for user, key in zip(pairs.users, side, strict=True)
    }
    there = [row for row in rows if NO_IMAGE not in (pairs.left[row], pairs.right[row])]
    total = 0.0
    for row in there:
        of_row = 0.0
        for own, others in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
            scores = {}
            for other in there:
                if other == row or (pairs.users[row], others[other]) not in liked:
                    cosine = float(unit[own[row]] @ unit[others[other]])
                    scores[other] = cosine / temperature - math.log(both.count(others[other]) / len(both))
            of_row += (math.log(sum(math.exp(score) for score in scores.values())) - scores[row]) / 2
        hard = pairs.negatives[row]
        if hard not in (-1, NO_IMAGE):
            anchor = unit[pairs.left[row]]
            near, far = anchor @ unit[pairs.right[row]], anchor @ unit[hard]
            of_row += HARD_WEIGHT * math.log(1 + math.exp((far - near) / temperature))
        total += float(pairs.weights[row]) * of_row
    return total / sum(float(pairs.weights[row]) for row in there)


def order(pairs: Pairs, seed: int, epoch: int, batches: int) -> list[Int64Array]:
    """The pairs of each batch."""
    return np.array_split(np.random.default_rng([seed, epoch]).permutation(len(pairs)), batches)


@pytest.mark.parametrize("hard", [False, True])
def test_the_loss_is_that_of_the_plain_version(hard: bool) -> None:
    pairs = some_pairs(hard=hard)
    batches, learner = PairBatches(pairs, 16, seed=3), learner_of(torch.float64)
    values = table_of(learner).detach().numpy()
    for epoch in range(2):
        rows = order(pairs, 3, epoch, 3)
        for batch, of_batch in zip(batches.epoch(epoch), rows, strict=True):
            expected = plain_loss(values, pairs, of_batch, 0.07)
            assert learner(batch, None).item() == pytest.approx(expected, rel=1e-5)


def test_each_pair_is_in_one_batch_of_an_epoch_and_the_order_is_drawn() -> None:
    pairs = some_pairs(50)
    batches = PairBatches(pairs, 16, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        found = list(batches.epoch(epoch))
        assert [len(batch.weights) for batch in found] == [13, 13, 12, 12]
        left = np.concatenate([batch.keys[batch.left] for batch in found])
        assert (np.sort(left) == np.sort(pairs.left)).all()
        orders.append(left.tolist())
    assert orders[0] == orders[2] != orders[1]


def test_what_a_user_likes_anywhere_is_no_negative() -> None:
    """Also if it is the image of another user's pair, or the user's pair with it is in another batch."""
    pairs = some_pairs(40)
    liked = {(user, key) for side in (pairs.left, pairs.right) for user, key in zip(pairs.users, side, strict=True)}
    rows = order(pairs, 0, 0, 4)
    for batch, of_batch in zip(PairBatches(pairs, 10, seed=0).epoch(0), rows, strict=True):
        for side, images in ((batch.left_side, pairs.left), (batch.right_side, pairs.right)):
            found = set(zip(side.rows.tolist(), side.columns.tolist(), strict=True))
            assert len(found) == len(side.rows) > 0
            assert found == {
                (number, place)
                for number, row in enumerate(of_batch)
                for place, other in enumerate(of_batch)
                if other != row and (pairs.users[row], images[other]) in liked
            }


def test_frequent_candidates_are_corrected() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    anchors = torch.eye(2)
    side = Side(torch.eye(2), torch.tensor([0.9, 0.1]).log(), torch.ones(2, dtype=torch.bool), none, none)
    found = contrast(anchors, torch.arange(2), side, torch.tensor(1.0))
    logits = torch.tensor([[1 / 0.9 * math.e, 1 / 0.1], [1 / 0.9, 1 / 0.1 * math.e]])
    assert found.tolist() == pytest.approx((logits.sum(1) / logits.diagonal()).log().tolist(), rel=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    learner = learner_of(torch.float64, penalty=0.3)
    with torch.no_grad():
        table_of(learner).mul_(1.1)  # away from the start, where the penalty has no slope
    (batch,) = PairBatches(some_pairs(20), 20, seed=0).epoch(0)
    learner(batch, None).backward()
    for weight in (table_of(learner), learner.log_temperature):
        assert weight.grad is not None
        flat, slope = weight.data.view(-1), weight.grad.view(-1)
        for place in range(len(flat)):
            before = flat[place].item()
            found = []
            for change in (1e-6, -1e-6):
                flat[place] = before + change
                found.append(learner(batch, None).item())
            flat[place] = before
            assert slope[place].item() == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_a_pair_without_an_image_counts_nothing() -> None:
    pairs = Pairs(np.arange(2), np.array([1, NO_IMAGE]), np.array([2, 3]), np.ones(2, np.float32), np.full(2, -1))
    learner = learner_of()
    (batch,) = PairBatches(pairs, 2, seed=0).epoch(0)
    loss = learner(batch, None)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)  # its partner is the only candidate
    slope = table_of(learner).grad
    assert slope is not None
    assert torch.isfinite(slope).all()


def test_the_penalty_is_relative_to_the_start() -> None:
    plain, held = learner_of(penalty=0.0), learner_of(penalty=2.0)
    (batch,) = PairBatches(some_pairs(20), 20, seed=0).epoch(0)
    assert held(batch, None).item() == plain(batch, None).item()
    with torch.no_grad():
        for learner in (plain, held):
            table_of(learner).mul_(1.5)
    assert held(batch, None).item() - plain(batch, None).item() == pytest.approx(2 * 0.5**2, rel=1e-5)


@pytest.mark.parametrize(("log", "bound"), [(-9.0, COLDEST), (3.0, WARMEST)])
def test_the_temperature_stays_in_its_bounds(log: float, bound: float) -> None:
    learner = learner_of()
    with torch.no_grad():
        learner.log_temperature.fill_(log)
    learner.bound()
    assert learner.temperature == pytest.approx(bound)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_the_pairs_of_a_batch(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = some_pairs(20)
    (whole,) = PairBatches(pairs, 20, seed=0).epoch(0)
    monkeypatch.setattr(processes, "world", lambda: world)
    parts: list[PairBatch] = []
    for rank in range(world):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        parts += PairBatches(pairs, 20, seed=0).epoch(0)
    assert sorted(np.concatenate([part.own for part in parts]).tolist()) == list(range(20))
    for part in parts:
        assert (part.keys[part.left] == whole.keys[whole.left][part.own]).all()
        assert (part.keys[part.right] == whole.keys[whole.right][part.own]).all()
        theirs = np.isin(whole.right_side.rows, part.own)
        places = set(zip(whole.right_side.rows[theirs], whole.right_side.columns[theirs], strict=True))
        assert set(zip(part.own[part.right_side.rows], part.right_side.columns, strict=True)) == places
        assert (part.weights == whole.weights).all()
        assert len(part.keys) == len(np.unique(part.keys)) <= len(whole.keys)
