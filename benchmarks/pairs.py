"""Which pairs of behaviours should bring pictures together: one head in closed form for each kind of pairs.

    python -m benchmarks.pairs --samples samples --store store --space photo --product-digits 7

The head of a kind of pairs is that of linear discriminants: the directions in which all pictures of the pairs differ
most beside how the two of a pair differ, among the first principal components of the features. It has no learning rate,
no batches and no stopping, so that nothing but the pairs tells two lines of the table apart. Recall of cold pictures
(``trainer/align/recall.py``) stands beside that of the features, of principal components as they are and divided by a
power of their deviation, and of numbers drawn at random. Swing (Yang et al., arXiv 2010.05525, section 3.1) brings two
items together by the pairs of users who have both, each pair the less, the more the two users have in common.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from benchmarks.parts import finish
from crossmedia import open_store
from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.align.behaviours import FloatArray, Training
from crossmedia.trainer.align.keys import ItemParts, SpaceKeys
from crossmedia.trainer.align.pair_options import WEIGHTS, PairOptions
from crossmedia.trainer.align.pairs import Pairs, pairs_of
from crossmedia.trainer.align.recall import ColdQueries, cold_queries, groups_by_key, recall

DIM = 64
COMPONENTS = ((128, 0.1), (256, 0.5))  # how many, and how much of the covariances is that of independent components
WINDOWS = {"one day": 1.0, "48 hours": 48.0, "7 days": 168.0, "30 days": 720.0, "any time": 1e6}
ALPHA = 1.0


class Pictures:
    """Features of all keys as principal components, largest first, fitted on those that the training part has.

    Args:
        keys: ascending, shape (n,).
        features: shape (n, F).
        known: whether the training part has each, shape (n,).
    """

    def __init__(self, keys: Int64Array, features: FloatArray, known: npt.NDArray[np.bool_]):
        self.keys, self.features = keys, features
        centred = features - features[known].mean(axis=0)
        variance, directions = np.linalg.eigh(centred[known].T @ centred[known] / known.sum())
        self.scores = centred @ directions[:, ::-1]
        self.deviation = np.sqrt(np.maximum(variance[::-1], 1e-12))

    def rows(self, keys: Int64Array) -> Int64Array:
        """Where keys stand."""
        return np.searchsorted(self.keys, keys)

    def discriminants(self, pairs: Pairs, components: int, shrink: float) -> FloatArray:
        """The vectors of the head that pairs make, shape (n, ``DIM``)."""
        left, right = (self.scores[self.rows(keys), :components] for keys in (pairs.left, pairs.right))
        weights = (pairs.weights / pairs.weights.sum())[:, None]
        centre = ((left + right) * weights).sum(axis=0) / 2
        within = ((left - right) * weights).T @ (left - right) / 2
        total = sum(((side - centre) * weights).T @ (side - centre) for side in (left, right)) / 2
        within, total = (np.diag(np.diag(of)) * shrink + of * (1 - shrink) for of in (within, total))
        ratio, directions = scipy.linalg.eigh(total, within)
        ratio, directions = ratio[::-1][:DIM], directions[:, ::-1][:, :DIM]
        scale = np.sqrt(np.maximum(ratio - 1, 1e-3) / ratio)  # what two of a pair share, of what one of them is
        found: FloatArray = ((self.scores[:, :components] - centre) @ (directions * scale)).astype(np.float32)
        return found


def swing(samples: Samples, space: str) -> Pairs:
    """Pairs of items that pairs of users have in common, weighted by Swing."""
    keys, parts = SpaceKeys.of(samples, space), ItemParts.of(samples)
    liked = Training.of(samples, WEIGHTS).liked
    liked = liked.take(parts.warm[liked.items] & (keys.slices.length[liked.items] > 0))
    shape = (int(liked.users.max()) + 1, len(parts.warm))
    has = scipy.sparse.csr_matrix((np.ones(len(liked)), (liked.users, liked.items)), shape)
    has.data[:] = 1
    common = scipy.sparse.triu(has @ has.T, 1).tocoo()
    degree = np.asarray(has.sum(axis=1)).ravel()
    weight: dict[tuple[int, int], float] = defaultdict(float)
    for one, other, count in zip(common.row, common.col, common.data, strict=True):
        if count >= 2:
            items = np.intersect1d(has[one].indices, has[other].indices)
            for pair in itertools.combinations(items.tolist(), 2):
                weight[pair] += 1 / ((ALPHA + count) * np.sqrt(degree[one] * degree[other]))
    if not weight:
        raise BadInput("No two users have two items in common.")
    pairs = np.array(list(weight))
    nobody, none = np.zeros(len(pairs), dtype=np.int64), np.full(len(pairs), -1)
    left, right = keys.first(pairs[:, 0]), keys.first(pairs[:, 1])
    return Pairs(nobody, left, right, np.array(list(weight.values()), dtype=np.float32), none)


def kinds(samples: Samples, space: str) -> Iterator[tuple[str, Callable[[], Pairs]]]:
    """What is compared, by name."""

    def made(options: PairOptions) -> Callable[[], Pairs]:
        return lambda: pairs_of(samples, options, space)

    for name, hours in WINDOWS.items():
        yield f"window {name}", made(PairOptions(window_h=hours))
    yield "next, 30 days", made(PairOptions(source="next", window_h=720))
    for column in (name for name in samples.item_ids if name != "item_id"):
        yield f"window 7 days, same {column}", made(PairOptions(window_h=168, category=column))
    yield "Swing", lambda: swing(samples, space)


def pictures_of(samples: Samples, store: str, space: str) -> Pictures:
    """The features of all keys of a space, out of a store."""
    of, parts = SpaceKeys.of(samples, space), ItemParts.of(samples)
    keys = np.unique(of.keys)
    with open_store(store) as client:
        found = client.get(keys, version=client.info().backbone)
    features = np.where(found.ok[:, None], found.values, 0).astype(np.float32)
    return Pictures(keys, features, np.isin(keys, of.of_items(~parts.new)) & found.ok)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description="Which pairs of behaviours should bring pictures together.")
    parser.add_argument("--samples", type=Path, required=True, help="what 'features build' made")
    parser.add_argument("--store", required=True, help="store that was filled from the photos, with features")
    parser.add_argument("--space", default="image")
    parser.add_argument("--product-digits", type=int, default=0, help="characters of an item's key that name a product")
    arguments = parser.parse_args()
    samples, space = Samples(arguments.samples), arguments.space
    pictures = pictures_of(samples, arguments.store, space)
    queries = {"held out": cold_queries(samples, "validation", space), "new": cold_queries(samples, "test", space)}
    if arguments.product_digits:
        groups = groups_by_key(samples, arguments.product_digits)
        queries["new products"] = cold_queries(samples, "test", space, groups=groups)
    found: dict[str, dict[str, float]] = {}

    def line(name: str, vectors: FloatArray) -> None:
        found[name] = _recalls(queries, pictures, vectors)
        print(f"{name:48}" + "  ".join(f"{part} {share:.4f}" for part, share in found[name].items()), flush=True)

    line("features", pictures.features)
    line("random", np.random.default_rng(0).standard_normal((len(pictures.keys), DIM)).astype(np.float32))
    for dim, power in itertools.product((DIM, 4 * DIM), (0, 0.5, 1)):
        vectors = pictures.scores[:, :dim] / pictures.deviation[:dim] ** power
        line(f"{dim} components, divided by deviation ** {power}", vectors)
    for name, pairs_made in kinds(samples, space):
        try:
            pairs = pairs_made()
        except BadInput as error:
            print(f"{name:48}{error}")
            continue
        for components, shrink in COMPONENTS:
            vectors = pictures.discriminants(pairs, components, shrink)
            line(f"{name}: {len(pairs):,} pairs, {components} components", vectors)
    finish("pairs", {}, recall_at_100=found)


def _recalls(queries: dict[str, ColdQueries], pictures: Pictures, vectors: FloatArray) -> dict[str, float]:
    """Recall@100 by part."""
    return {
        part: recall(asked, lambda keys: vectors[pictures.rows(keys)], at=(100,))[100]
        for part, asked in queries.items()
    }


if __name__ == "__main__":
    main()
