"""A trained model as one file that needs none of its classes: batches and vectors in, probabilities out.

``trainer export`` writes ``<name>.pt2``, a program of torch.export that holds the weights, and in it ``schema.json``
(columns, sizes, inputs with type and shape, labels, version of the vectors) and ``vocabulary.parquet``. Trees cannot be
traced: GBDT+LR is a folder with LightGBM's text, the weights as safetensors, the same schema and vocabulary.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.samples import Samples
from features.vocabulary import FILE as VOCABULARY
from imgserver.errors import BadInput
from trainer.checkpoint import Lineage, lineage_of, load_model, save_model
from trainer.models.base import Model
from trainer.models.gbdt_lr import GBDTLR
from trainer.tensors import ImageVectors, TensorBatch, TensorImages

SCHEMA, TREES, FORMAT = "schema.json", "trees.txt", 1
Inputs = dict[str, Tensor]


def flat(batch: TensorBatch, vectors: ImageVectors | None) -> Inputs:
    """The tensors of a batch by name: the inputs of an exported program."""
    found = {f"ids.{name}": ids for name, ids in batch.ids.items()}
    found |= {f"history.{name}": ids for name, ids in batch.history.items()}
    found |= {"history_age": batch.history_age, "segments": batch.segments, "lengths": batch.lengths}
    for name, (tokens, rows) in batch.text.items():
        found |= {f"text.{name}": tokens, f"text_rows.{name}": rows}
    if batch.images is not None:
        found["images.unique_index"] = batch.images.unique_index
        found |= {"images.target": batch.images.target, "images.history": batch.images.history}
    if vectors is not None:
        found |= {"vectors.values": vectors.values, "vectors.ok": vectors.ok}
    return found


def _part(inputs: Inputs, prefix: str) -> Inputs:
    return {name.removeprefix(prefix): tensor for name, tensor in inputs.items() if name.startswith(prefix)}


class _Program(nn.Module):
    """What is traced: named tensors to probabilities."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        images = _part(inputs, "images.")
        rows = _part(inputs, "text_rows.")
        batch = TensorBatch(
            labels={},
            ids=_part(inputs, "ids."),
            history=_part(inputs, "history."),
            history_age=inputs["history_age"],
            segments=inputs["segments"],
            lengths=inputs["lengths"],
            text={name: (tokens, rows[name]) for name, tokens in _part(inputs, "text.").items()},
            images=TensorImages(**images) if images else None,
        )
        vectors = _part(inputs, "vectors.")
        return torch.sigmoid(self.model(batch, ImageVectors(**vectors) if vectors else None))


def _sizes(inputs: Inputs) -> dict[str, str]:
    """The symbol of each input's first size: B rows, N behaviours, K images, M words of a column."""
    symbols = {}
    for name in inputs:
        if name.startswith(("text.", "text_rows.")):
            symbols[name] = "M_" + name.partition(".")[2]
        elif name.startswith("vectors.") or name == "images.unique_index":
            symbols[name] = "K"
        elif name.startswith(("ids.", "images.target")) or name == "lengths":
            symbols[name] = "B"
        else:
            symbols[name] = "N"
    return symbols


def export_model(run: str | Path, samples: Samples, out: str | Path) -> Path:
    """Write the model of a run; of Rocket Launching the light net alone.

    Args:
        run: run folder.
        samples: those it was trained with: for the vocabulary.
        out: the file ``.pt2``, or for GBDT+LR the folder.

    Raises:
        BadInput: the folder is no run, or the samples are others.
    """
    model, lineage, _ = load_model(run)
    lineage.check_samples(samples)
    served, out = model.served().eval(), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(served, GBDTLR):
        return _export_trees(served, lineage, samples, out)
    inputs = _example(served)
    symbols = _sizes(inputs)
    dimensions = {symbol: torch.export.Dim(symbol, min=0) for symbol in set(symbols.values())}
    shapes = {name: {0: dimensions[symbol]} for name, symbol in symbols.items()}
    with torch.no_grad():
        program = torch.export.export(_Program(served), (inputs,), dynamic_shapes=(shapes,))
    files = {
        SCHEMA: json.dumps(_schema(lineage, inputs), indent=1),
        VOCABULARY: base64.b64encode((samples.folder / VOCABULARY).read_bytes()).decode(),
    }
    torch.export.save(program, str(out), extra_files=files)
    return out


