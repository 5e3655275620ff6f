"""Arrays on the device that trains: all of a batch in one copy from pinned memory, on a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ALIGNED = 256  # bytes, so that a view of any type may begin there

Array = npt.NDArray[Any]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Sent(Generic[Made]):
    """What was sent to a device, and may still be on the way.

    Attributes:
        made: of tensors, which ``arrived`` hands out.
        packed: the memory that they are views of; None on a CPU, where nothing is copied.
        copied: recorded behind the copy, on the stream that makes it; None where there is nothing to wait for.
    """

    made: Made
    packed: Tensor | None = None
    copied: torch.cuda.Event | None = None

    def arrived(self) -> Made:
        """The tensors, for the thread that computes: what it launches behind this call waits for the copy."""
        if self.packed is not None and self.copied is not None:
            stream = torch.cuda.current_stream(self.packed.device)
            stream.wait_event(self.copied)
            self.packed.record_stream(stream)  # its memory is not given to the next copy before the step is done
        return self.made


def sent(made: Made, device: torch.device) -> Sent[Made]:
    """Arrays as tensors on ``device``; on a CPU they share memory with the arrays that may be written.

    To a GPU they go in one copy, which a stream of its own makes while the GPU computes; any thread may send them.

    Args:
        made: a dataclass, dict or list of arrays, or of such; anything else in it stays as it is.
        device: where they go.
    """
    arrays: list[Array] = []
    _each(made, arrays.append)
    if device.type == "cpu" or not arrays:
        return Sent(_each(made, _shared))
    starts = np.concatenate([[0], np.cumsum([-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays])]).tolist()
    packed = _pinned(starts[-1], device)
    into = packed.numpy()
    for array, start in zip(arrays, starts, strict=False):
        into[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there, event = _copying(packed, device)
    place = iter(starts)
    return Sent(_each(made, lambda array: _view(there, next(place), array)), there, event)


def copied_together(made: Made, device: torch.device) -> Made:
    """As ``sent``, to be used by this thread at once."""
    return sent(made, device).arrived()


def copied(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """As ``copied_together``, of a list of arrays."""
    found: list[Any] = copied_together(list(arrays), device)
    return found


def _each(value: Any, of_array: Callable[[Array], Any]) -> Any:
    """The same with what ``of_array`` makes of each array, in the order in which they stand there."""
    if isinstance(value, np.ndarray):
        return of_array(value)
    if isinstance(value, dict):
        return {name: _each(one, of_array) for name, one in value.items()}
    if isinstance(value, list):
        return [_each(one, of_array) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _each(getattr(value, field.name), of_array) for field in fields(value)})
    return value


def _shared(array: Array) -> Tensor:
    array = np.asarray(array, order="C")
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _view(packed: Tensor, start: int, like: Array) -> Tensor:
    kind = torch.from_numpy(np.zeros(0, dtype=like.dtype)).dtype
    return packed[start : start + like.nbytes].view(kind).view(like.shape)


def _pinned(size: int, device: torch.device) -> Tensor:
    """Memory that a GPU copies from without help; torch keeps it for the next batch until the copy is done."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _copying(packed: Tensor, device: torch.device) -> tuple[Tensor, torch.cuda.Event | None]:
    if device.type != "cuda":
        return packed.to(device), None
    own = _stream(device)
    with torch.cuda.stream(own):
        return packed.to(device, non_blocking=True), own.record_event()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
