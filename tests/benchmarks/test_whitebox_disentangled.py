"""DCI and one-code R², beside loops that follow the paper word by word, and cases that can be told by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.whitebox_disentangled import Dci, dci, importances, one_code_r2


def by_loops(found: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Disentanglement and completeness, one number at a time."""
    codes, factors = found.shape
    disentanglement = completeness = 0.0
    for k in range(codes):
        total = sum(found[k])
        entropy = 0.0
        for v in range(factors):
            share = found[k, v] / total if total > 0 else 1 / factors
            entropy -= share * math.log(share, factors) if share > 0 else 0
        disentanglement += total / found.sum() * (1 - entropy)
    for v in range(factors):
        total = sum(found[:, v])
        entropy = 0.0
        for k in range(codes):
            share = found[k, v] / total if total > 0 else 1 / codes
            entropy -= share * math.log(share, codes) if share > 0 else 0
        completeness += (1 - entropy) / factors
    return disentanglement, completeness


@pytest.mark.parametrize("seed", range(8))
def test_dci_is_what_loops_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.random((int(rng.integers(2, 9)), int(rng.integers(2, 5)))) * (rng.random(1) < 0.9)
    found[rng.random(found.shape) < 0.4] = 0
    found[0, 0] = 1
    assert (dci(found).disentanglement, dci(found).completeness) == pytest.approx(by_loops(found))


def test_a_permutation_is_disentangled_and_complete() -> None:
    assert dci(np.eye(4)[[2, 0, 3, 1]]) == Dci(1, 1)


def test_two_codes_of_one_factor_are_disentangled_and_not_complete() -> None:
    found = dci(np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]))
    assert found == Dci(1, 0.5)


def test_what_has_no_importance_is_refused() -> None:
    with pytest.raises(ValueError, match="have no DCI"):
        dci(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="have no DCI"):
        dci(np.ones((1, 2)))


def test_one_code_r2_is_that_of_the_best_single_regression() -> None:
    rng = np.random.default_rng(0)
    codes, factors = rng.standard_normal((60, 5)), rng.standard_normal((60, 2))
    factors[:, 0] += 2 * codes[:, 3]
    best = [
        max(
            1 - np.polyfit(codes[:, k], factors[:, v], 1, full=True)[1][0] / (factors[:, v].var() * 60)
            for k in range(5)
        )
        for v in range(2)
    ]
    assert one_code_r2(codes, factors) == pytest.approx(best)


def test_a_code_that_never_changes_tells_nothing() -> None:
    assert one_code_r2(np.ones((9, 2)), np.arange(9.0)[:, None]).tolist() == [0]


def test_trees_find_the_code_that_counts() -> None:
    rng = np.random.default_rng(1)
    codes = rng.standard_normal((400, 4))
    found = importances(codes, np.stack([codes[:, 2], -codes[:, 0]], axis=1))
    assert found.argmax(axis=0).tolist() == [2, 0]
    assert found.sum(axis=0) == pytest.approx([1, 1])
