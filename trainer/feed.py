"""Rows of samples as a model is given them: tensors, and the vectors of their images, fetched ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from crossmedia.features.batch import Batch, Int64Array
from crossmedia.features.reading.prefetch import fetch_ahead
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import Vectors
from crossmedia.trainer.images.images import Images
from crossmedia.trainer.tensors import ImageVectors, TensorBatch, to_tensors


@dataclass(frozen=True)
class Fed:
    """A batch that a model is given.

    Attributes:
        tensors: what it sees of the rows.
        image_ids: shape (K,), their unique images; None: the samples have none.
        fetched: what ``Images.fetch`` gave for them.
    """

    tensors: TensorBatch
    image_ids: Int64Array | None
    fetched: Vectors | None = None

    @classmethod
    def of(cls, batch: Batch, device: torch.device, fetched: Vectors | None = None) -> Fed:
        """A batch, copied to the device of a model."""
        return cls(to_tensors(batch, device), None if batch.images is None else batch.images.unique, fetched)

    def vectors(self, images: Images) -> ImageVectors | None:
        """Vectors of the unique images; None when images are off or the samples have none."""
        if self.image_ids is None:
            return None
        vectors: ImageVectors | None = images(self.image_ids, self.fetched)
        return vectors


@dataclass(frozen=True)
class Feed:
    """Where batches come from.

    Attributes:
        samples: the rows.
        images: makes the vectors of their images.
        batch_size: rows of a batch.
        device: of the model.
    """

    samples: Samples
    images: Images
    batch_size: int
    device: torch.device

    def of(self, batches: Iterable[Batch]) -> Iterator[Fed]:
        """Some batches, with what their images need fetched ahead."""
        for batch, fetched in fetch_ahead(batches, self.images.fetch):
            yield Fed.of(batch, self.device, fetched)

    def first_rows(self, seed: int) -> Iterator[tuple[TensorBatch, ImageVectors | None]]:
        """Training rows, shuffled by ``seed``, with the vectors of their images, for what is fitted before training."""
        for fed in self.of(self.samples.batches("train", self.batch_size, shuffle_seed=seed)):
            yield fed.tensors, fed.vectors(self.images)
