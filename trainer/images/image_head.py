"""Image ids to the vectors that a model sees, and the gradient back to the head that makes them.

Legend: K image ids, D numbers in a vector.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from crossmedia.concepts import ConceptCard, has_concepts
from crossmedia.features.batch import Int64Array
from crossmedia.imgserver.client import FetchStats, HeadServers, ImageClient, Vectors
from crossmedia.imgserver.client.ids import deduplicated
from crossmedia.imgserver.head import Head
from crossmedia.trainer.images.id_arrays import id_array
from crossmedia.trainer.images.images import Images
from crossmedia.trainer.images.through_servers import SentHead, through_servers
from crossmedia.trainer.one_copy import copied
from crossmedia.trainer.tensors import ImageVectors
from crossmedia.version import Version

PUBLISHED_KEPT = 4


class ImageHead(Images):
    """Vectors of image ids, for ``fit`` and for a training loop of one's own; the same numbers by each way.

    What ``ImageHead(…)`` makes is one of three, by what it is given, as ``pathlib.Path(…)`` makes the path of a system:

    - ``StoredVectors``: those of an ``ImageClient``, as they are. Nothing learns.
    - ``LocalHead``: features from an ``ImageClient``, usually of a store in this process; the head is applied here.
    - ``RemoteHead``: the features stay on ``HeadServers``. Forward puts the head there and asks for its vectors;
      backward sends their gradient and gets the gradient of the head's weights. Both are functions of the head's
      version and the ids alone, so a server may be restarted at any moment.

    It is an ordinary module: any optimizer, gradient clipping and ``DistributedDataParallel`` work on it. A head is
    computed in fp32, under autocast too. Under fp16 autocast a gradient that is not finite becomes a NaN gradient of
    the head, for ``GradScaler`` to see; otherwise the server refuses it.

    Args:
        source: where vectors or features come from.
        head: what learns; None: stored vectors are taken.
        backbone: version of the features that the head takes.
        max_staleness: steps that the head may have gone on since the vectors of a batch were made. From 2 on vectors
            are asked for ahead, while earlier batches are trained; only a head on servers has a use for it.

    Example:
        >>> import torch
        >>> from crossmedia import Head, HeadServers, ImageHead
        >>> from crossmedia.imgserver.head import HeadSpec
        >>> with HeadServers(["localhost:7070"], run_id="mine") as servers:
        ...     images = ImageHead(servers, Head(HeadSpec("learned", (1280, 64, 12))), servers.backbone())
        ...     vectors = images(torch.tensor([1, 2, -1]))  # -1 is no image
        ...     vectors.values.square().mean().backward()
        >>> vectors.values.shape, vectors.ok[2].item()
        (torch.Size([3, 12]), False)
    """

    mode: ClassVar[str]  # "frozen", "local" or "remote"
    _where: Tensor

    def __new__(
        cls,
        source: ImageClient | HeadServers | None = None,
        head: Head | None = None,
        backbone: str = "",
        max_staleness: int = 0,
    ) -> ImageHead:
        """One of the three kinds."""
        kind: type[ImageHead] = cls
        if cls is ImageHead:
            kind = StoredVectors if head is None else RemoteHead if isinstance(source, HeadServers) else LocalHead
        return super().__new__(kind)

    def __init__(
        self, source: ImageClient | HeadServers, head: Head | None = None, backbone: str = "", max_staleness: int = 0
    ):
        super().__init__(head, backbone)
        self.source, self.max_staleness = source, max_staleness
        # Has no numbers: it is moved with the module, and so says where that is when there is no head.
        self.register_buffer("_where", torch.zeros(0), persistent=False)

    def forward(self, image_ids: Any, fetched: Vectors | None = None) -> ImageVectors:
        """Vectors of images, on this module's device, with a gradient to the head where there is one.

        Args:
            image_ids: int64; duplicates, and -1 for no image, are taken. Of any shape, where nothing was fetched ahead:
                a tensor, an array or a list, or a jagged tensor of TorchRec.
            fetched: what ``fetch`` gave for the same ids, shape (K,).

        Returns:
            values of the shape of the ids and (D,), fp32, zeros where there is no image, and ok of the ids' shape.

        Raises:
            InvalidRequest: they are no ids.
            CrossMediaError: what the server or the way to it raised.
        """
        if fetched is not None:
            return self.made(image_ids, fetched)
        ids = id_array(image_ids, "image_ids", "the call")
        found = self.made(ids.flat, None)
        return ImageVectors(found.values.view(*ids.shape, found.values.shape[1]), found.ok.view(ids.shape))

    def made(self, image_ids: Int64Array, fetched: Vectors | None) -> ImageVectors:
        """As ``forward``, of ids of shape (K,)."""
        raise NotImplementedError

    def holds(self, image_id: int) -> bool:
        """Whether there is a vector, or a feature, of an image; not counted in ``stats``.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        client = self.source if isinstance(self.source, ImageClient) else self.source.client
        # A copy has totals of its own. It is not closed: it may have its transport from the other one.
        return bool(copy(client).get([image_id], version=self.backbone or None).ok[0])

    @property
    def device(self) -> torch.device:
        """Where its vectors are."""
        return self._where.device

    @property
    def stats(self) -> FetchStats:
        """Running totals of what was fetched by this process."""
        return self.source.stats

    @property
    def generation(self) -> int:
        """Generation of the store, as the source told it last; 0 before."""
        return self.source.generation or 0


