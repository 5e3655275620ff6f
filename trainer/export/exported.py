"""A trained model as one file that needs none of its classes: batches and vectors in, probabilities out.

``trainer export`` writes ``<name>.pt2``, a program of torch.export that holds the weights, and in it ``schema.json``
(columns, sizes, inputs with type and shape, labels, version of the vectors), ``vocabulary.parquet``, and
``items.parquet`` unless it is left out: what the samples' items have, for requests that name them by id. Others load it
with ``torch.export.load``, which runs code if the file says so; here it is read as data (``archive.py``,
``program.py``). Nothing in a file is compressed: reading it takes three times its size in memory, and there is no
other limit on the size, nor on what a program computes.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossmedia.arguments import check_places
from crossmedia.disk import replacing
from crossmedia.errors import BadInput
from crossmedia.features.layout import ITEMS_FILE as ITEMS
from crossmedia.features.reading.samples import Samples
from crossmedia.features.vocabulary import FILE as VOCABULARY
from crossmedia.trainer.export.archive import read_parts
from crossmedia.trainer.export.program import TYPES, Program
from crossmedia.trainer.layers.spaces import ATTENTION
from crossmedia.trainer.models.base import EmbeddingModel, Model
from crossmedia.trainer.runs.checkpoint import Lineage, lineage_of, load_model, samples_folder
from crossmedia.trainer.tensors import Bag, ImageVectors, SpaceVectors, TensorBatch, TensorItems

SCHEMA, FORMAT = "schema.json", 2
PROGRAM = "models/model.json"
# Of no use here; the sample inputs are a pickle, which nobody opens.
OF_PYTORCH = (
    *("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"),
    "data/sample_inputs/model.pt",
)
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


class _Traced(nn.Module):
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


def export_model(
    run: str | Path, samples: Samples | str | Path = "", out: str | Path = "model.pt2", *, items: bool = True
) -> Path:
    """Write the model of a run; of Rocket Launching the light net alone.

    Args:
        run: run folder.
        samples: those it was trained with, or their folder: for the vocabulary; empty: where they were.
        out: the file ``.pt2``.
        items: put the samples' item table in it, so that requests may name items by their ids alone.

    Returns:
        the file.

    Raises:
        BadInput: the folder is no run, the samples are others, or the model uses an operator that is not in
            ``program.OPERATORS``.
        StoreError: the file cannot be written.

    Example:
        >>> from crossmedia import Scorer, export_model
        >>> file = export_model("runs/din", out="din.pt2")
        >>> scorer = Scorer.load(file, server="localhost:7070")
        >>> scorer.score({"user_id": "u1"}, {"item_id": ["i1", "i2"], "image_id": [1, None]}).shape
        (2,)
    """
    check_places(run=run, out=out)
    model, lineage, config = load_model(run)
    if not isinstance(samples, Samples):
        samples = Samples(samples_folder(run, config["samples"], samples))
    lineage.check_samples(samples)
    served, out = model.served().eval(), Path(out)
    inputs = _example(served)
    symbols = _sizes(inputs, served.spec.actions > 0)
    dimensions = {symbol: torch.export.Dim(symbol, min=0) for symbol in symbols.values() if isinstance(symbol, str)}
    shapes = {name: {0: dimensions[symbol]} if symbol in dimensions else None for name, symbol in symbols.items()}
    with torch.no_grad():
        program = torch.export.export(_Traced(served), (inputs,), dynamic_shapes=(shapes,))
    files = {
        SCHEMA: json.dumps(_schema(lineage, inputs), indent=1),
        VOCABULARY: base64.b64encode((samples.folder / VOCABULARY).read_bytes()).decode(),
    }
    if items:
        files[ITEMS] = base64.b64encode((samples.folder / ITEMS).read_bytes()).decode()
    block = io.BytesIO()
    torch.export.save(program, block, extra_files=files)
    try:
        _read(block.getvalue())
    except ValueError as error:
        raise BadInput(f"The model of {run} cannot be exported: {error}.") from error
    with replacing(out) as part:
        part.write_bytes(block.getbuffer())
    return out


def _schema(lineage: Lineage, inputs: Inputs) -> dict[str, Any]:
    symbols = _sizes(inputs, lineage.inputs.actions > 0)
    return {
        "format": FORMAT,
        "lineage": asdict(lineage),
        "labels": list(lineage.inputs.labels),
        "versions": lineage.versions,
        "inputs": {
            name: {"type": str(tensor.dtype).removeprefix("torch."), "shape": [symbols[name], *tensor.shape[1:]]}
            for name, tensor in inputs.items()
        },
        "output": {"type": "float32", "shape": ["B", len(lineage.inputs.labels)]},
    }


def _example(model: Model) -> Inputs:
    """Small inputs of the right types to trace with; each size is another number, so that none is taken for another."""
    spec = model.spec
    rows, items = 3, 4
    segments = torch.tensor([0, 0, 0, 2, 2] if spec.actions else [], dtype=torch.int64)
    behaviours, sizes = len(segments), count(7)

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


def _stored(parts: dict[str, bytes], kind: str, used: set[str]) -> dict[str, Tensor]:
    """Tensors below ``data/<kind>``, by the names that a program has for them; ``used`` gets the parts they are in."""
    config = f"data/{kind}/model_{kind}_config.json"
    used.add(config)
    found = {}
    for name, entry in json.loads(parts[config])["config"].items():
        if entry["use_pickle"] or entry["tensor_meta"] is None:
            raise ValueError(f"{name} is a pickle, which is never loaded")
        used.add(part := f"data/{kind}/{entry['path_name']}")
        found[name] = _tensor(parts[part], entry["tensor_meta"])
    return found


def _tensor(data: bytes, meta: dict[str, Any]) -> Tensor:
    sizes, strides = ([side["as_int"] for side in meta[name]] for name in ("sizes", "strides"))
    kind = TYPES[meta["dtype"]]
    values = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
    return values.as_strided(sizes, strides, meta["storage_offset"]["as_int"])


def _read(data: bytes) -> tuple[Program, Lineage, bytes, bytes]:
    """The program in an exported file, what it was trained with, its vocabulary, and its items, if it has some."""
    parts = read_parts(data)
    items = base64.b64decode(parts.pop(f"extra/{ITEMS}", b""))
    used = {*OF_PYTORCH, PROGRAM, f"extra/{SCHEMA}", f"extra/{VOCABULARY}"}
    tensors = _stored(parts, "weights", used) | _stored(parts, "constants", used)
    if others := used ^ parts.keys():
        raise ValueError(f"{min(others)} is missing, or is no part that 'trainer export' writes")
    schema = json.loads(parts[f"extra/{SCHEMA}"])
    program = Program(json.loads(parts[PROGRAM]), tensors, list(schema["inputs"]))
    return program, lineage_of(schema["lineage"]), base64.b64decode(parts[f"extra/{VOCABULARY}"]), items


class Exported:
    """A model that ``export_model`` wrote: ``probabilities`` as of the model itself.

    Attributes:
        lineage: what it was trained with.
        vocabulary: bytes of ``vocabulary.parquet``.
        items: bytes of ``items.parquet``; empty without it.
        inputs: names of the program's inputs, in order.
    """

    def __init__(self, path: str | Path):
        """Load it.

        Raises:
            BadInput: there is no exported model, or one that is damaged.
        """
        self._path = Path(path)
        if self._path.is_dir():
            raise BadInput(f"{path} holds no exported model: it is a folder. For a run folder leave out --exported.")
        try:
            self._program, self.lineage, self.vocabulary, self.items = _read(self._path.read_bytes())
        except Exception as error:  # what is wrong with a file of a stranger may be of any kind
            raise BadInput(f"{path} holds no exported model: {_said(error)}. 'trainer export' makes one.") from error
        self.inputs = self._program.inputs

    @torch.inference_mode()
    def probabilities(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Shape (B, L).

        Raises:
            BadInput: the program in the file does not fit its description, or gives no probabilities.
        """
        try:
            found: Tensor = self._program(flat(batch, vectors, self.inputs))
            fault = _fault(found, (batch.rows, len(self.lineage.inputs.labels)))
        except Exception as error:  # as above; each operator has errors of its own
            raise BadInput(f"The program in {self._path} fails: {_said(error)}. Export the model again.") from error
        if fault:
            raise BadInput(f"The program in {self._path} gives no probability: {fault}. Export the model again.")
        return found


def _said(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__  # MemoryError says nothing


def _fault(found: Any, shape: tuple[int, int]) -> str:
    """Why an output is not a probability a row and label; empty: it is."""
    if not isinstance(found, Tensor):
        return f"its output is of type {type(found).__name__}, not a tensor"
    if found.dtype != torch.float32 or found.shape != shape:
        return f"its output is {found.dtype} of shape {tuple(found.shape)}, not torch.float32 of shape {shape}"
    outside = found[~((found >= 0) & (found <= 1))]  # NaN too
    if len(outside):
        return f"{len(outside)} of {found.numel()} values are not from 0 to 1, the first {outside[0]}"
    return ""
