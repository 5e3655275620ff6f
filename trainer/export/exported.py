"""A trained model as one file that needs none of its classes: batches and vectors in, probabilities out.

``trainer export`` writes it in one of three forms: a program of torch.export (``pt2``), which is data; native code that
AOTInductor compiled (``aoti``), which is loaded for those alone who name its digest; and ``onnx``. Each holds the
weights, and ``schema.json`` (columns, sizes, inputs with type and shape, labels, version of the vectors),
``vocabulary.parquet``, and ``items.parquet`` unless it is left out: what the samples' items have, for requests that
name them by id. Others load a ``pt2`` with ``torch.export.load``, which runs code if the file says so; here it is read
as data (``archive.py``, ``program.py``). Nothing in a file is compressed: reading it takes three times its size in
memory, and there is no other limit on the size, nor on what a program computes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from crossmedia.arguments import check_places, must
from crossmedia.disk import open_regular, replacing
from crossmedia.errors import BadInput
from crossmedia.features.layout import ITEMS_FILE as ITEMS
from crossmedia.features.reading.samples import Samples
from crossmedia.features.vocabulary import FILE as VOCABULARY
from crossmedia.trainer.export import native, onnx_program, pt2
from crossmedia.trainer.export.archive import read_parts
from crossmedia.trainer.export.tracing import Traced, flat
from crossmedia.trainer.export.unusable import Unusable
from crossmedia.trainer.runs.checkpoint import Lineage, lineage_of, load_model, samples_folder
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch

SCHEMA, FORMAT = "schema.json", 2
EXTRA = "extra/"  # where PyTorch puts files that are added to an archive
Form = Literal["pt2", "aoti", "onnx"]
WRITERS: dict[str, Callable[[Traced, Mapping[str, str]], bytes]] = {
    "pt2": pt2.written,
    "aoti": native.written,
    "onnx": onnx_program.written,
}


def export_model(
    run: str | Path,
    samples: Samples | str | Path = "",
    out: str | Path = "model.pt2",
    *,
    items: bool = True,
    form: Form = "pt2",
) -> Path:
    """Write the model of a run; of Rocket Launching the light net alone.

    Args:
        run: run folder.
        samples: those it was trained with, or their folder: for the vocabulary; empty: where they were.
        out: the file.
        items: put the samples' item table in it, so that requests may name items by their ids alone.
        form: ``pt2``, a program of torch.export; ``aoti``, native code for x86-64 CPUs and this release of PyTorch;
            ``onnx``.

    Returns:
        the file.

    Raises:
        BadInput: the folder is no run, the samples are others, the model uses an operator that is not in
            ``program.OPERATORS``, or what the form needs is not installed.
        StoreError: the file cannot be written.

    Example:
        >>> from crossmedia import Scorer, export_model
        >>> file = export_model("runs/din", out="din.pt2")
        >>> scorer = Scorer.load(file, server="localhost:7070")
        >>> scorer.score({"user_id": "u1"}, {"item_id": ["i1", "i2"], "image_id": [1, None]}).shape
        (2,)
    """
    check_places(run=run, out=out)
    must(form in WRITERS, "form", form, f"one of {', '.join(WRITERS)}")
    model, lineage, config = load_model(run)
    if not isinstance(samples, Samples):
        samples = Samples(samples_folder(run, config["samples"], samples))
    lineage.check_samples(samples)
    traced, out = Traced.of(model.served().eval()), Path(out)
    files = {
        SCHEMA: json.dumps(_schema(lineage, traced), indent=1),
        VOCABULARY: base64.b64encode((samples.folder / VOCABULARY).read_bytes()).decode(),
    }
    if items:
        files[ITEMS] = base64.b64encode((samples.folder / ITEMS).read_bytes()).decode()
    data = WRITERS[form](traced, files)
    try:
        _read(data, out, [_digest(data)])
    except ValueError as error:
        raise BadInput(f"The model of {run} cannot be exported: {error}.") from error
    with replacing(out) as part:
        part.write_bytes(data)
    return out


def _schema(lineage: Lineage, traced: Traced) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "lineage": asdict(lineage),
        "labels": list(lineage.inputs.labels),
        "versions": lineage.versions,
        "inputs": {
            name: {
                "type": str(tensor.dtype).removeprefix("torch."),
                "shape": [traced.sizes[name], *tensor.shape[1:]],
            }
            for name, tensor in traced.inputs.items()
        },
        "output": {"type": "float32", "shape": ["B", len(lineage.inputs.labels)]},
        "native": native.made_for(),
    }


class _Program(Protocol):
    """Named tensors to one tensor."""

    inputs: tuple[str, ...]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any: ...


class _Beside:
    """What a file holds beside its program, by name.

    Attributes:
        schema: see the module.
        lineage: what the model was trained with.
        vocabulary: bytes of ``vocabulary.parquet``.
        items: bytes of ``items.parquet``; empty without it.
    """

    def __init__(self, files: Mapping[str, bytes]):
        self.schema = json.loads(files[SCHEMA])
        self.lineage = lineage_of(self.schema["lineage"])
        self.vocabulary, self.items = base64.b64decode(files[VOCABULARY], validate=True), b""
        if ITEMS in files:
            self.items = base64.b64decode(files[ITEMS], validate=True)
            _check_table(ITEMS, self.items)


def _check_table(name: str, data: bytes) -> None:
    """Refuse what is no Parquet file, also where nobody asks for what is in it.

    Raises:
        ValueError: it is none.
    """
    try:
        pq.read_metadata(pa.BufferReader(data))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"its {name} is no Parquet file ({error})") from error


def _read(data: bytes, path: Path, trusted: Collection[str]) -> tuple[_Program, _Beside]:
    """The program in an exported file, and what is beside it.

    Raises:
        Unusable: it is native code that nobody vouches for, or what runs it is not here.
        Exception: of any other kind, it is damaged, or of no such form.
    """
    if data.startswith(onnx_program.START):
        found = onnx_program.OnnxProgram(data)
        return found, _Beside(found.files)
    parts = read_parts(data)
    if is_native := any(name.startswith(native.PARTS) for name in parts):
        native.check_trusted(path, _digest(data), trusted)
    added = {name: parts[part] for name in (SCHEMA, VOCABULARY, ITEMS) if (part := EXTRA + name) in parts}
    beside = _Beside(added)
    if is_native:
        return native.NativeProgram(data, beside.schema["inputs"], beside.schema["native"]), beside
    return pt2.program_of(parts, [*beside.schema["inputs"]], [EXTRA + name for name in added]), beside


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Exported:
    """A model that ``export_model`` wrote: ``probabilities`` as of the model itself.

    Args:
        path: of the file, which is read once.
        trust_native: sha256 digests, in either case, of files that may hold native code, which runs when it is loaded.

    Attributes:
        digest: sha256 of the file, in hex.
        lineage: what it was trained with.
        vocabulary: bytes of ``vocabulary.parquet``.
        items: bytes of ``items.parquet``; empty without it.
        inputs: names of the program's inputs, in order.

    Raises:
        BadInput: there is no exported model, or one that is damaged; or it is native code, and its digest is not named;
            or one that is named is no digest.
    """

    def __init__(self, path: str | Path, trust_native: Collection[str] = ()):
        trusted = native.trusted_digests(trust_native)
        self._path = Path(path)
        if os.path.isdir(path):
            raise BadInput(f"{path} holds no exported model: it is a folder. For a run folder leave out --exported.")
        try:
            with open_regular(self._path) as file:
                data = file.read()
            self.digest = _digest(data)
            self._program, beside = _read(data, self._path, trusted)
        except Unusable:
            raise
        except Exception as error:  # what is wrong with a file of a stranger may be of any kind
            raise BadInput(f"{path} holds no exported model: {_said(error)}. 'trainer export' makes one.") from error
        self.lineage, self.vocabulary, self.items = beside.lineage, beside.vocabulary, beside.items
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