class StoredVectors(ImageHead):
    """Vectors as a server or a store has them."""

    source: ImageClient
    mode = "frozen"

    @property
    def version(self) -> str:
        """Version that the client asks for; empty before its first answer."""
        return self.source.version or ""

    @property
    def dim(self) -> int:
        """D, numbers in a vector."""
        return Version.parse(self.version).dim

    @property
    def card(self) -> ConceptCard | None:
        """As of ``Images``.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        return self.source.concepts(self.version) if has_concepts(self.version) else None

    def fetch(self, image_ids: Int64Array) -> Vectors:
        """Stored vectors of images, shape (K,); for a CPU as fp32, for a GPU, which widens them, as they came."""
        found = self.source.get(image_ids)
        return replace(found, values=found.values.astype(np.float32)) if self.device.type == "cpu" else found

    def made(self, image_ids: Int64Array, fetched: Vectors | None) -> ImageVectors:
        """Values, shape (K, D), fp32, zeros where there is no image, and ok, shape (K,)."""
        found = ImageVectors.of(self.fetch(image_ids) if fetched is None else fetched, self.device)
        return ImageVectors(found.values.float(), found.ok)


class LearningHead(ImageHead):
    """A head that learns, wherever it is computed: its version is that of its weights."""

    head: Head

    @property
    def version(self) -> str:
        """Version of the head as it is now."""
        return self.head.version(self.backbone)

    @property
    def dim(self) -> int:
        """D, numbers in a vector."""
        return self.head.spec.dim


class LocalHead(LearningHead, StoredVectors):
    """A head in this process, over stored features."""

    mode = "local"

    def fetch(self, image_ids: Int64Array) -> Vectors:
        """Features of images, shape (K,)."""
        return self.source.get(image_ids, version=self.backbone)

    def made(self, image_ids: Int64Array, fetched: Vectors | None) -> ImageVectors:
        """As of stored vectors, with a gradient to the head."""
        features = super().made(image_ids, fetched)
        with torch.autocast(features.values.device.type, enabled=False):
            values = torch.where(features.ok[:, None], self.head(features.values), 0.0)
        return ImageVectors(values, features.ok)


class RemoteHead(LearningHead):
    """A head in this process, whose vectors and gradients are made on the servers that hold the features."""

    source: HeadServers
    mode = "remote"

    def __init__(self, source: HeadServers, head: Head, backbone: str = "", max_staleness: int = 0):
        super().__init__(source, head, backbone, max_staleness)
        self._step = 0
        self._published: OrderedDict[str, SentHead] = OrderedDict()
        self._latest: SentHead | None = None

    @property
    def depth(self) -> int:
        """While a batch is trained, what is asked for ahead sees the head as it was one step before."""
        return max(1, min(2, self.max_staleness - 1))

    def fetch(self, image_ids: Int64Array) -> Vectors | None:
        """Vectors of the head as it was published last, in training; None where they would be too old."""
        latest = self._latest
        if latest is None or not self.training or self.max_staleness < 2:
            return None
        return latest.vectors(deduplicated(image_ids)[0])

    def made(self, image_ids: Int64Array, fetched: Vectors | None) -> ImageVectors:
        """As of stored vectors, on the head's device, with a gradient to the head."""
        unique, place = deduplicated(image_ids)
        used = self._published.get(fetched.version) if fetched is not None else None
        if used is None or self._step - used.step > self.max_staleness:
            used, fetched = self._publish(), None
        elif self.training:
            self._publish()  # what the next batches ask for ahead
        vectors = through_servers(used, unique, fetched, self.head)
        if self.training:
            self.staleness.append(self._step - used.step)
            self._step += 1
        return vectors if place is None else vectors.placed(copied([place], vectors.ok.device)[0].long())

    def _publish(self) -> SentHead:
        """The head's state now, by its version."""
        now = SentHead(self.source, self.version, self._step, self.head.to_bytes())
        self._latest = now if self.training else None  # what is measured may be an average, not what learns
        self._published.pop(now.version, None)
        self._published[now.version] = now
        while len(self._published) > PUBLISHED_KEPT:
            self._published.popitem(last=False)
        return now
