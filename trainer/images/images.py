"""Where the vectors of a space come from: one of the kinds that ``ImageHead`` tells apart.

Legend: K image ids, D numbers in a vector.
"""

from __future__ import annotations

from torch import Tensor, nn

from crossmedia.concepts import ConceptCard
from crossmedia.features.batch import Int64Array
from crossmedia.imgserver.client import FetchStats, Vectors
from crossmedia.imgserver.head import Head
from crossmedia.trainer.tensors import ImageVectors


class Images(nn.Module):
    """What training and prediction ask of the vectors of a space, whichever kind they are.

    The kinds are ``StoredVectors``, ``LocalHead`` and ``RemoteHead``.

    Args:
        head: what learns; None: nothing does.
        backbone: version of the features that the head takes.

    Attributes:
        staleness: of each training batch, steps that the head had gone on since the batch's vectors were made.
    """

    def __init__(self, head: Head | None = None, backbone: str = ""):
        super().__init__()
        self.head, self.backbone = head, backbone
        self.staleness: list[int] = []

    @property
    def version(self) -> str:
        """Version of the vectors that it gives now; empty: there are none, or stored ones before the first answer."""
        return ""

    @property
    def base(self) -> str:
        """Version of what comes from outside of a run: of the features behind a head, or of the vectors."""
        return self.backbone or self.version

    @property
    def dim(self) -> int:
        """D, numbers in a vector; 0: there are none."""
        return 0

    @property
    def depth(self) -> int:
        """Batches that it is worth to ``fetch`` ahead."""
        return 2

    @property
    def stats(self) -> FetchStats:
        """Running totals of what was fetched by this process."""
        return FetchStats()

    @property
    def generation(self) -> int:
        """Generation of the store, as it was told last; 0 before."""
        return 0

    @property
    def card(self) -> ConceptCard | None:
        """What the numbers of its vectors mean, asked for now; None: they are no concepts."""
        return None

    def fetch(self, image_ids: Int64Array) -> Vectors | None:
        """What can be had of a batch before its turn; may be called in another thread.

        Args:
            image_ids: shape (K,).

        Returns:
            what ``forward`` then takes; None when there is nothing to be had ahead.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        return None

    def forward(self, image_ids: Int64Array | Tensor, fetched: Vectors | None = None) -> ImageVectors | None:
        """Vectors of images, with a gradient to the head where there is one; None: there are none.

        Args:
            image_ids: shape (K,), int64; duplicates, and -1 for no image, are taken.
            fetched: what ``fetch`` gave for the same ids.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        return None
