"""Arrays on the device that trains: all of a batch in one copy from pinned memory, on a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ALIGNED = 256  # bytes, so that a view of any type may begin there

Array = npt.NDArray[Any]
Made = TypeVar("Made")


def copied(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """The arrays as tensors on ``device``; on a CPU they share memory with the arrays that may be written.

    To a GPU they go in one copy, which a stream of its own makes while the GPU computes; what is launched behind this
    call waits for it.
    """
    arrays = [np.ascontiguousarray(array) for array in arrays]
    if device.type == "cpu":
        return [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays]
    starts = np.concatenate([[0], np.cumsum([-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays])]).tolist()
    packed = _pinned(starts[-1], device)
    into = packed.numpy()
    for array, start in zip(arrays, starts, strict=False):
        into[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    there = _moved(packed, device)
    return [_view(there, start, array) for array, start in zip(arrays, starts, strict=False)]


def copied_together(made: Made, device: torch.device) -> Made:
    """A dataclass of arrays, of dicts of them and of dataclasses of them, with all arrays as ``copied`` has them."""
    arrays: list[Array] = []
    _each(made, arrays.append)
    found = iter(copied(arrays, device))
    replaced: Made = _each(made, lambda _: next(found))
    return replaced


def _each(value: Any, of_array: Callable[[Array], Any]) -> Any:
    """The same with what ``of_array`` makes of each array, in the order in which they stand there."""
    if isinstance(value, np.ndarray):
        return of_array(value)
    if isinstance(value, dict):
        return {name: _each(one, of_array) for name, one in value.items()}
    return type(value)(**{field.name: _each(getattr(value, field.name), of_array) for field in fields(value)})


def _view(packed: Tensor, start: int, like: Array) -> Tensor:
    kind = torch.from_numpy(np.zeros(0, dtype=like.dtype)).dtype
    return packed[start : start + like.nbytes].view(kind).view(like.shape)


def _pinned(size: int, device: torch.device) -> Tensor:
    """Memory that a GPU copies from without help; torch keeps it for the next batch until the copy is done."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _moved(packed: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return packed.to(device)
    stream, own = torch.cuda.current_stream(device), _stream(device)
    with torch.cuda.stream(own):
        there = packed.to(device, non_blocking=True)
    stream.wait_stream(own)
    there.record_stream(stream)  # its memory is not given to the next copy before the step is done with it
    return there


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
