"""Does one code tell one factor? One-code R², and DCI (Eastwood and Williams, ICLR 2018).

Both grow with the number of codes, also of random ones: compare at equal width, beside a random dictionary.

Legend: n photos, K codes, V factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TREES = {"num_leaves": 8, "min_data_in_leaf": 10, "learning_rate": 0.1, "verbosity": -1, "num_threads": 1, "seed": 0}
ROUNDS = 60


@dataclass(frozen=True)
class Dci:
    """How far each code is of one factor, and each factor in one code, from 0 to 1.

    Attributes:
        disentanglement: 1: each code that tells anything tells one factor.
        completeness: 1: each factor is told by one code.
    """

    disentanglement: float
    completeness: float


def one_code_r2(codes: Floats, factors: Floats) -> Floats:
    """Of each factor the largest squared correlation with a single code, shape (V,).

    Args:
        codes: shape (n, K).
        factors: shape (n, V).
    """
    one, other = (
        (each - each.mean(axis=0)) / np.where(each.std(axis=0) > 0, each.std(axis=0), 1) for each in (codes, factors)
    )
    found: Floats = ((one.T @ other / len(one)) ** 2).max(axis=0)
    return found


def dci(importances: Floats) -> Dci:
    """Of how much each code counts for each factor, shape (K, V), none below 0.

    A code's disentanglement is 1 less the entropy of its importances over the factors, as a share of the most, and
    codes count by how important they are; a factor's completeness is the same over the codes.

    Raises:
        ValueError: nothing counts, or there are fewer than two codes or factors.

    Example:
        >>> import numpy as np
        >>> from benchmarks.whitebox_disentangled import dci
        >>> dci(np.eye(3)), dci(np.ones((3, 3)))
        (Dci(disentanglement=1.0, completeness=1.0), Dci(disentanglement=0.0, completeness=0.0))
    """
    if min(importances.shape) < 2 or importances.sum() <= 0:
        raise ValueError(f"importances of shape {importances.shape} with a sum of {importances.sum()} have no DCI")
    weights = importances.sum(axis=1) / importances.sum()
    return Dci(
        round(float(weights @ _concentrated(importances)), 12), round(float(_concentrated(importances.T).mean()), 12)
    )


def _concentrated(importances: Floats) -> Floats:
    """Of each row: 1 less its entropy, with as many digits as there are columns; 0 of a row without anything."""
    total = importances.sum(axis=1, keepdims=True)
    shares = np.divide(importances, total, out=np.full_like(importances, 1 / importances.shape[1]), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    found: Floats = 1 + (shares * logs).sum(axis=1) / np.log(importances.shape[1])
    return found


def importances(codes: Floats, factors: Floats) -> Floats:
    """How much each code counts for each factor, shape (K, V): gains of boosted trees, of each factor a share of 1."""
    found = []
    for factor in factors.T:
        booster = lightgbm.train(TREES, lightgbm.Dataset(codes, factor), ROUNDS)
        gain = np.asarray(booster.feature_importance("gain"), dtype=np.float64)
        found.append(gain / max(gain.sum(), 1e-12))
    return np.stack(found, axis=1)
