"""Metrics over several processes: exact, because AUC and GAUC of parts cannot be averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from crossmedia.trainer import processes

Array = npt.NDArray[Any]


def gather_rows(*columns: Array) -> tuple[Array, ...]:
    """Rows of all processes, those of rank 0 first, in every process; as they are when there is one process only.

    A metric of what comes back is the metric of all rows, whatever users or labels are split between processes.

    Args:
        columns: of this process, each of shape (n, …); n may differ between processes.
    """
    world = processes.world()
    if world == 1:
        return columns
    device = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
    sizes = processes.everyones(torch.tensor([len(columns[0])], device=device)).tolist()
    gathered = []
    for column in columns:
        padded = torch.zeros((max(sizes), *column.shape[1:]), dtype=torch.from_numpy(column[:0]).dtype, device=device)
        padded[: len(column)] = torch.from_numpy(np.ascontiguousarray(column)).to(device)
        parts = processes.everyones(padded).chunk(world) if max(sizes) else [padded] * world
        gathered.append(np.concatenate([p[:n].cpu().numpy() for p, n in zip(parts, sizes, strict=True)]))
    return tuple(gathered)
