"""What ``training`` needs of a peer's model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.ctr_peers.arrays import Arrays, Float32Array
from crossmedia.features.batch import Int64Array

BATCH = 1024
WIDTH = 16  # numbers in an embedding
CONTEXT_WIDTH = 8  # of a behaviour's kind and of its age: together as wide as our context, which is their sum


@dataclass(frozen=True)
class Tuned:
    """What is chosen on the validation part.

    Attributes:
        learning_rate: of Adam.
        regularisation: L2 weight of the embeddings (of all weights for LR), in the library's own scale; None takes
            the library's own default.
    """

    learning_rate: float = 1e-3
    regularisation: float | None = None


class Peer(Protocol):
    """A model of a peer, with its own loss and step."""

    model: Any

    def prepare(self, arrays: Arrays) -> Any:
        """Rows in the library's form, once."""

    def batch(self, prepared: Any, rows: Int64Array) -> Any:
        """Some of these rows, as ``step`` and ``predict`` take them."""

    def step(self, batch: Any) -> None:
        """Forward, backward and optimizer."""

    def predict(self, batch: Any) -> Float32Array:
        """Probabilities, shape (B,)."""
