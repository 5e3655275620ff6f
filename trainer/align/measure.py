"""How good a head is, beside what it starts from, the features themselves, and chance.

Legend: n keys, D numbers in a vector, F in a feature.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import HeadServers
from crossmedia.trainer import processes
from crossmedia.trainer.align.behaviours import FloatArray
from crossmedia.trainer.align.recall import ColdQueries, cold_queries, groups_by_key, recall
from crossmedia.trainer.align.settings import AlignConfig
from crossmedia.trainer.images.image_head import ImageHead

AT = (10, 100)
BLOCK = 8192  # keys whose vectors are asked for at once
VALIDATION: Literal["validation"] = "validation"
TEST: Literal["test"] = "test"
PRODUCTS = "test, new products"
Vectors = Callable[[Int64Array], FloatArray]
Recalls = dict[str, float]  # by k, as JSON has it


@dataclass(frozen=True)
class Measured:
    """What a head is measured by: recall of the next clicked image among those that no pair has.

    Attributes:
        images: makes the vectors, with the head as it is.
        queries: of ``validation``, which say when to stop, and of ``test`` and of its new products where there are
            any.
        seed: of the vectors that are drawn at random.
    """

    images: ImageHead
    queries: dict[str, ColdQueries]
    seed: int

    @classmethod
    def of(cls, samples: Samples, images: ImageHead, space: str, config: AlignConfig) -> Measured:
        """The queries of samples.

        Raises:
            BadInput: validation has none, so that nothing says if a head is better than its start.
        """
        weights = config.pairs.weights
        queries: dict[str, ColdQueries] = {VALIDATION: cold_queries(samples, VALIDATION, space, weights=weights)}
        with suppress(BadInput):  # without new items there is nothing to test by
            queries[TEST] = cold_queries(samples, TEST, space, weights=weights)
            if config.product_digits:
                groups = groups_by_key(samples, config.product_digits)
                queries[PRODUCTS] = cold_queries(samples, TEST, space, weights=weights, groups=groups)
        return cls(images, queries, config.seed)

    @property
    def k(self) -> int:
        """How many candidates count as found, for the recall that says when to stop: 100, or a tenth of fewer."""
        return min(AT[-1], max(1, len(self.queries[VALIDATION].pool) // 10))

    def watched(self) -> float:
        """The recall that says when to stop, of the head as it is; the same in all processes."""
        return self.of_head(VALIDATION, (self.k,))[str(self.k)]

    def of_head(self, part: str, at: tuple[int, ...]) -> Recalls:
        """Recall of the head as it is, by k; the first process measures for all."""
        return self._for_all(lambda: self._recall(part, self.vectors, at))

    def of_others(self, part: str, at: tuple[int, ...]) -> dict[str, Recalls]:
        """The same of the features themselves, and of vectors drawn at random."""
        return {
            "features": self._for_all(lambda: self._recall(part, self.features, at)),
            "random": self._for_all(lambda: self._recall(part, self.random, at)),
        }

    def _for_all(self, work: Callable[[], Recalls]) -> Recalls:
        said = json.dumps(work()).encode() if processes.rank() == 0 else b""
        found: Recalls = json.loads(processes.from_first(said, self.images._where.device))
        return found

    def _recall(self, part: str, vectors: Vectors, at: tuple[int, ...]) -> Recalls:
        return {str(k): float(value) for k, value in recall(self.queries[part], vectors, at).items()}

    @torch.no_grad()
    def vectors(self, keys: Int64Array) -> FloatArray:
        """Vectors of the head as it is, shape (n, D); zeros where there is no image."""
        training = self.images.training
        self.images.eval()
        found = [np.zeros((0, self.images.dim), dtype=np.float32)]
        found += [self.images(keys[at : at + BLOCK]).values.cpu().numpy() for at in range(0, len(keys), BLOCK)]
        self.images.train(training)
        return np.concatenate(found)

    def features(self, keys: Int64Array) -> FloatArray:
        """The features behind the vectors, shape (n, F)."""
        source = self.images.source
        client = source.client if isinstance(source, HeadServers) else source
        found = client.get(keys, version=self.images.backbone)
        return np.where(found.ok[:, None], found.values, 0).astype(np.float32)

    def random(self, keys: Int64Array) -> FloatArray:
        """Vectors that know nothing, shape (n, D): the same of the same key."""
        return np.stack(
            [np.random.default_rng([self.seed, key]).standard_normal(self.images.dim) for key in keys.tolist()]
        ).astype(np.float32)
