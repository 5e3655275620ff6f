"""Embedding tables whose rows are spread over the processes, for vocabularies that cannot be trained in one of them.

What is spread are rows, gradient and optimizer state. A table is whole in every process until ``shard_tables``, and
again from ``whole_tables`` on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from crossmedia.errors import BadInput
from crossmedia.trainer import processes
from crossmedia.trainer.layers.inputs import ModelInputs

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def is_spread(value: Any) -> TypeGuard[DTensor]:
    """Whether it is a tensor whose rows are spread over processes."""
    if processes.world() == 1:
        return False  # and one process alone does not wait for the import
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


class ShardedEmbedding(nn.Module):
    """Rows of a table, each held with its optimizer state by one process (DTensor, sharded by rows).

    Every process gives its own ids, and gets their rows: the ids of all go to all, each process finds the rows that it
    holds, and a reduce-scatter brings every row to who asked. The gradient goes the same way back, and is the mean over
    processes, as ``DistributedDataParallel`` takes it of the other weights.

    Args:
        table: whose rows these are; that of process 0 counts.
        mesh: of all processes.
    """

    def __init__(self, table: nn.Embedding, mesh: DeviceMesh):
        super().__init__()
        from torch.distributed.tensor import Shard, distribute_tensor

        self.weight = nn.Parameter(distribute_tensor(table.weight.detach(), mesh, [Shard(0)]))

    def forward(self, ids: Tensor) -> Tensor:
        """Rows, shape (n, W), of ids, shape (n,); n may differ between processes."""
        from torch.distributed.tensor import DTensor, Partial, Shard

        assert is_spread(self.weight)
        held, first = self.weight.to_local(), first_row(self.weight)
        longest = max(1, processes.most(len(ids), ids.device))
        place = processes.everyones(torch.cat([ids, ids.new_zeros(longest - len(ids))])) - first
        here = (place >= 0) & (place < len(held))
        # Looked up in the part alone: DTensor's own lookup gives every process a gradient of all rows.
        parts = embedding(place.clamp(0, len(held) - 1), held) * here[:, None]
        of_all = DTensor.from_local(parts, self.weight.device_mesh, [Partial()], run_check=False)
        found = of_all.redistribute(placements=[Shard(0)]).to_local()[: len(ids)]
        if found.requires_grad:
            found.register_hook(lambda gradient: gradient / processes.world())  # type: ignore[no-untyped-call]
        return found

    def whole(self) -> nn.Embedding:
        """The table with all rows, in main memory; every process must ask for it."""
        assert is_spread(self.weight)
        weight = self.weight.full_tensor().detach().cpu().clone()
        return nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight)


def first_row(spread: DTensor) -> int:
    """The first of the rows that this process holds."""
    return min(processes.rank() * -(-spread.shape[0] // processes.world()), spread.shape[0])


def held_rows(parameter: Tensor) -> tuple[Tensor, Tensor, int]:
    """The rows of a table that this process holds, all of one that is not spread: weights, gradient, the first row."""
    assert parameter.grad is not None
    if not is_spread(parameter):
        return parameter, parameter.grad, 0
    assert is_spread(parameter.grad)
    return parameter.to_local(), parameter.grad.to_local(), first_row(parameter)


def shard_tables(model: nn.Module, rows: int, device: torch.device) -> list[str]:
    """Spread the rows of all tables that have so many over the processes; one process keeps what it has.

    Args:
        model: with embeddings.
        rows: from which on a table is spread; 0: none is.
        device: that trains.

    Returns:
        names of the parameters that are spread.

    Raises:
        BadInput: the model has no embeddings.
    """
    if not rows or processes.world() == 1:
        return []
    inputs = getattr(model, "inputs", None)
    if not isinstance(inputs, ModelInputs):
        raise BadInput("--shard-tables needs a model that has embeddings, which this one has not.")
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (processes.world(),))
    rows = max(rows, processes.world() ** 2)  # of fewer some process might hold none
    for name, table in inputs.tables.items():
        if isinstance(table, nn.Embedding) and table.num_embeddings >= rows:
            inputs.tables[name] = ShardedEmbedding(table, mesh)
    return [name for name, parameter in model.named_parameters() if is_spread(parameter)]


def whole_tables(model: nn.Module) -> None:
    """Undo ``shard_tables``; every process must do so."""
    inputs = getattr(model, "inputs", None)
    if isinstance(inputs, ModelInputs):
        for name, table in inputs.tables.items():
            if isinstance(table, ShardedEmbedding):
                inputs.tables[name] = table.whole()


def gathered(state: Any) -> Any:
    """A state of a module or an optimizer with its spread tensors whole, one after the other, in process 0.

    Args:
        state: dictionaries and lists of tensors and others; every process must bring its own.
    """
    if is_spread(state):
        found = state.full_tensor()
        return found.cpu() if processes.rank() == 0 else found.new_zeros(0)
    if isinstance(state, dict):
        return {name: gathered(value) for name, value in state.items()}
    return [gathered(value) for value in state] if isinstance(state, list) else state


def spread(state: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """What ``gathered`` gave, spread again as the tensors of the same name and shape in ``like`` are."""
    found = dict(state)
    for name, model in like.items():
        if is_spread(model) and name in state and state[name].shape == model.shape:
            from torch.distributed.tensor import distribute_tensor

            found[name] = distribute_tensor(state[name].to(model.device), model.device_mesh, model.placements)
    return found


def spread_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The same of an optimizer's state: what belongs to a spread parameter, and has its shape, is spread like it."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_parameters = {
        number: spread(state["state"][number], dict.fromkeys(state["state"][number], parameter))
        for number, parameter in zip(numbers, parameters, strict=True)
        if number in state["state"]
    }
    return {**state, "state": of_parameters}
