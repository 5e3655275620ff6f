"""What a text encoder is to the server: a backbone like any other, with what it reads and what makes features of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.versions import FEATURE_DTYPE
from crossmedia.imgserver.text.reading import TextReading

BATCH = 32

Features = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Features]


class TextEngine:
    """Runs an encoder on batches of texts, one call at a time: tokenizers and torch's threads are not shared.

    Args:
        name: what it runs on.
        encode: features, shape (n, F), of n texts; not finite for one that it knows nothing of.
        no_feature: why that is so.

    Attributes:
        batch: texts that it takes best at a time.
        in_flight: calls that are worth having under way at once.
    """

    in_flight = 1

    def __init__(self, name: str, encode: Encode, no_feature: str = "the encoder gives numbers that are not finite"):
        self.name, self._encode, self.no_feature, self.batch = name, encode, no_feature, BATCH
        self._lock = threading.Lock()

    def run(self, pictures: Iterable[Any]) -> Features:
        """Features, shape (n, F), of n texts: the name is that of engines for pictures."""
        with self._lock:
            return self._encode([str(text) for text in pictures])


@dataclass(frozen=True)
class TextBackbone:
    """A frozen text encoder.

    Attributes:
        recipe: how users name it, behind ``text:``, and what makes it again.
        version: ``text:<name>@<12 hex of sha256(weights, how texts are read)>``.
        feature_dim: numbers in a feature.
        make: makes its engine from a number of threads, 0 for all cores, and the device of torch that it may take.
        preprocessing: from bytes to text.
        probe: a text that it can encode, for a check that work goes through.
    """

    recipe: str
    version: str
    feature_dim: int
    make: Callable[[int, str], TextEngine]
    preprocessing: TextReading = TextReading()
    probe: str = "red dress"

    @property
    def space(self) -> Space:
        """What its features are stored in, out of any store."""
        return Space(0, self.version, "feature", self.feature_dim, FEATURE_DTYPE, recipe=self.recipe)
