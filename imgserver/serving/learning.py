"""A head as a function of (version, ids): its vectors, and the gradient of its weights. Nothing of a call is stored.

Legend: n ids, F numbers in a feature, D numbers in a vector.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from imgserver.client.results import Status
from imgserver.errors import DeadlineExceeded, InvalidRequest
from imgserver.head import Head

BLOCK_ROWS = 16_384
MAX_KEPT_BYTES = 256 << 20
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Kept:
    """What a call for vectors left for the call for their gradient: the graph, and which rows had a feature.

    The head is the very one that is in the graph: one of the same version may have been put in its place meanwhile.
    """

    head: Head
    vectors: Tensor
    ok: npt.NDArray[np.bool_]
    size: int


class Learning:
    """Runs heads forwards and backwards, one call at a time, each with all threads.

    A forward pass of moderate size is kept until its gradient is asked for, so that it is not computed twice. When it
    is not there, the server having been restarted perhaps, the gradient is computed from the features alone, and is the
    same.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._kept: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()

    def vectors(self, version: str, head: Head, block: bytes, features: Array, ok: Array, deadline: float) -> Array:
        """Vectors, shape (n, D), fp32; rows without a feature are zeros.

        Args:
            version: of the head.
            head: the head.
            block: the ids as they came.
            features: shape (n, F), fp16.
            ok: shape (n,), which rows hold a feature.
            deadline: on the monotonic clock.

        Raises:
            DeadlineExceeded: others' calls took until then.
        """
        with self._in_turn(deadline):
            if len(features) <= BLOCK_ROWS:
                vectors = head(torch.from_numpy(features).float())
                # What the graph holds on to: the features and each layer's numbers, twice with the activation.
                size = 4 * len(features) * (features.shape[1] + 2 * sum(head.spec.widths[1:]))
                self._keep((version, block), _Kept(head, vectors, ok, size))
                values: Array = vectors.detach().numpy()
            else:
                values = head.apply_numpy(features)
        return values if ok.all() else np.where(ok[:, None], values, np.float32(0))

    def gradient(
        self,
        version: str,
        head: Head,
        block: bytes,
        d_vectors: Array,
        features: Callable[[], tuple[Array, Array]],
        deadline: float,
    ) -> bytes:
        """The gradient of each weight, as a safetensors block.

        Args:
            version: of the head.
            head: the head.
            block: the ids as they came.
            d_vectors: shape (n, D), fp32.
            features: called when the forward pass was not kept; returns features, shape (n, F), and which are real.
            deadline: on the monotonic clock.

        Raises:
            InvalidRequest: a gradient is not finite, or belongs to an image without a feature.
            DeadlineExceeded: others' calls took until then.
        """
        ids = np.frombuffer(block, dtype="<i8")
        _check_finite(ids, d_vectors)
        with self._in_turn(deadline):
            kept = self._kept.pop((version, block), None)
        if kept is not None:
            _check_ok(ids, d_vectors, kept.ok)
            with self._in_turn(deadline):
                weights = tuple(kept.head.parameters())
                found = torch.autograd.grad(kept.vectors, weights, torch.from_numpy(d_vectors))
        else:
            values, ok = features()
            _check_ok(ids, d_vectors, ok)
            weights = tuple(head.parameters())
            found = tuple(torch.zeros_like(weight) for weight in weights)
            with self._in_turn(deadline):
                for start in range(0, len(values), BLOCK_ROWS):
                    vectors = head(torch.from_numpy(values[start : start + BLOCK_ROWS]).float())
                    part = torch.from_numpy(d_vectors[start : start + BLOCK_ROWS])
                    for total, more in zip(found, torch.autograd.grad(vectors, weights, part), strict=True):
                        total += more
        names = [name for name, _ in head.named_parameters()]
        return save({name: gradient.contiguous() for name, gradient in zip(names, found, strict=True)})

    def _keep(self, key: tuple[str, bytes], kept: _Kept) -> None:
        self._kept.pop(key, None)
        self._kept[key] = kept
        while sum(one.size for one in self._kept.values()) > MAX_KEPT_BYTES:
            self._kept.popitem(last=False)

    @contextmanager
    def _in_turn(self, deadline: float) -> Iterator[None]:
        """One call at a time, in torch's ordinary mode: in a trainer's process the caller may have set another."""
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise DeadlineExceeded("The head was busy with other calls until the deadline.")
        try:
            with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
                yield
        finally:
            self._turn.release()


def _check_finite(ids: Array, d_vectors: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(d_vectors).all(axis=1))
    if len(bad):
        value = d_vectors[bad[0]][~np.isfinite(d_vectors[bad[0]])][0]
        raise InvalidRequest(
            f"The gradient of the vector of image {ids[bad[0]]} is {value} ({len(bad)} of {len(ids)} images are like "
            f"it); nothing was computed. The model has diverged: lower its step size, or clip its gradients."
        )


def _check_ok(ids: Array, d_vectors: Array, ok: Array) -> None:
    wrong = np.flatnonzero(~ok & d_vectors.any(axis=1))
    if len(wrong):
        raise InvalidRequest(
            f"A gradient came for image {ids[wrong[0]]}, which has no feature here ({Status.NOT_FOUND.name} or the "
            f"like). Leave out what had no vector in the forward pass; if it had one, its photo was removed meanwhile."
        )
