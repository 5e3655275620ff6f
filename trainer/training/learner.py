"""What learns, as one module: a model, and the head that makes vectors of a space, where one learns."""

from __future__ import annotations

from torch import Tensor, nn

from crossmedia.trainer import processes
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.models.base import Model


class Learner(nn.Module):
    """Gives the loss of a batch, so that all that learns is saved, resumed and kept in step together.

    Args:
        model: what is trained.
        spaces: where its vectors come from.
    """

    def __init__(self, model: Model, spaces: Spaces):
        super().__init__()
        self.model, self.spaces = model, spaces

    def forward(self, fed: Fed) -> Tensor:
        """The loss, a scalar, times what the rows of this process count among those of all.

        Args:
            fed: a batch; with several processes it may have no rows.
        """
        loss = self.model.loss(fed.tensors, fed.vectors(self.spaces))
        if not fed.tensors.rows:
            loss = loss.nan_to_num()  # the mean of nothing
        return loss * processes.share(fed.tensors.rows, loss.device)
