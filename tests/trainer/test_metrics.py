from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmedia.trainer.metrics import auc, calibration, gauc, log_loss, rela_impr
from crossmedia.trainer.metrics.ranking import Weight

rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.2, 0.5, 0.9]), st.integers(0, 3)), max_size=40
)


def slow_auc(labels: list[int], scores: list[float]) -> float:
    pairs = [
        (p, n) for p, y in zip(scores, labels, strict=True) if y for n, z in zip(scores, labels, strict=True) if not z
    ]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs) if pairs else math.nan


@given(rows)
def test_auc_equals_counting_pairs(data: list[tuple[int, float, int]]) -> None:
    labels, scores = [d[0] for d in data], [d[1] for d in data]
    assert auc(np.array(labels), np.array(scores)) == pytest.approx(slow_auc(labels, scores), nan_ok=True)


@given(rows, st.sampled_from(["impressions", "positives", "none"]))
def test_gauc_equals_a_loop_over_users(data: list[tuple[int, float, int]], weight: Weight) -> None:
    total = weights = 0.0
    users = impressions = 0
    for user in {d[2] for d in data}:
        labels, scores = [d[0] for d in data if d[2] == user], [d[1] for d in data if d[2] == user]
        if 0 < sum(labels) < len(labels):
            w = {"impressions": len(labels), "positives": sum(labels), "none": 1}[weight]
            total, weights = total + w * slow_auc(labels, scores), weights + w
            users, impressions = users + 1, impressions + len(labels)
    found = gauc(np.array([d[0] for d in data]), np.array([d[1] for d in data]), np.array([d[2] for d in data]), weight)
    assert found.value == pytest.approx(total / weights if weights else math.nan, nan_ok=True)
    assert (found.users, found.impressions) == (users, impressions)


def test_log_loss_and_calibration() -> None:
    y, p = np.array([1, 0, 1, 0]), np.array([0.9, 0.2, 1.0, 0.5])
    slow = -sum(math.log(a) if b else math.log(1 - a) for a, b in zip([0.9, 0.2, 1 - 1e-7, 0.5], y, strict=True)) / 4
    assert log_loss(y, p) == pytest.approx(slow)
    assert calibration(y, p) == pytest.approx(2.6 / 2)
    assert math.isnan(calibration(np.zeros(3), np.ones(3)))


def test_log_loss_of_a_wrong_certainty_is_that_of_double_precision() -> None:
    # 1 - 1e-7 is no float32: there the loss would be 15.9.
    assert log_loss(np.array([0]), np.array([1], dtype=np.float32)) == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert log_loss(np.array([1]), np.array([0], dtype=np.float32)) == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_rela_impr_over_a_base_that_is_no_better_than_chance_is_nothing() -> None:
    assert math.isnan(rela_impr(0.6, 0.5))
    assert math.isnan(rela_impr(0.6, 0.4))


def test_rela_impr_gives_the_figures_of_dins_table() -> None:
    assert rela_impr(0.7348, 0.7300) == pytest.approx(2.09, abs=0.005)
    assert rela_impr(0.6029, 0.5970) == pytest.approx(6.08, abs=0.005)
