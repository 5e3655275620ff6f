"""What learns, as one module: a model, and with images on the head that makes their vectors."""

from __future__ import annotations

from torch import Tensor, nn

from crossmedia.features.batch import Batch
from crossmedia.imgserver.client import Vectors
from crossmedia.trainer import processes
from crossmedia.trainer.images.image_head import ImageHead, vectors_of
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.tensors import TensorBatch


class Learner(nn.Module):
    """Gives the loss of a batch, so that all that learns is saved, resumed and kept in step together.

    Args:
        model: what is trained.
        images: where its vectors come from; None: images are off. A frozen one has nothing that learns.
    """

    def __init__(self, model: Model, images: ImageHead | None):
        super().__init__()
        self.model, self.images = model, images

    def forward(self, tensors: TensorBatch, batch: Batch, fetched: Vectors | None) -> Tensor:
        """The loss, a scalar, times what the rows of this process count among those of all.

        Args:
            tensors: what the model sees of the batch.
            batch: the same, for its image ids; with several processes it may have no rows.
            fetched: what ``images.fetch`` gave for the batch.
        """
        loss = self.model.loss(tensors, vectors_of(self.images, batch, fetched))
        if not len(batch):
            loss = loss.nan_to_num()  # the mean of nothing
        return loss * processes.share(len(batch), loss.device)
