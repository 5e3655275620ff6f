"""A model as a program of torch.export: batches and vectors as named tensors in, probabilities out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from crossmedia.trainer.layers.spaces import ATTENTION
from crossmedia.trainer.models.base import EmbeddingModel, Model
from crossmedia.trainer.tensors import Bag, ImageVectors, SpaceVectors, TensorBatch, TensorItems

OF_ROWS = ("target", "history", "action", "history_age", "segments", "lengths")
Inputs = dict[str, Tensor]


def flat(batch: TensorBatch, vectors: SpaceVectors, names: Collection[str]) -> Inputs:
    """The tensors of a batch by name: the inputs of an exported program.

    Args:
        batch: the rows.
        vectors: of its items.
        names: of the inputs that the program has.

    Raises:
        KeyError: the batch has no such tensor.
    """
    found = {name: getattr(batch, name) for name in OF_ROWS}
    for prefix, columns in (("ids.", batch.ids), ("numbers.", batch.numbers)):
        found |= {prefix + name: column for name, column in columns.items()}
    for prefix, columns in (("items.ids.", batch.items.ids), ("items.numbers.", batch.items.numbers)):
        found |= {prefix + name: column for name, column in columns.items()}
    bags = {"text.": batch.text, "lists.": batch.lists}
    bags |= {"items.lists.": batch.items.lists, "items.vectors.": batch.items.vectors}
    for prefix, lists in bags.items():
        for name, bag in lists.items():
            found |= _of_bag(prefix + name, bag)
    for name, of_space in vectors.items():
        found |= {f"vectors.{name}.values": of_space.values, f"vectors.{name}.ok": of_space.ok}
        if f"target.{name}.values" in names:
            of_target, of_history = batch.shown(name)
            found |= _of_bag(f"target.{name}", of_target) | _of_bag(f"history.{name}", of_history)
    return {name: found[name] for name in names}


def _of_bag(name: str, bag: Bag) -> Inputs:
    return {f"{name}.values": bag.values, f"{name}.owners": bag.owners}


def _part(inputs: Inputs, prefix: str) -> Inputs:
    return {name.removeprefix(prefix): tensor for name, tensor in inputs.items() if name.startswith(prefix)}


def _bags(inputs: Inputs, prefix: str) -> dict[str, Bag]:
    values, owners = ".values", ".owners"
    parts = _part(inputs, prefix)
    names = [name.removesuffix(values) for name in parts if name.endswith(values)]
    return {name: Bag(parts[name + values], parts[name + owners]) for name in names}


class _Named(nn.Module):
    """What is traced: named tensors to probabilities."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        targets, histories = _bags(inputs, "target."), _bags(inputs, "history.")
        batch = TensorBatch(
            labels={},
            ids=_part(inputs, "ids."),
            numbers=_part(inputs, "numbers."),
            lists=_bags(inputs, "lists."),
            text=_bags(inputs, "text."),
            items=TensorItems(
                _part(inputs, "items.ids."),
                _part(inputs, "items.numbers."),
                _bags(inputs, "items.lists."),
                _bags(inputs, "items.vectors."),
            ),
            **{name: inputs[name] for name in OF_ROWS},
            expanded={name: (bag, histories[name]) for name, bag in targets.items()},
        )
        spaces = self.model.spec.spaces
        vectors = {name: ImageVectors(**_part(inputs, f"vectors.{name}.")) for name in spaces}
        return torch.sigmoid(self.model(batch, vectors))


def _sizes(inputs: Inputs, histories: bool) -> dict[str, str | int]:
    """The symbol of each input's first size: B rows, N behaviours (0 without histories), U items, M1, M2, … of others.

    Those are the entries of each bag, and the vectors of each space.
    """
    symbols: dict[str, str | int] = {}
    bags: dict[str, str] = {}
    for name in inputs:
        bag = name.rpartition(".")[0]
        if name.endswith((".values", ".owners", ".ok")) and (histories or not name.startswith("history.")):
            symbols[name] = bags.setdefault(bag, f"M{len(bags) + 1}")
        elif name.startswith("items."):
            symbols[name] = "U"
        elif name.startswith(("ids.", "numbers.")) or name in ("target", "lengths"):
            symbols[name] = "B"
        else:
            symbols[name] = "N" if histories else 0
    return symbols


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep quiet what compilers of PyTorch say of their own insides: nobody here can act on it."""
    talker = logging.getLogger("onnx_ir")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talker.setLevel(level)


@dataclass(frozen=True)
class Traced:
    """A model as a program.

    Attributes:
        program: of torch.export, whose one argument is a dictionary of named tensors.
        inputs: small ones of the right types, by name, in the order in which the program takes them.
        sizes: the symbol of each input's first size.
    """

    program: torch.export.ExportedProgram
    inputs: Inputs
    sizes: dict[str, str | int]

    @classmethod
    def of(cls, model: Model) -> Traced:
        """Trace a model, so that each size may be any from 0 on."""
        inputs = _example(model)
        symbols = _sizes(inputs, model.spec.actions > 0)
        dimensions = {symbol: torch.export.Dim(symbol, min=0) for symbol in symbols.values() if isinstance(symbol, str)}
        shapes = {name: {0: dimensions[symbol]} if symbol in dimensions else None for name, symbol in symbols.items()}
        with torch.no_grad():
            program = torch.export.export(_Named(model), (inputs,), dynamic_shapes=(shapes,))
        return cls(program, inputs, symbols)


def _example(model: Model) -> Inputs:
    """Small inputs of the right types to trace with.

    Each size is another number, and none that a layer is likely to have, so that none is taken for another.
    """
    spec = model.spec
    rows, items, sizes = 211, 223, count(229)
    behaviours = 227 if spec.actions else 0
    segments = torch.arange(behaviours) * rows // max(behaviours, 1)

    def whole(n: int) -> Tensor:
        return torch.zeros(n, dtype=torch.int64)

    def bag(name: str, owners: int) -> Inputs:
        n = next(sizes) if owners else 0
        return {f"{name}.values": whole(n), f"{name}.owners": torch.arange(n) * owners // max(n, 1)}

    found = {"target": whole(rows), "history": whole(behaviours), "action": whole(behaviours)}
    found |= {"history_age": whole(behaviours), "segments": segments}
    found["lengths"] = torch.bincount(segments, minlength=rows)
    found |= {f"ids.{name}": whole(rows) for name in spec.user_columns}
    found |= {f"numbers.{name}": torch.zeros(rows) for name in spec.user_numbers}
    found |= {f"items.ids.{name}": whole(items) for name in spec.item_columns}
    found |= {f"items.numbers.{name}": torch.zeros(items) for name in spec.item_numbers}
    of_rows = [f"text.{name}" for name in spec.text_columns] + [f"lists.{name}" for name in spec.user_lists]
    of_items = [f"items.lists.{name}" for name in spec.item_bags] + [f"items.vectors.{name}" for name in spec.spaces]
    for owners, names in ((rows, of_rows), (items, of_items)):
        for name in names:
            found |= bag(name, owners)
    for name, dim in spec.spaces.items():
        n = next(sizes)
        found |= {f"vectors.{name}.values": torch.zeros(n, dim), f"vectors.{name}.ok": torch.ones(n, dtype=torch.bool)}
        if isinstance(model, EmbeddingModel) and model.inputs.pooling == ATTENTION:
            found |= bag(f"target.{name}", rows) | bag(f"history.{name}", behaviours)
    return found
