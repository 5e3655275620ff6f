"""What the benchmark of the white box measures with, on cases that can be told by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.whitebox_kept import IDS, PICTURES, WHITE, Kept, kept
from benchmarks.whitebox_runs import jaccard, shuffled
from benchmarks.whitebox_truth import Truth, ceiling
from crossmedia.imgserver.client import MockTransport
from crossmedia.trainer.intervals import JudgedRows
from crossmedia.trainer.metrics import auc


def truth_of(values: list[float], photo_of: dict[str, int], late: set[str]) -> Truth:
    return Truth(
        ("warmth",),
        np.arange(len(values)),
        np.array(values)[:, None],
        np.ones(1),
        np.ones(1),
        photo_of,
        frozenset(late),
    )


def test_jaccard_is_over_rows_and_pairs_of_seeds() -> None:
    one, other = [{"a", "b", "c"}, {"a"}], [{"a", "b", "d"}, {"a"}]
    assert jaccard([one, one]) == 1
    assert jaccard([one, other]) == pytest.approx((2 / 4 + 1) / 2)
    assert jaccard([one, other, one]) == pytest.approx((0.75 + 1 + 0.75) / 3)
    assert math.isnan(jaccard([one]))


def test_each_late_photo_counts_once_and_others_do_not() -> None:
    truth = truth_of([1, 2, 3, 100], {"a": 0, "b": 1, "c": 2, "seen": 3, "bare": -1}, {"a", "b", "c", "bare"})
    items = ["a", "a", "a", "b", "c", "seen", "bare"]
    picture = np.array([1.0, 2.0, 3.0, 3.0, 4.0, -100.0, 7.0])  # means 2, 3, 4
    assert truth.beside(picture, items).tolist() == [[2, 1], [3, 2], [4, 3]]
    assert truth.late_photos().tolist() == [0, 1, 2]
    assert truth.early_photos().tolist() == [3]


def test_the_ceiling_is_what_features_say_of_photos_that_were_not_learnt() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((120, 6))
    late = {f"i{number}" for number in range(80, 120)}
    photo_of = {f"i{number}": number for number in range(120)}
    known = truth_of((features @ rng.standard_normal(6)).tolist(), photo_of, late)
    assert ceiling(features, known) > 0.99
    chance = truth_of(rng.standard_normal(120).tolist(), photo_of, late)
    assert abs(ceiling(features, chance)) < 0.5


def test_shuffled_photos_are_the_same_vectors_at_others() -> None:
    of = MockTransport({i: np.full(4, i, dtype=np.float16) for i in range(50)})
    found = shuffled(of, 7)
    assert found.version == of.version
    assert sorted(float(vector[0]) for vector in found.vectors.values()) == [float(i) for i in range(50)]
    assert sum(found.vectors[i][0] != i for i in range(50)) > 40


def some_rows(n: int = 3000) -> tuple[JudgedRows, dict[str, list[npt.NDArray[np.float64]]]]:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 60, n), rng.integers(0, 50, n)
    of_picture, of_ids = rng.standard_normal(50)[items], rng.standard_normal(60)[users]
    labels = (rng.random(n) < 1 / (1 + np.exp(-of_picture - of_ids))).astype(int)
    test = JudgedRows(labels, users, items, np.ones(n, dtype=bool), {"all": np.ones(n, dtype=bool)})
    noise = [rng.normal(0, 0.01, n) for _ in range(3)]
    sides = {
        IDS: [of_ids + one for one in noise],
        PICTURES: [of_ids + of_picture + one for one in noise],
        WHITE: [of_ids + 0.7 * of_picture + one for one in noise],
    }
    return test, sides


def test_kept_is_a_share_of_the_gain_with_an_interval_around_it() -> None:
    test, sides = some_rows()
    found = kept(test, "all", "auc", sides)
    means = {name: np.mean([auc(test.labels, one) for one in side]) for name, side in sides.items()}
    assert found.gain == pytest.approx(means[PICTURES] - means[IDS])
    assert found.share == pytest.approx((means[WHITE] - means[IDS]) / found.gain)
    assert found.low < found.share < found.high < 1.2
    assert found.counted


def test_what_is_the_same_is_kept_whole() -> None:
    test, sides = some_rows()
    found = kept(test, "all", "auc", {**sides, WHITE: sides[PICTURES]})
    assert (found.share, found.low, found.high) == pytest.approx((1, 1, 1))


def test_a_gain_that_seeds_could_make_is_not_counted() -> None:
    assert not Kept(1.5, 0, 3, gain=0.003, deviation=0.002, seeds=5).counted
    assert Kept(0.9, 0.8, 1, gain=0.05, deviation=0.002, seeds=5).counted
    assert not Kept(0.9, 0.8, 1, gain=0.05, deviation=math.nan, seeds=1).counted
