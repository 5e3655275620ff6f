"""Rows of samples as a model is given them: tensors, and the vectors of their items, fetched ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from crossmedia.features.batch import Batch
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.images.ahead import Wanted, vectors_ahead
from crossmedia.trainer.images.spaces import Fetched, Keys, Spaces
from crossmedia.trainer.one_copy import copied_together
from crossmedia.trainer.tensors import ImageVectors, SpaceVectors, TensorBatch, as_arrays


@dataclass(frozen=True)
class Fed:
    """A batch that a model is given.

    Attributes:
        tensors: what it sees of the rows.
        keys: shape (K,), the unique keys of its vectors, by space.
        fetched: what ``Spaces.fetch`` gave for them.
    """

    tensors: TensorBatch
    keys: Keys
    fetched: Fetched | None = None

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Fed:
        """A batch, copied to the device of a model; of its vectors nothing is fetched yet."""
        wanted = of_batch(batch)
        return cls(copied_together(wanted.made, device), wanted.keys)

    def vectors(self, spaces: Spaces) -> dict[str, ImageVectors]:
        """Vectors of the unique keys of each space that is on."""
        vectors: dict[str, ImageVectors] = spaces(self.keys, self.fetched)
        return vectors


def of_batch(batch: Batch) -> Wanted[TensorBatch]:
    """What a model needs of a batch of samples."""
    return Wanted({name: found.unique for name, found in batch.items.vectors.items()}, as_arrays(batch))


@dataclass(frozen=True)
class Feed:
    """Where batches come from.

    Attributes:
        samples: the rows.
        spaces: makes the vectors of their items.
        batch_size: rows of a batch.
        device: of the model.
    """

    samples: Samples
    spaces: Spaces
    batch_size: int
    device: torch.device

    def of(self, batches: Iterable[Batch]) -> Iterator[Fed]:
        """Some batches, with what their vectors need fetched ahead."""
        for ready in vectors_ahead(batches, of_batch, self.spaces, self.device):
            yield Fed(ready.made, ready.keys, ready.fetched)

    def first_rows(self, seed: int) -> Iterator[tuple[TensorBatch, SpaceVectors]]:
        """Training rows, shuffled by ``seed``, with the vectors of their items, for what is fitted before training."""
        for fed in self.of(self.samples.batches("train", self.batch_size, shuffle_seed=seed)):
            yield fed.tensors, fed.vectors(self.spaces)
