"""Whether what is to be trained fits into memory, asked before any of it is taken.

PyTorch counts the numbers of a model on its device ``meta``, which holds shapes and no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from crossmedia.errors import BadInput
from crossmedia.machine import available_bytes
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models import make

COPIES = 4  # of each number while it is trained: weight, gradient, and two of the optimizer, as Adam's moments
NUMBER_BYTES = 4
LEAST = 2  # of any size that an option gives, to find out which makes a model large
INNER = "_options"  # at the end of the name of the options of a net inside


def check_model_fits(
    name: str, spec: InputSpec, width: int, options: Mapping[str, Any], device: torch.device, copies: int = COPIES
) -> None:
    """Refuse a model whose tables and layers are larger than the memory of the device, and of the machine.

    Args:
        name: of the model.
        spec: columns and sizes.
        width: numbers in an embedding.
        options: of the model, by name.
        device: that trains it; the model is made in the machine's memory first.
        copies: of each number that the device holds, at least.

    Raises:
        BadInput: it does not fit; the message names what makes it so large. Or as ``make``.
    """
    needed = _bytes_of(name, spec, width, options)
    if (fits := _fits(needed, device, copies)) is None:
        return
    less = {f"{of} is {value}": _bytes_of(name, spec, *smaller) for of, value, smaller in _smaller(width, options)}
    raise BadInput(
        f"{name} does not fit into memory: {min(less, key=less.__getitem__)}, and {fits}. Give less, or train where "
        f"there is more memory."
    )


def check_head_fits(widths: Sequence[int], device: torch.device) -> None:
    """Refuse a head whose layers are larger than the memory of the device, and of the machine.

    Args:
        widths: numbers of the feature, and of each layer.
        device: that trains it.

    Raises:
        BadInput: it does not fit.
    """
    if (fits := _fits(NUMBER_BYTES * sum(a * b for a, b in pairwise(widths)), device, COPIES)) is not None:
        asked = ",".join(map(str, widths[1:]))
        raise BadInput(
            f"The head does not fit into memory: head_widths is {asked}, behind {widths[0]} numbers of a feature, and "
            f"{fits}. Give less."
        )


def _fits(needed: float, device: torch.device, copies: int) -> str | None:
    """What does not fit, in words; None where weights of so many bytes do."""
    if device.type == "cuda" and needed <= available_bytes():
        there = torch.cuda.mem_get_info(device)[0]
        there += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        there, copies = available_bytes(), copies if device.type == "cpu" else 1
    if needed * copies <= there:
        return None
    least = f"about {_said(needed * copies)}" if needed < math.inf else "more than PyTorch can count"
    held = "weights, gradients and the optimizer's state" if copies == COPIES else "weights"
    return f"{held} take {least}, of which {_said(there)} are there"


def _said(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:,.1f} GB"


def _bytes_of(name: str, spec: InputSpec, width: int, options: Mapping[str, Any]) -> float:
    """Bytes of a model's weights; infinite where PyTorch cannot count so far, 0 where ``make`` is to say what fails."""
    try:
        with torch.device("meta"):
            model = make(name, spec, width, options)
    except (RuntimeError, TypeError, OverflowError) as error:
        return math.inf if "overflow" in str(error).lower() else 0
    return sum(one.numel() * one.element_size() for one in model.parameters())


def _smaller(width: int, options: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[int, dict[str, Any]]]]:
    """The sizes that were given, each with the settings in which it is small."""
    yield "width", width, (LEAST, dict(options))
    for name, value in options.items():
        if isinstance(value, Mapping):
            for inner, of_inner, (_, fewer) in list(_smaller(width, value))[1:]:
                yield f"{name.removesuffix(INNER)}.{inner}", of_inner, (width, {**options, name: fewer})
        elif isinstance(value, tuple | list):
            yield name, ",".join(map(str, value)), (width, {**options, name: (LEAST,) * len(value)})
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, value, (width, {**options, name: LEAST})
