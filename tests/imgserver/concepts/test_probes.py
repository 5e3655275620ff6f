"""Probes, what is chosen of them, and free codes: against slow definitions, and on data whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import fisher_exact

from crossmedia.imgserver.concepts.choosing import choose
from crossmedia.imgserver.concepts.dictionary import RETURNS, free_codes, random_codes
from crossmedia.imgserver.concepts.items import Items, Trait
from crossmedia.imgserver.concepts.linear import (
    FOLDS,
    Affine,
    Scale,
    auc,
    explained,
    fit_probes,
    folds_of,
    logits,
)
from crossmedia.imgserver.concepts.naming import (
    FALSE_DISCOVERIES,
    LEAST_LOOKS,
    Words,
    frequent_words,
    names_of_codes,
    naming_photos,
)

RNG = np.random.default_rng(7)


def test_probes_are_ridge_regression_and_are_judged_on_other_groups() -> None:
    features = RNG.standard_normal((90, 5)).astype(np.float32)
    groups = RNG.integers(0, 30, 90)
    wanted = (features[:, :2] + RNG.standard_normal((90, 2)) > 0.3).astype(np.float32)
    folds = folds_of(groups)
    assert set(folds.tolist()) == set(range(FOLDS))
    for group in np.unique(groups):
        assert len(set(folds[groups == group].tolist())) == 1
    found = fit_probes(features, wanted, folds)

    def slowly(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = x.mean(axis=0)
        gram = (x - mean).T @ (x - mean) / len(x) + found.penalty * np.eye(x.shape[1])
        weight = np.linalg.solve(gram, (x - mean).T @ (y - y.mean(axis=0)) / len(x))
        return weight, y.mean(axis=0) - mean @ weight

    weight, bias = slowly(features.astype(np.float64), wanted.astype(np.float64))
    np.testing.assert_allclose(found.numbers.weight, weight, atol=1e-5)
    np.testing.assert_allclose(found.numbers.bias, bias, atol=1e-5)
    for fold in range(FOLDS):
        out = folds == fold
        weight, bias = slowly(features[~out].astype(np.float64), wanted[~out].astype(np.float64))
        np.testing.assert_allclose(found.left_out[out], features[out] @ weight + bias, atol=1e-5)


def test_auc_counts_pairs_and_half_of_the_ties() -> None:
    scores = RNG.integers(0, 5, (40, 3)).astype(np.float32)
    flags = RNG.random((40, 3)) < 0.3
    for column in range(3):
        pairs = list(itertools.product(scores[flags[:, column], column], scores[~flags[:, column], column]))
        wanted = np.mean([1.0 if one > other else 0.5 if one == other else 0.0 for one, other in pairs])
        assert auc(scores, flags)[column] == pytest.approx(wanted)


def test_logits_are_calibrated_on_photos_left_out() -> None:
    features = RNG.standard_normal((4000, 4)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(2 * features[:, 0] - 2)))
    flags = (RNG.random(4000) < chance)[:, None]
    found = fit_probes(features, flags.astype(np.float32), folds_of(np.arange(4000)))
    told = 1 / (1 + np.exp(-logits(found, flags).of(features)[:, 0]))
    assert abs(told.mean() - flags.mean()) < 0.01
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (told >= low) & (told < high)
        assert abs(told[inside].mean() - flags[inside, 0].mean()) < 0.06


def test_a_product_that_is_known_by_heart_is_no_value(photos_of_products: tuple[np.ndarray, np.ndarray]) -> None:
    """Values that are drawn by product are told perfectly while its other photos are seen, and not at all otherwise."""
    features, products = photos_of_products
    flags = (np.random.default_rng(0).random(products.max() + 1) < 0.5)[products][:, None]
    by_photo = fit_probes(features, flags.astype(np.float32), folds_of(np.arange(len(products))))
    by_product = fit_probes(features, flags.astype(np.float32), folds_of(products))
    assert auc(by_photo.left_out, flags)[0] > 0.9
    assert 0.3 < auc(by_product.left_out, flags)[0] < 0.7


@pytest.fixture
def photos_of_products() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    products = np.repeat(np.arange(50), 6)
    centre = rng.standard_normal((50, 100))
    return (centre[products] + 0.3 * rng.standard_normal((300, 100))).astype(np.float32), products


def test_numbers_that_do_not_vary_do_not_divide_by_zero() -> None:
    values = np.ones((10, 3), dtype=np.float32)
    assert np.isfinite(Scale.of(values)(values)).all()
    assert explained(values, values).tolist() == [1.0, 1.0, 1.0]


def test_linear_functions_are_put_one_behind_the_other() -> None:
    one = Affine(RNG.standard_normal((4, 3)), RNG.standard_normal(3))
    rows = RNG.standard_normal((9, 4)).astype(np.float32)
    weight = RNG.standard_normal((3, 2))
    np.testing.assert_allclose(one.then(weight, 2.0).of(rows), one.of(rows) @ weight + 2, atol=1e-5)
    scaled = one.scaled(Scale.of(one.of(rows))).of(rows)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-5)
    assert one.beside(one).columns([0, 5]).of(rows).shape == (9, 2)


def test_what_is_said_already_is_passed_over() -> None:
    base = RNG.standard_normal((2000, 4)).astype(np.float32)
    noisy = base[:, :1] + 0.2 * RNG.standard_normal((2000, 1)).astype(np.float32)
    both = base[:, 1:2] + base[:, 2:3]
    columns = Scale.of(outputs := np.concatenate([base[:, 1:], noisy, both], axis=1))(outputs)
    chosen = choose(columns, base[:, :1], [0, 3, 1, 4, 2], 9)
    assert chosen.taken == (0, 1, 2)
    assert chosen.said == (3, 4)  # one is told before, the other by two that are taken
    assert choose(columns, base[:, :1], [2, 1, 0], 1) == type(chosen)((2,), (), (1, 0))


def sparse_photos(directions: int, n: int = 3000, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Features that are sums of a few of some directions, and noise; and which directions each has."""
    rng = np.random.default_rng(3)
    axes = rng.standard_normal((directions, width))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    there = rng.random((n, directions)) < 0.06
    amount = there * rng.uniform(2.0, 3.0, (n, directions))
    return (amount @ axes + 0.1 * rng.standard_normal((n, width))).astype(np.float32), there


