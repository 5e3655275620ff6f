from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmedia.trainer.metrics import auc, bootstrap, gauc
from crossmedia.trainer.metrics.bootstrap import (
    Interval,
    Metric,
    PairedRows,
    Reweighted,
    interval_over,
    paired_interval,
)

Array = npt.NDArray[Any]
METRICS: tuple[Metric, ...] = ("auc", "gauc")

rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.integers(0, 3), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


def plain(metric: Metric, label: Array, predictions: Array, users: Array) -> float:
    return auc(label, predictions) if metric == "auc" else gauc(label, predictions, users).value


@given(rows, st.sampled_from(METRICS))
def test_a_row_of_weight_three_is_as_three_rows(data: list[tuple[int, float, int, int]], metric: Metric) -> None:
    label, predictions, users, weights = (np.array(column) for column in zip(*data, strict=True))
    groups = users if metric == "gauc" else np.zeros_like(users)
    repeated = (np.repeat(column, weights) for column in (label, predictions, users))
    found = Reweighted(label, predictions, groups)(weights.astype(float))
    assert found == pytest.approx(plain(metric, *repeated), abs=1e-12, nan_ok=True)


def slow_interval(
    label: Array, first: Array, second: Array, users: Array, items: Array, metric: Metric, draws: int
) -> Interval:
    """The pigeonhole bootstrap as it is written in the paper: rows of the users and items drawn, one by one."""
    rng = np.random.default_rng(1)

    def difference(chosen: Array, seeds: Array) -> float:
        return float(
            np.mean(
                [
                    plain(metric, label[chosen], first[seed][chosen], users[chosen])
                    - plain(metric, label[chosen], second[seed][chosen], users[chosen])
                    for seed in seeds
                ]
            )
        )

    found = []
    every_user, every_item = np.unique(users), np.unique(items)
    for _ in range(draws):
        drawn_users = list(rng.choice(every_user, len(every_user)))
        drawn_items = list(rng.choice(every_item, len(every_item)))
        chosen = [
            row
            for row in range(len(label))
            for _ in range(drawn_users.count(users[row]) * drawn_items.count(items[row]))
        ]
        found.append(difference(np.array(chosen), rng.integers(0, len(first), len(first))))
    mean, half = difference(np.arange(len(label)), np.arange(len(first))), 1.96 * float(np.nanstd(found, ddof=1))
    return Interval(mean, mean - half, mean + half)


def simulated(rng: np.random.Generator, seeds: int = 1, n_users: int = 40, n_items: int = 30) -> PairedRows:
    """Clicks of users on items with tastes of their own; two models that know the items with errors of their own."""
    users, items = (each.ravel() for each in np.meshgrid(np.arange(n_users), np.arange(n_items)))
    kept = rng.random(len(users)) < 0.5
    users, items = users[kept], items[kept]
    of_user, of_item = rng.normal(0, 1, n_users), rng.normal(0, 1, n_items)
    label = (rng.random(len(users)) < 1 / (1 + np.exp(-of_user[users] - of_item[items]))).astype(np.int64)

    def side(error: float) -> Array:
        fixed = of_item + rng.normal(0, error, n_items)  # the same with every seed: what the data made of the item
        return np.stack([(fixed + rng.normal(0, 0.2, n_items))[items] for _ in range(seeds)])

    return PairedRows(label, side(0.5), side(1.5), users, items)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_is_that_of_a_slow_plain_version(metric: Metric, seeds: int) -> None:
    data = simulated(np.random.default_rng(3), seeds, n_users=12, n_items=10)
    slow = slow_interval(data.label, data.first, data.second, data.users, data.items, metric, draws=600)
    found = paired_interval(
        data.label, data.first, data.second, data.users, data.items, metric=metric, draws=2000, seed=7
    )
    assert found.mean == pytest.approx(slow.mean, abs=1e-12)
    assert found.half_width == pytest.approx(slow.half_width, rel=0.12)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_covers_the_truth_and_one_over_users_alone_does_not(metric: Metric) -> None:
    """The truth is the mean over ever new users and items, which differ more than their rows do."""
    rng = np.random.default_rng(11)
    many = [simulated(rng, n_users=100) for _ in range(400)]
    differences = [
        plain(metric, each.label, each.first[0], each.users) - plain(metric, each.label, each.second[0], each.users)
        for each in many
    ]
    truth, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))

    def intervals(items_of: Callable[[PairedRows], Array]) -> list[Interval]:
        return [
            paired_interval(each.label, each.first, each.second, each.users, items_of(each), metric=metric, draws=60)
            for each in many[:100]
        ]

    crossed = intervals(lambda each: each.items)
    users_only = intervals(lambda each: np.zeros(len(each.label)))  # one item, which every draw has
    covers, not_items = (np.mean([one.low <= truth <= one.high for one in found]) for found in (crossed, users_only))
    assert covers >= 0.9
    assert not_items < 0.75
    # What single rows add counts up to three times in its variance, and never less than once.
    assert 0.9 < np.mean([one.half_width for one in crossed]) / (1.96 * deviation) < 1.5


