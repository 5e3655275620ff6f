"""Several processes that train one model together, as torchrun or another launcher starts them; alone, nothing of it.

Every process reads every global batch and keeps every n-th row of it, so that no row is lost or taken twice, and the
rows of a step are the same however many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch

TIMEOUT_S = 600  # that a process waits for the others


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0 on; the first one writes."""
    return distributed.get_rank() if world() > 1 else 0


def own_device(name: str) -> torch.device:
    """The device of this process: ``name``, or CUDA where there is one; processes of a machine have a card each.

    Args:
        name: ``cpu``, ``cuda``, or empty.

    Raises:
        BadInput: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise BadInput(f"There is no device {name!r}; give cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"The device is {name!r}, and PyTorch finds no GPU here. Give cpu.")
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Be one of the processes that torchrun started, by gloo, or by nccl on GPUs; alone when it started none.

    Args:
        device: as in ``own_device``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    own = own_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=timedelta(seconds=TIMEOUT_S))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def own_rows(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The rows of each batch that this process trains: every ``world()``-th, from ``rank()`` on; there may be none."""
    first, step = rank(), world()
    for batch in batches:
        yield batch if step == 1 else batch.take(np.arange(first, len(batch), step))


def in_step(learner: nn.Module, apart: Iterable[str] = ()) -> nn.Module:
    """A module whose backward pass gives every process the mean of all gradients; ``learner`` itself, alone.

    Args:
        learner: whose forward gives the loss.
        apart: names of parameters that are not the same in all processes, and see to their gradients themselves.
    """
    if world() == 1:
        return learner
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
        learner, list(apart)
    )
    return DistributedDataParallel(learner)


def share(rows: int, device: torch.device) -> float:
    """What the mean loss of this process's rows counts among those of all; 1 when they have as many.

    The mean over processes of each loss times its share is the mean over all rows.

    Args:
        rows: of this process.
        device: that trains.
    """
    if world() == 1:
        return 1.0
    total = torch.tensor(float(rows), device=device)
    distributed.all_reduce(total)
    return rows * world() / float(total)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def summed(tensor: Tensor) -> Tensor:
    """The sum of the tensors of all processes, in each of them; its gradient goes back to all."""
    if world() == 1:
        return tensor
    total: Tensor = _Summed.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def most(count: int, device: torch.device) -> int:
    """The highest count of any process."""
    if world() == 1:
        return count
    found = torch.tensor(count, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def everyones(tensor: Tensor) -> Tensor:
    """The tensors of all processes one after the other, along the first axis; of one shape in all of them."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        return everyones(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gathered(tensor: Tensor) -> Tensor:
    """As ``everyones``; what each process finds as the gradient of a part goes back, summed, to whose part it is."""
    if world() == 1:
        return tensor
    every: Tensor = _Gathered.apply(tensor)  # type: ignore[no-untyped-call]
    return every


def from_first(data: bytes, device: torch.device) -> bytes:
    """What the first process gives; the others' is not looked at."""
    if world() == 1:
        return data
    size = torch.tensor(len(data), device=device)
    distributed.broadcast(size, 0)
    block = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if rank() == 0 and data:
        block.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    distributed.broadcast(block, 0)
    return block.cpu().numpy().tobytes()


def check_same(what: dict[str, str], device: torch.device) -> None:
    """Make sure that all processes work on the same things.

    Args:
        what: names and values of this process.
        device: that trains.

    Raises:
        BadInput: a value is another one than that of the first process.
    """
    if world() == 1:
        return
    for name, value in what.items():
        of_first = from_first(value.encode(), device).decode()
        if value != of_first:
            raise BadInput(
                f"Process {rank()} has {name} {value!r}, process 0 has {of_first!r}. All processes must see the same "
                f"files and servers."
            )


def total(counts: dict[str, float], device: torch.device) -> dict[str, float]:
    """Each count summed over all processes.

    Args:
        counts: of this process, with the same names in all.
        device: that trains.
    """
    if world() == 1:
        return counts
    values = torch.tensor(list(counts.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(values)
    return dict(zip(counts, values.tolist(), strict=True))