def _schema(lineage: Lineage, inputs: Inputs) -> dict[str, Any]:
    symbols = _sizes(inputs)
    return {
        "format": FORMAT,
        "lineage": asdict(lineage),
        "labels": list(lineage.inputs.labels),
        "vector_version": lineage.vector_version,
        "inputs": {
            name: {"type": str(tensor.dtype).removeprefix("torch."), "shape": [symbols[name], *tensor.shape[1:]]}
            for name, tensor in inputs.items()
        },
        "output": {"type": "float32", "shape": ["B", len(lineage.inputs.labels)]},
    }


def _example(model: Model) -> Inputs:
    """Small inputs of the right types to trace with; each size is another number, so that none is taken for another."""
    spec = model.spec
    rows, images, words = 3, 7, 11
    segments = torch.tensor([0, 0, 0, 2, 2] if spec.actions else [], dtype=torch.int64)

    def whole(n: int) -> Tensor:
        return torch.zeros(n, dtype=torch.int64)

    found = {f"ids.{name}": whole(rows) for name in (*spec.user_columns, *spec.item_columns)}
    if spec.actions:
        found |= {f"history.{name}": whole(len(segments)) for name in (*spec.item_columns, "action")}
    found |= {"history_age": whole(len(segments)), "segments": segments}
    found["lengths"] = torch.bincount(segments, minlength=rows)
    for name in spec.text_columns:
        found |= {f"text.{name}": whole(words), f"text_rows.{name}": torch.arange(words) % rows}
    if spec.image_vocabulary_size:
        found["images.unique_index"] = whole(images)
        found |= {"images.target": whole(rows), "images.history": whole(len(segments))}
    if spec.vector_dim:
        found["vectors.values"] = torch.zeros(images, spec.vector_dim)
        found["vectors.ok"] = torch.ones(images, dtype=torch.bool)
    return found


def _export_trees(model: GBDTLR, lineage: Lineage, samples: Samples, out: Path) -> Path:
    save_model(out, model, lineage, {})
    (out / TREES).write_text(model.booster.model_to_string())
    (out / SCHEMA).write_text(json.dumps(_schema(lineage, _example(model)), indent=1) + "\n")
    shutil.copy(samples.folder / VOCABULARY, out / VOCABULARY)
    return out


def _refuse_pickles(path: Path) -> None:
    """Torch reads some parts of an archive by pickle when they ask for it, or when reading them safely fails.

    Raises:
        ValueError: the archive has such a part.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names) or not any(name.endswith("/archive_format") for name in names):
            raise ValueError("it is no archive of torch.export")
        for name in names:
            inner = name.partition("/")[2]
            if inner.startswith(("data/weights/", "data/constants/")) and inner.endswith(".json"):
                entries = json.loads(archive.read(name))["config"]
                if any(entry["use_pickle"] for entry in entries.values()):
                    raise ValueError(f"{name} asks for pickle, which is never loaded")
            elif inner.startswith("data/sample_inputs/"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except pickle.UnpicklingError as error:
                    raise ValueError(f"{name} needs pickle, which is never loaded") from error
            elif inner.startswith("data/") and not inner.startswith("data/weights/weight_"):
                raise ValueError(f"{name} is no part that 'trainer export' writes")


class Exported:
    """A model that ``export_model`` wrote: ``probabilities`` as of the model itself.

    Attributes:
        lineage: what it was trained with.
        vocabulary: bytes of ``vocabulary.parquet``.
    """

    def __init__(self, path: str | Path):
        """Load it.

        Raises:
            BadInput: there is no exported model, or one that is damaged.
        """
        path = Path(path)
        try:
            if path.is_dir():
                model, self.lineage, _ = load_model(path)
                self.vocabulary = (path / VOCABULARY).read_bytes()
                self._call: Any = _Program(model)
            else:
                _refuse_pickles(path)
                files = {SCHEMA: "", VOCABULARY: ""}
                self._call = torch.export.load(str(path), extra_files=files).module()
                self.lineage = lineage_of(json.loads(files[SCHEMA])["lineage"])
                self.vocabulary = base64.b64decode(files[VOCABULARY])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path} holds no exported model: {error}. 'trainer export' makes one.") from error

    @torch.inference_mode()
    def probabilities(self, batch: TensorBatch, image_vectors: ImageVectors | None) -> Tensor:
        """Shape (B, L)."""
        found: Tensor = self._call(flat(batch, image_vectors))
        return found
