"""A head as a function of (version, ids): its vectors, and the gradient of its weights. Nothing of a call is stored.

Legend: n ids, F numbers in a feature, D numbers in a vector.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from crossmedia.errors import InvalidRequest
from crossmedia.imgserver.head import Head, HeadSpec
from crossmedia.service.admission import Turns
from crossmedia.service.callers import Caller
from crossmedia.status import Status

BLOCK_ROWS = 16_384
BLOCK_BYTES = 64 << 20  # of the numbers of all layers
BLOCK_PRODUCTS = 4_000_000_000  # some tenths of a second: between blocks others have their turn
MAX_KEPT_BYTES = 256 << 20
KEPT_S = 8.0  # a step of training asks sooner; later the gradient is computed from the features
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class HeadCall:
    """A call for what a head makes of some images.

    Attributes:
        version: of the head.
        head: the head.
        block: the ids as they came.
        caller: who waits.
    """

    version: str
    head: Head
    block: bytes
    caller: Caller

    @property
    def key(self) -> tuple[str, bytes]:
        """The key under which its forward pass is kept."""
        return self.version, self.block


@dataclass(frozen=True)
class _Kept:
    """What a call for vectors left for the call for their gradient: the graph, and which rows had a feature.

    The head is the very one that is in the graph: one of the same version may have been put in its place meanwhile.
    """

    head: Head
    blocks: list[Tensor]
    ok: npt.NDArray[np.bool_]
    size: int
    made_at: float = field(default_factory=time.monotonic)


def row_bytes(spec: HeadSpec) -> int:
    """What a graph holds of one image: its feature, and each layer's numbers, with normalisation and activation."""
    return 4 * (spec.widths[0] + (2 if spec.normalisation == "none" else 3) * sum(spec.widths[1:]))


def block_rows(spec: HeadSpec) -> int:
    """Images whose vectors are computed in one go."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes(spec), BLOCK_PRODUCTS // spec.parameters))


def keeps_graph(spec: HeadSpec, images: int) -> bool:
    """Whether a forward pass over so many images is kept for its gradient."""
    return images * row_bytes(spec) <= MAX_KEPT_BYTES


def working_bytes(spec: HeadSpec, images: int) -> int:
    """What computing the vectors of so many images takes, beside features and vectors."""
    return row_bytes(spec) * (images if keeps_graph(spec, images) else min(images, block_rows(spec)))


class Learning:
    """Runs heads forwards and backwards, one block at a time, each with all threads; calls take turns.

    A forward pass of moderate size is kept until its gradient is asked for, for some seconds, so that it is not
    computed twice. When it is not there, the server having been restarted perhaps, the gradient is computed from the
    features alone, and is the same.
    """

    def __init__(self) -> None:
        self._turns = Turns(1)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()

    def vectors(self, call: HeadCall, features: Array, ok: Array) -> Array:
        """Vectors, shape (n, D), fp32; rows without a feature are zeros.

        Args:
            call: what is asked for.
            features: shape (n, F), fp16.
            ok: shape (n,), which rows hold a feature.

        Raises:
            DeadlineExceeded: it took too long, or the caller has gone.
        """
        head = call.head
        values = np.zeros((len(features), head.spec.dim), dtype=np.float32)
        graph, rows, blocks = keeps_graph(head.spec, len(features)), block_rows(head.spec), []
        for start in range(0, len(features), rows):
            with self._turn(call.caller, graph):
                vectors = head(torch.from_numpy(features[start : start + rows]).float())
            values[start : start + rows] = vectors.detach().numpy()
            if graph:
                blocks.append(vectors)
        if graph:
            self._keep(call.key, _Kept(head, blocks, ok, len(features) * row_bytes(head.spec)))
        values[~ok] = 0
        return values

    def gradient(self, call: HeadCall, d_vectors: Array, features: Callable[[], tuple[Array, Array]]) -> bytes:
        """The gradient of each weight, as a safetensors block.

        Args:
            call: what is asked for.
            d_vectors: shape (n, D), fp32.
            features: called when the forward pass was not kept; returns features, shape (n, F), and which are real.

        Raises:
            InvalidRequest: a gradient is not finite, or belongs to an image without a feature.
            DeadlineExceeded: it took too long, or the caller has gone.
        """
        head, ids = call.head, np.frombuffer(call.block, dtype="<i8")
        _check_finite(ids, d_vectors)
        with self._lock:
            kept = self._kept.pop(call.key, None)
        if kept is not None:
            head, blocks, ok = kept.head, kept.blocks, kept.ok
        else:
            blocks = []
            values, ok = features()
        _check_ok(ids, d_vectors, ok)
        weights, rows = tuple(head.parameters()), block_rows(head.spec)
        found = tuple(torch.zeros_like(weight) for weight in weights)
        for start in range(0, len(ids), rows):
            with self._turn(call.caller, graph=True):
                if kept is not None:
                    vectors = blocks.pop(0)
                else:
                    vectors = head(torch.from_numpy(values[start : start + rows]).float())
                part = torch.from_numpy(d_vectors[start : start + rows])
                for total, more in zip(found, torch.autograd.grad(vectors, weights, part), strict=True):
                    total += more
        names = [name for name, _ in head.named_parameters()]
        return save({name: gradient.contiguous() for name, gradient in zip(names, found, strict=True)})

    def forget(self) -> None:
        """Give up what was kept and not asked for."""
        with self._lock:
            while self._kept and time.monotonic() - next(iter(self._kept.values())).made_at > KEPT_S:
                self._kept.popitem(last=False)

    def _keep(self, key: tuple[str, bytes], kept: _Kept) -> None:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = kept
            while sum(one.size for one in self._kept.values()) > MAX_KEPT_BYTES:
                self._kept.popitem(last=False)

    @contextmanager
    def _turn(self, caller: Caller, graph: bool) -> Iterator[None]:
        """A turn in torch's ordinary mode: in a trainer's process the caller may have set another."""
        with (
            self._turns.one(caller),
            torch.inference_mode(False),
            torch.set_grad_enabled(graph),
            torch.autocast("cpu", enabled=False),
        ):
            yield


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
