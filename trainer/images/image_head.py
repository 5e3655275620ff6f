"""Image ids to the vectors that a model sees, and the gradient back to the head that makes them.

Legend: K image ids, D numbers in a vector.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crossmedia.features.batch import Batch, Int64Array
from crossmedia.imgserver.client import HeadServers, ImageClient, Vectors
from crossmedia.imgserver.client.ids import as_ids, deduplicated
from crossmedia.imgserver.head import Head
from crossmedia.trainer.tensors import ImageVectors
from crossmedia.version import Version

PUBLISHED_KEPT = 4


@dataclass(frozen=True)
class _Published:
    """A state of the head that servers may be asked for."""

    version: str
    step: int
    weights: bytes


class ImageHead(nn.Module):
    """Vectors of image ids, in one of three modes; the same numbers in each.

    - ``frozen``: stored vectors, from an ``ImageClient``. Nothing learns.
    - ``local``: features from an ``ImageClient``, usually of a store in this process; the head is applied here.
    - ``remote``: the features stay on ``HeadServers``. Forward puts the head there and asks for its vectors; backward
      sends their gradient and gets the gradient of the head's weights. Both are functions of the head's version and the
      ids alone, so a server may be restarted at any moment.

    The head is an ordinary module: any optimizer, gradient clipping and ``DistributedDataParallel`` work on it. It is
    computed in fp32, under autocast too. Under fp16 autocast a gradient that is not finite becomes a NaN gradient of
    the head, for ``GradScaler`` to see; otherwise the server refuses it.

    Args:
        source: where vectors or features come from.
        head: what learns; None: ``frozen``.
        backbone: version of the features that the head takes.
        max_staleness: steps that the head may have gone on since the vectors of a batch were made. From 2 on vectors
            are asked for ahead, while earlier batches are trained; only ``remote`` has a use for it.
    """

    _where: Tensor

    def __init__(
        self,
        source: ImageClient | HeadServers,
        head: Head | None = None,
        backbone: str = "",
        max_staleness: int = 0,
    ):
        super().__init__()
        self.source, self.head, self.backbone, self.max_staleness = source, head, backbone, max_staleness
        self._step = 0
        self._published: OrderedDict[str, _Published] = OrderedDict()
        self._latest: _Published | None = None
        self.staleness: list[int] = []  # of each training batch, in steps
        # Has no numbers: it is moved with the module, and so says where that is when there is no head.
        self.register_buffer("_where", torch.zeros(0), persistent=False)

    @property
    def mode(self) -> str:
        """``frozen``, ``local`` or ``remote``."""
        if self.head is None:
            return "frozen"
        return "remote" if isinstance(self.source, HeadServers) else "local"

    @property
    def version(self) -> str:
        """Version of the vectors that it gives now; empty before a frozen one's first answer."""
        if self.head is not None:
            return self.head.version(self.backbone)
        return "" if isinstance(self.source, HeadServers) else self.source.version or ""

    @property
    def dim(self) -> int:
        """D, numbers in a vector."""
        return self.head.spec.dim if self.head is not None else Version.parse(self.version).dim

    @property
    def depth(self) -> int:
        """Batches that it is worth to ``fetch`` ahead.

        While a batch is trained, what is asked for ahead sees the head as it was one step before.
        """
        return 2 if self.mode != "remote" else max(1, min(2, self.max_staleness - 1))

    def fetch(self, image_ids: Int64Array) -> Vectors | None:
        """What can be had of a batch before its turn; may be called in another thread.

        Args:
            image_ids: shape (K,).

        Returns:
            what ``forward`` then takes: stored vectors, features, or vectors of a head that is not too old; None when
            there is nothing to be had ahead.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        if not isinstance(self.source, HeadServers):
            if self.head is not None:
                return self.source.get(image_ids, version=self.backbone)
            found = self.source.get(image_ids)
            return replace(found, values=found.values.astype(np.float32))
        latest = self._latest
        if latest is None or not self.training or self.max_staleness < 2:
            return None
        return self.source.vectors(_unique(image_ids)[0], latest.version, lambda: latest.weights)

    def forward(self, image_ids: Int64Array | Tensor, fetched: Vectors | None = None) -> ImageVectors:
        """Vectors of images, with a gradient to the head where there is one.

        Args:
            image_ids: shape (K,), int64; duplicates, and -1 for no image, are taken.
            fetched: what ``fetch`` gave for the same ids.

        Returns:
            values, shape (K, D), fp32, zeros where there is no image, and ok, shape (K,), on the head's device.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        ids = image_ids.cpu().numpy() if isinstance(image_ids, Tensor) else image_ids
        if self.head is None or not isinstance(self.source, HeadServers):
            found = self.fetch(ids) if fetched is None else fetched
            assert found is not None, "without servers everything can be fetched"
            return self._here(found)
        unique, place = _unique(ids)
        vectors = self._through_servers(self.source, self.head, unique, fetched)
        if self.training:
            self._step += 1
        return vectors if place is None else _placed(vectors, _tensor(place, vectors.ok.device).long())

    def _here(self, found: Vectors) -> ImageVectors:
        values, ok = _tensor(found.values, self._where.device).float(), _tensor(found.ok, self._where.device)
        if self.head is not None:
            with torch.autocast(values.device.type, enabled=False):
                values = torch.where(ok[:, None], self.head(values), 0.0)
        return ImageVectors(values, ok)

    def _through_servers(
        self, servers: HeadServers, head: Head, unique: Int64Array, fetched: Vectors | None
    ) -> ImageVectors:
        used = self._published.get(fetched.version) if fetched is not None else None
        if used is None or fetched is None or self._step - used.step > self.max_staleness:
            used, fetched = self._publish(head), None
        elif self.training:
            self._publish(head)  # what the next batches ask for ahead
        if self.training:
            self.staleness.append(self._step - used.step)
        names, weights = zip(*head.named_parameters(), strict=True)
        values, ok = _Remote.apply(servers, used, unique, fetched, names, *weights)  # type: ignore[no-untyped-call]
        return ImageVectors(values, ok)

    def _publish(self, head: Head) -> _Published:
        """The head's state now, by its version; the servers get it when they are first asked for it."""
        version = head.version(self.backbone)
        self._latest = now = _Published(version, self._step, head.to_bytes())
        self._published.pop(version, None)
        self._published[version] = now
        while len(self._published) > PUBLISHED_KEPT:
            self._published.popitem(last=False)
        return now


