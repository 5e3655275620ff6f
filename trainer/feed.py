"""Rows of samples as a model is given them: tensors, and the vectors of their items, fetched ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from crossmedia.features.batch import Batch, Int64Array
from crossmedia.features.reading.prefetch import fetch_ahead
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.images.spaces import Fetched, Spaces
from crossmedia.trainer.tensors import ImageVectors, SpaceVectors, TensorBatch, to_tensors


@dataclass(frozen=True)
class Fed:
    """A batch that a model is given.

    Attributes:
        tensors: what it sees of the rows.
        keys: shape (K,), the unique keys of its vectors, by space.
        fetched: what ``Spaces.fetch`` gave for them.
    """

    tensors: TensorBatch
    keys: Mapping[str, Int64Array]
    fetched: Fetched | None = None

    @classmethod
    def of(cls, batch: Batch, device: torch.device, fetched: Fetched | None = None) -> Fed:
        """A batch, copied to the device of a model."""
        keys = {name: found.unique for name, found in batch.items.vectors.items()}
        return cls(to_tensors(batch, device), keys, fetched)

    def vectors(self, spaces: Spaces) -> dict[str, ImageVectors]:
        """Vectors of the unique keys of each space that is on."""
        vectors: dict[str, ImageVectors] = spaces(self.keys, self.fetched)
        return vectors


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
        for batch, fetched in fetch_ahead(batches, self.spaces.fetch):
            yield Fed.of(batch, self.device, fetched)

    def first_rows(self, seed: int) -> Iterator[tuple[TensorBatch, SpaceVectors]]:
        """Training rows, shuffled by ``seed``, with the vectors of their items, for what is fitted before training."""
        for fed in self.of(self.samples.batches("train", self.batch_size, shuffle_seed=seed)):
            yield fed.tensors, fed.vectors(self.spaces)