def test_a_side_without_seeds_is_a_pair_of_each_seed() -> None:
    data = simulated(np.random.default_rng(5), seeds=3)
    once, thrice = data.second[0], np.stack([data.second[0]] * 3)
    found = [
        paired_interval(data.label, data.first, side, data.users, data.items, metric="auc") for side in (once, thrice)
    ]
    assert found[0].mean == pytest.approx(found[1].mean)
    assert found[0].half_width == pytest.approx(found[1].half_width)


def test_seeds_that_differ_widen_the_interval() -> None:
    data = simulated(np.random.default_rng(5))
    rng = np.random.default_rng(6)
    alike, unlike = (
        np.stack([data.first[0] + rng.normal(0, error, 30)[data.items] for _ in range(4)]) for error in (0, 2)
    )
    narrow, wide = (
        paired_interval(data.label, side, data.second[0], data.users, data.items, metric="auc")
        for side in (alike, unlike)
    )
    assert wide.half_width > 1.1 * narrow.half_width


def test_several_hold_outs_are_narrower_than_one_and_share_their_users() -> None:
    rng = np.random.default_rng(8)
    sets = [simulated(rng, seeds=2) for _ in range(4)]
    own = [PairedRows(s.label, s.first, s.second, s.users, s.items + 1000 * n) for n, s in enumerate(sets)]
    each = [interval_over([one], metric="auc") for one in own]
    together = interval_over(own, metric="auc")
    assert together.mean == pytest.approx(np.mean([one.mean for one in each]))
    assert together.half_width < np.mean([one.half_width for one in each])
    # The same set four times tells no more than once, where its items are the same items.
    again = interval_over([sets[0]] * 4, metric="auc", draws=1000)
    once = interval_over([sets[0]], metric="auc", draws=1000)
    assert again.half_width == pytest.approx(once.half_width, rel=0.15)


def test_rows_without_both_classes_have_no_figure_and_few_have_no_interval() -> None:
    ones, codes = np.ones(4), np.arange(4)
    assert math.isnan(paired_interval(ones, codes, -codes, codes, codes, metric="auc").mean)
    one_click = paired_interval(np.array([1, 0, 0, 0]), -codes, codes, codes, codes, metric="auc")
    assert one_click.mean == 1
    assert math.isnan(one_click.low)
    assert not one_click.above_zero


def test_sides_that_are_no_pairs_are_refused() -> None:
    data = simulated(np.random.default_rng(5), seeds=3)
    with pytest.raises(ValueError, match="3 and 2 seeds"):
        paired_interval(data.label, data.first, data.first[:2], data.users, data.items, metric="auc")
    with pytest.raises(ValueError, match="one length"):
        paired_interval(data.label, data.first[:, 1:], data.second, data.users, data.items, metric="auc")


def test_the_examples_run() -> None:
    assert doctest.testmod(bootstrap).failed == 0
    assert doctest.testmod(bootstrap).attempted >= 4