class _Remote(torch.autograd.Function):
    """A head on servers, as a function of its weights."""

    @staticmethod
    def forward(
        ctx: Any,
        servers: HeadServers,
        used: _Published,
        ids: Int64Array,
        fetched: Vectors | None,
        names: tuple[str, ...],
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        device = weights[0].device
        if fetched is None and len(ids):
            fetched = servers.vectors(ids, used.version, lambda: used.weights)
        if fetched is None:
            dim = Version.parse(used.version).dim
            values, ok = torch.zeros(0, dim, device=device), torch.zeros(0, dtype=torch.bool, device=device)
        else:
            values, ok = _tensor(fetched.values, device), _tensor(fetched.ok, device)
        ctx.servers, ctx.used, ctx.ids, ctx.ok, ctx.names = servers, used, ids, ok, names
        ctx.shapes = [weight.shape for weight in weights]
        ctx.scaled = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16
        ctx.mark_non_differentiable(ok)
        return values, ok

    @staticmethod
    def backward(ctx: Any, d_values: Tensor, _: Tensor) -> tuple[Any, ...]:
        # The mask of the forward pass: what had no vector has no gradient.
        d_vectors = torch.where(ctx.ok[:, None], d_values.float(), 0.0)
        device = d_vectors.device
        if ctx.scaled and not torch.isfinite(d_vectors).all():
            return (*[None] * 5, *(torch.full(shape, torch.nan, device=device) for shape in ctx.shapes))
        total: dict[str, Tensor] = {}
        if len(ctx.ids):
            weights = ctx.used.weights
            shapes = dict(zip(ctx.names, ctx.shapes, strict=True))
            d = d_vectors.cpu().numpy()
            for part in ctx.servers.gradient(ctx.ids, ctx.used.version, d, lambda: weights, shapes):
                for name, more in part.items():
                    total[name] = total[name] + torch.from_numpy(more) if name in total else torch.from_numpy(more)
        found = [
            total[name].to(device) if total else torch.zeros(shape, device=device)
            for name, shape in zip(ctx.names, ctx.shapes, strict=True)
        ]
        return (*[None] * 5, *found)


def vectors_of(images: ImageHead | None, batch: Batch, fetched: Vectors | None) -> ImageVectors | None:
    """Vectors of a batch's unique images; None when images are off or the samples have none.

    Args:
        images: None: images are off.
        batch: any.
        fetched: what ``images.fetch`` gave for the batch.
    """
    if images is None or batch.images is None:
        return None
    vectors: ImageVectors = images(batch.images.unique, fetched)
    return vectors


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """On ``device``; copied where the array is a reply's own bytes, which nobody may write."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _unique(image_ids: Int64Array) -> tuple[Int64Array, Int64Array | None]:
    return deduplicated(as_ids(image_ids))


def _placed(vectors: ImageVectors, place: Tensor) -> ImageVectors:
    """Rows in the order of ``place``; -1 is a row without an image."""
    last = len(vectors.ok)
    place = place % (last + 1)  # -1 finds the last of one more row
    values = torch.cat([vectors.values, vectors.values.new_zeros(1, vectors.values.shape[1])])
    return ImageVectors(values.index_select(0, place), torch.cat([vectors.ok, vectors.ok.new_zeros(1)])[place])