def test_directions_that_photos_share_come_back_and_noise_does_not() -> None:
    features, there = sparse_photos(12)
    found = free_codes(features - features.mean(axis=0), np.arange(len(features)))
    assert (found.stability > RETURNS).all()
    codes = np.maximum(found.numbers.of(features - features.mean(axis=0)), 0)
    best = np.array([auc(np.repeat(codes[:, [k]], 12, axis=1), there).max() for k in range(codes.shape[1])])
    assert (best > 0.9).mean() > 0.8, best
    noise = RNG.standard_normal((3000, 40)).astype(np.float32)
    assert len(free_codes(noise, np.arange(3000)).stability) <= 2
    assert found.found == 64


def test_few_photos_have_few_codes() -> None:
    few = RNG.standard_normal((20, 8)).astype(np.float32)
    assert len(free_codes(few, np.arange(20)).stability) == 0
    control = random_codes(RNG.standard_normal((200, 30)).astype(np.float32), 5, 0)
    assert control.numbers.weight.shape == (30, 5)


def words_of(there: np.ndarray, groups: np.ndarray | None = None) -> Words:
    """Words of photos: which has which, shape (n, V)."""
    rows = tuple(np.flatnonzero(column) for column in there.T)
    traits = tuple(Trait("probe", "title", f"w{number}", True) for number in range(there.shape[1]))
    groups = np.arange(len(there)) if groups is None else groups
    return Words.of(Items(np.arange(len(there), dtype=np.uint64), groups, traits, rows), 1)


def test_names_are_fishers_exact_test_over_all_words() -> None:
    n, k = 400, 60
    there = RNG.random((n, 30)) < RNG.uniform(0.05, 0.4, 30)
    photos = np.arange(k)
    there[:40, 3] = True  # a word that most of the group has
    (token,) = [token for place, token in frequent_words(words_of(there), photos) if place == 3]
    inside, outside = there[:k], there[k:]
    chances = [
        fisher_exact(
            [[inside[:, w].sum(), k - inside[:, w].sum()], [outside[:, w].sum(), n - k - outside[:, w].sum()]],
            alternative="greater",
        ).pvalue
        for w in range(30)
    ]
    order = np.argsort(chances)
    corrected = np.minimum.accumulate((np.array(chances)[order] * 30 / np.arange(1, 31))[::-1])[::-1]
    assert token.text == "title: w3"
    assert token.q == pytest.approx(corrected[list(order).index(3)])
    assert token.photos == inside[:, 3].sum()
    assert token.lift == pytest.approx(inside[:, 3].mean() / there[:, 3].mean(), abs=0.01)


def test_products_are_counted_and_not_their_photos() -> None:
    """Photos of one product share its text: forty of them are one piece of evidence."""
    there = RNG.random((400, 30)) < 0.05
    there[:, 3] = False
    there[:40, 3] = True
    products = np.concatenate([np.zeros(40, np.int64), np.arange(1, 361)])
    assert [place for place, _ in frequent_words(words_of(there), np.arange(60))] == [3]
    assert 3 not in [place for place, _ in frequent_words(words_of(there, products), np.arange(60))]


def test_photos_that_have_nothing_in_common_have_no_name() -> None:
    there = RNG.random((2000, 500)) < 0.05
    words = words_of(there)
    named = sum(bool(frequent_words(words, RNG.choice(2000, 60, replace=False))) for _ in range(100))
    assert named <= 100 * FALSE_DISCOVERIES * 5
    assert frequent_words(words, np.zeros(0, np.int64)) == []


def test_a_name_is_a_word_that_the_photos_look_like() -> None:
    """Half of the striped photos are said to be striped: that names a code of those with the most stripes. It does not
    name a code that has a few photos which are said to be striped among many that are not."""
    n = 3000
    striped = np.arange(n) < 300
    features = RNG.standard_normal((n, 20)).astype(np.float32)
    features[striped, 0] += 5
    there = RNG.random((n, 40)) < 0.05
    there[:, 7] = striped & (RNG.random(n) < 0.5)
    words = words_of(there)
    theirs = np.where(striped, features[:, 0], 0).clip(0)
    mixed = np.where(np.arange(n) % 30 == 0, 1 + RNG.random(n), 0).astype(np.float32)
    mixed[np.flatnonzero(there[:, 7])[:12]] = 3
    assert [place for place, _ in frequent_words(words, naming_photos(mixed))] == [7]
    (first, second) = names_of_codes(np.stack([theirs, mixed], axis=1), features, words)
    assert [token.text for token in first] == ["title: w7"]
    assert (first[0].looks or 0) >= LEAST_LOOKS
    assert second == ()
    (again, other) = names_of_codes(np.stack([theirs, theirs], axis=1), features, words)
    assert again == first
    assert other == ()  # a word names one code


def test_the_photos_that_name_a_code_have_it() -> None:
    code = np.zeros(5000, dtype=np.float32)
    code[[7, 8, 9]] = (1, 3, 2)
    assert naming_photos(code).tolist() == [8, 9, 7]
    assert len(naming_photos(np.arange(5000, dtype=np.float32))) == 50
