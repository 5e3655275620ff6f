"""Free concepts: what groups of photos have in common that nobody has named.

Features without what the named concepts explain are whitened and clustered by their direction; the centres are the
dictionary, and a photo's code is its product with a centre, less a threshold, and never below 0 (Coates and Ng, ICML
2011: clustering with this encoder does what sparse coding does, and nothing needs to be trained). A code counts only if
other seeds, which see other photos, find it too: features of photos have many directions, and most of those that a
single run finds are its own (docs/adr/0042).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossmedia.imgserver.concepts.linear import Affine, Doubles, Floats, Places
from crossmedia.imgserver.similarity.index import faiss_module

SEEDS = 3
SHARE_SEEN = 0.8  # of the groups, by each seed
RETURNS = 0.7  # least correlation of two codes that are the same
CENTRES, PHOTOS_A_CENTRE = 64, 12  # at most so many, and of fewer photos fewer
WHITENED = 64  # directions of the most variance
SOFTENED = 0.1  # of the mean variance, which keeps whitening from blowing up what is small
ACTIVE = 8  # codes that a photo has on average
ROUNDS = 30


@dataclass(frozen=True)
class FreeCodes:
    """Directions in scaled features.

    Attributes:
        numbers: M of them; what is below 0 of them is not there.
        stability: shape (M,): the correlation at which another seed found each, the best of the others.
        found: codes of the first seed, before those that did not come back were left out.
    """

    numbers: Affine
    stability: Doubles
    found: int


def free_codes(left: Floats, groups: Places) -> FreeCodes:
    """The codes that come back under another seed, the most stable ones first.

    Args:
        left: scaled features less what is explained, shape (n, F).
        groups: of the photos, shape (n,).
    """
    whiten = _whitening(left)
    seen = left @ whiten.astype(np.float32)
    centres = min(CENTRES, len(seen) // PHOTOS_A_CENTRE)
    if centres < 2:
        return FreeCodes(Affine(np.zeros((left.shape[1], 0)), np.zeros(0)), np.zeros(0), 0)
    runs = [_run(seen, groups, centres, seed) for seed in range(SEEDS)]
    codes = [_standardised(np.maximum(seen @ weight + bias, 0)) for weight, bias in runs]
    again = np.stack([(codes[0].T @ other / len(seen)).max(axis=1) for other in codes[1:]])
    stability = again.max(axis=0)
    order = [int(place) for place in np.argsort(-stability) if stability[place] > RETURNS]
    weight, bias = runs[0]
    numbers = Affine(whiten @ weight[:, order].astype(np.float64), bias[order].astype(np.float64))
    return FreeCodes(numbers, stability[order], centres)


def random_codes(left: Floats, codes: int, seed: int) -> FreeCodes:
    """The control: as many directions by chance, whitened and cut in the same way."""
    whiten = _whitening(left)
    seen = left @ whiten.astype(np.float32)
    drawn = np.random.default_rng(seed).standard_normal((seen.shape[1], codes)).astype(np.float32)
    weight = drawn / np.linalg.norm(drawn, axis=0)
    bias = np.full(codes, -_threshold(seen @ weight), dtype=np.float64)
    return FreeCodes(Affine(whiten @ weight.astype(np.float64), bias), np.zeros(codes), codes)


def _whitening(left: Floats) -> Doubles:
    """What makes directions of the most variance equally wide, shape (F, at most 64)."""
    values, vectors = np.linalg.eigh((left.T @ left).astype(np.float64) / len(left))
    kept = min(WHITENED, left.shape[1], max(1, len(left) // 4))
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    whitened: Doubles = vectors / np.sqrt(values + SOFTENED * max(values.mean(), 1e-12))
    return whitened


def _run(seen: Floats, groups: Places, centres: int, seed: int) -> tuple[Floats, Floats]:
    """Centres by direction, shape (Q, M), and thresholds, of the photos that one seed sees."""
    faiss = faiss_module()
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    inside = seen[np.isin(groups, rng.choice(names, max(1, round(SHARE_SEEN * len(names))), replace=False))]
    unit = inside / np.maximum(np.linalg.norm(inside, axis=1, keepdims=True), 1e-12)
    clusters = faiss.Kmeans(
        seen.shape[1],
        centres,
        niter=ROUNDS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=1 << 30,
    )
    clusters.train(np.ascontiguousarray(unit, dtype=np.float32))
    weight = np.ascontiguousarray(clusters.centroids.T)
    return weight, np.full(centres, -_threshold(inside @ weight), dtype=np.float32)


def _threshold(products: Floats) -> float:
    """What leaves a photo so many codes on average."""
    rank = min(ACTIVE, products.shape[1]) / products.shape[1]
    return float(max(0.0, np.quantile(products, 1 - rank)))


def _standardised(codes: Floats) -> Floats:
    scaled: Floats = (codes - codes.mean(axis=0)) / np.maximum(codes.std(axis=0), 1e-9)
    return scaled
