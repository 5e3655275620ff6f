"""Linear probes: what the features say of a photo, learnt on some photos and judged on others.

Legend: n photos, F numbers in a feature, V things that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

FOLDS = 4
PENALTIES = (0.1, 1.0, 10.0, 100.0)  # of features of variance 1; all things asked for share the best of them
NEWTON_STEPS = 30
COLUMNS_AT_ONCE = 256


@dataclass(frozen=True)
class Scale:
    """What brings the numbers of a feature to mean 0 and variance 1.

    Attributes:
        mean, deviation: shape (F,); a number that is the same for all photos has the deviation 1.
    """

    mean: Doubles
    deviation: Doubles

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> Scale:
        """That of rows, shape (n, F)."""
        deviation = values.std(axis=0, dtype=np.float64)
        return cls(values.mean(axis=0, dtype=np.float64), np.where(deviation > 1e-6, deviation, 1.0))

    def __call__(self, values: npt.NDArray[np.floating]) -> Floats:
        """Rows, shape (n, F), scaled."""
        scaled: Floats = ((values - self.mean) / self.deviation).astype(np.float32)
        return scaled


@dataclass(frozen=True)
class Affine:
    """Numbers that are linear in others: ``rows @ weight + bias``.

    Attributes:
        weight, bias: shape (F, V) and (V,).
    """

    weight: Doubles
    bias: Doubles

    def of(self, rows: Floats) -> Floats:
        """Shape (n, V), of rows of shape (n, F)."""
        found: Floats = rows @ self.weight.astype(np.float32) + self.bias.astype(np.float32)
        return found

    def then(self, weight: Doubles, bias: Doubles | float = 0.0) -> Affine:
        """These numbers, and another linear function of them: weight of shape (V, W)."""
        return Affine(self.weight @ weight, self.bias @ weight + bias)

    def scaled(self, scale: Scale) -> Affine:
        """These numbers, brought to mean 0 and variance 1."""
        return Affine(self.weight / scale.deviation, (self.bias - scale.mean) / scale.deviation)

    def beside(self, *others: Affine) -> Affine:
        """These numbers and others of the same rows."""
        every = (self, *others)
        return Affine(np.hstack([one.weight for one in every]), np.hstack([one.bias for one in every]))

    def columns(self, chosen: list[int]) -> Affine:
        """Some of these numbers."""
        return Affine(self.weight[:, chosen], self.bias[chosen])


@dataclass(frozen=True)
class Probes:
    """Linear functions of scaled features.

    Attributes:
        numbers: V of them, learnt on all photos.
        left_out: shape (n, V): what each photo gets from probes that were learnt without it and without its group.
        penalty: on the squared weights, that was best on photos left out.
    """

    numbers: Affine
    left_out: Floats
    penalty: float


def folds_of(groups: Places, seed: int = 0) -> Places:
    """A fold of each photo, shape (n,), 0 to 3: photos of one group are in the same."""
    names, places = np.unique(groups, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    found: Places = shuffled[places] % FOLDS
    return found


def fit_probes(features: Floats, wanted: Floats, folds: Places) -> Probes:
    """Ridge regression of all that is wanted at once: one factorisation, and nothing that may not converge.

    Of a flag it is the linear discriminant; on photos left out it finds flags as well as logistic regression does, in a
    hundredth of the time (docs/adr/0042).

    Args:
        features: scaled, shape (n, F).
        wanted: shape (n, V), numbers or flags.
        folds: of each photo, shape (n,).
    """
    left_out = {penalty: np.zeros(wanted.shape, dtype=np.float32) for penalty in PENALTIES}
    for fold in range(FOLDS):
        out = folds == fold
        solved = _Factorised(features[~out], wanted[~out])
        for penalty in PENALTIES:
            left_out[penalty][out] = solved.at(penalty).of(features[out])
    centred = wanted - wanted.mean(axis=0)
    scale = np.maximum((centred**2).mean(axis=0), 1e-12)
    lost = {p: float((((found - wanted) ** 2).mean(axis=0) / scale).mean()) for p, found in left_out.items()}
    best = min(lost, key=lambda penalty: lost[penalty])
    return Probes(_Factorised(features, wanted).at(best), left_out[best], best)


class _Factorised:
    """Ridge regression with any penalty, from one factorisation."""

    def __init__(self, features: Floats, wanted: Floats):
        self._centre, self._mean = features.mean(axis=0, dtype=np.float64), wanted.mean(axis=0, dtype=np.float64)
        centred = features - self._centre.astype(np.float32)
        self._values, self._vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(features))
        across = centred.T @ (wanted - self._mean.astype(np.float32))
        self._across = self._vectors.T @ (across.astype(np.float64) / len(features))

    def at(self, penalty: float) -> Affine:
        weight = self._vectors @ (self._across / (np.maximum(self._values, 0) + penalty)[:, None])
        return Affine(weight, self._mean - self._centre @ weight)


def auc(scores: Floats, flags: Flags) -> Doubles:
    """Area under the ROC curve of each column of scores, shape (n, V), for flags of that shape; ties count half."""
    found = []
    for start in range(0, scores.shape[1], COLUMNS_AT_ONCE):
        part = flags[:, start : start + COLUMNS_AT_ONCE]
        ranks = rankdata(scores[:, start : start + COLUMNS_AT_ONCE], axis=0)
        there = part.sum(axis=0)
        pairs = np.maximum(there * (len(part) - there), 1)
        found.append(((ranks * part).sum(axis=0) - there * (there + 1) / 2) / pairs)
    return np.concatenate(found) if found else np.zeros(0)


def explained(found: Floats, wanted: Floats) -> Doubles:
    """R² of each column, shape (V,): the share of the variance that is found."""
    centred = wanted - wanted.mean(axis=0)
    lost = ((wanted - found) ** 2).sum(axis=0, dtype=np.float64)
    return np.asarray(1 - lost / np.maximum((centred**2).sum(axis=0, dtype=np.float64), 1e-12))


def logits(found: Probes, flags: Flags) -> Affine:
    """Probes of flags as calibrated logits: by what they gave photos left out."""
    slope, shift = _calibration(found.left_out, flags)
    return Affine(found.numbers.weight * slope, found.numbers.bias * slope + shift)


def _calibration(scores: Floats, flags: Flags) -> tuple[Doubles, Doubles]:
    """Slope and shift, shape (V,) each, that make logits of scores: Platt (1999), with his targets, by Newton's method.

    Args:
        scores: shape (n, V), of photos left out.
        flags: shape (n, V).
    """
    there = flags.sum(axis=0).astype(np.float64)
    targets = np.where(flags, (there + 1) / (there + 2), 1 / (len(flags) - there + 2))
    scale = Scale.of(scores)
    x = scale(scores).astype(np.float64)
    share = targets.mean(axis=0)
    slope, shift = np.ones_like(share), np.log(share / (1 - share))
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(slope * x + shift, -30, 30)))
        wrong, curve = p - targets, p * (1 - p)
        g1, g0 = (wrong * x).mean(axis=0), wrong.mean(axis=0)
        h11, h10, h00 = (curve * x * x).mean(axis=0) + 1e-6, (curve * x).mean(axis=0), curve.mean(axis=0) + 1e-9
        determinant = np.maximum(h11 * h00 - h10 * h10, 1e-12)
        slope = slope - np.clip((h00 * g1 - h10 * g0) / determinant, -1, 1)
        shift = shift - np.clip((h11 * g0 - h10 * g1) / determinant, -1, 1)
    return slope / scale.deviation, shift - slope * scale.mean / scale.deviation
