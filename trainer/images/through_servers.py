"""A head on servers as a function of its weights, for autograd: all that a step of training asks of ``HeadServers``.

Legend: K image ids, D numbers in a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossmedia.features.batch import Int64Array
from crossmedia.imgserver.client import HeadServers, Vectors
from crossmedia.imgserver.head import Head
from crossmedia.trainer.tensors import ImageVectors


@dataclass(frozen=True)
class SentHead:
    """A state of the head that servers may be asked for; they get it when they are first asked.

    Attributes:
        servers: that are asked.
        version: of the head's vectors.
        step: after which the head was like that.
        weights: of the head, as bytes.
    """

    servers: HeadServers
    version: str
    step: int
    weights: bytes

    @property
    def dim(self) -> int:
        """D, numbers in a vector."""
        return int(self.version.rpartition("/")[2])

    def vectors(self, ids: Int64Array) -> Vectors:
        """Vectors of images, each id once and none null."""
        return self.servers.vectors(ids, self.version, self.weights)

    def gradient(
        self, ids: Int64Array, d_vectors: npt.NDArray[np.float32], shapes: dict[str, torch.Size]
    ) -> dict[str, Tensor]:
        """The gradient of the head's weights by name, the sum over the servers.

        Args:
            ids: shape (K,), as in ``vectors``.
            d_vectors: shape (K, D), zeros where there was no vector.
            shapes: of the weights.
        """
        total = {name: torch.zeros(shape) for name, shape in shapes.items()}
        if len(ids):
            for part in self.servers.gradient(ids, self.version, self.weights, d_vectors):
                for name, more in part.items():
                    total[name] += torch.from_numpy(more)
        return total


def through_servers(used: SentHead, ids: Int64Array, fetched: Vectors | None, head: Head) -> ImageVectors:
    """Vectors of images, with a gradient to the weights of the head.

    Args:
        used: the state of the head whose vectors they are.
        ids: shape (K,), each once and none null.
        fetched: its vectors of these ids; None: they are asked for now.
        head: gets the gradient.

    Raises:
        CrossMediaError: what the servers or the way to them raised.
    """
    names, weights = zip(*head.named_parameters(), strict=True)
    values, ok = _Remote.apply(used, ids, fetched, names, *weights)  # type: ignore[no-untyped-call]
    return ImageVectors(values, ok)


class _Remote(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, used: SentHead, ids: Int64Array, fetched: Vectors | None, names: tuple[str, ...], *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        device = weights[0].device
        if fetched is None and len(ids):
            fetched = used.vectors(ids)
        if fetched is None:
            values, ok = torch.zeros(0, used.dim, device=device), torch.zeros(0, dtype=torch.bool, device=device)
        else:
            there = ImageVectors.of(fetched, device)
            values, ok = there.values, there.ok
        ctx.used, ctx.ids, ctx.ok = used, ids, ok
        ctx.shapes = {name: weight.shape for name, weight in zip(names, weights, strict=True)}
        ctx.scaled = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16
        ctx.mark_non_differentiable(ok)
        return values, ok

    @staticmethod
    def backward(ctx: Any, d_values: Tensor, _: Tensor) -> tuple[Any, ...]:
        # The mask of the forward pass: what had no vector has no gradient.
        d_vectors = torch.where(ctx.ok[:, None], d_values.float(), 0.0)
        device = d_vectors.device
        if ctx.scaled and not torch.isfinite(d_vectors).all():
            return (*[None] * 4, *(torch.full(shape, torch.nan, device=device) for shape in ctx.shapes.values()))
        found = ctx.used.gradient(ctx.ids, d_vectors.cpu().numpy(), ctx.shapes)
        return (*[None] * 4, *(found[name].to(device) for name in ctx.shapes))
