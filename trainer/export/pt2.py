"""A model as a program of torch.export in a ``.pt2`` archive, which is read as data."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from crossmedia.trainer.export.program import TYPES, Program
from crossmedia.trainer.export.tracing import Traced

PROGRAM = "models/model.json"
# Of no use here; the sample inputs are a pickle, which nobody opens.
OF_PYTORCH = (
    *("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"),
    "data/sample_inputs/model.pt",
)


def written(traced: Traced, files: Mapping[str, str]) -> bytes:
    """A model as an archive, with files in it."""
    block = io.BytesIO()
    torch.export.save(traced.program, block, extra_files={**files})
    return block.getvalue()


def program_of(parts: Mapping[str, bytes], inputs: list[str], others: Iterable[str]) -> Program:
    """The program in an archive.

    Args:
        parts: of the archive, by name.
        inputs: names of its inputs, in order.
        others: parts that belong to it and are read elsewhere.

    Raises:
        ValueError: a part is missing, is a pickle, or belongs to no exported model; or as ``Program``.
        Exception: of any other kind, it is no such program.
    """
    used = {*OF_PYTORCH, PROGRAM, *others}
    tensors = _stored(parts, "weights", used) | _stored(parts, "constants", used)
    if apart := used ^ parts.keys():
        raise ValueError(f"{min(apart)} is missing, or is no part that 'trainer export' writes")
    return Program(json.loads(parts[PROGRAM]), tensors, inputs)


def _stored(parts: Mapping[str, bytes], kind: str, used: set[str]) -> dict[str, Tensor]:
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
