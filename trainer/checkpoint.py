"""A run folder: the model, what it was trained with, and the checks before it is used again.

config.json          FitConfig, vector version and generation, vocabulary hash, input sizes
model.safetensors    best weights
metrics.json         validation, test, the learning curve, and what training cost
predictions.parquet  test probabilities, in file order
tensorboard/
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model as load_tensors
from safetensors.torch import save_model as save_tensors

from features.samples import Samples
from imgserver.errors import BadInput, VersionMismatch
from trainer.layers.inputs import InputSpec
from trainer.models import make
from trainer.models.base import Model

CONFIG, WEIGHTS, METRICS, PREDICTIONS = (
    "config.json",
    "model.safetensors",
    "metrics.json",
    "predictions.parquet",
)


@dataclass(frozen=True)
class Lineage:
    """What a model's numbers depend on beside its configuration.

    Attributes:
        vocabulary_hash: of the samples.
        vector_version: of the image vectors; empty without images.
        generation: of the server's store when training ended; 0 without images.
        inputs: columns and sizes.
        width: numbers in an embedding.
        model: name in ``MODELS``.
        options: of the model.
    """

    vocabulary_hash: str
    vector_version: str
    generation: int
    inputs: InputSpec
    width: int
    model: str
    options: dict[str, Any] = field(default_factory=dict)

    def check_samples(self, samples: Samples) -> None:
        """Refuse samples of another vocabulary.

        Raises:
            BadInput: places would mean other values.
        """
        if samples.vocabulary_hash != self.vocabulary_hash:
            raise BadInput(
                f"The samples in {samples.folder} have vocabulary {samples.vocabulary_hash}; the model was trained "
                f"with {self.vocabulary_hash}. Use the samples that it was trained with."
            )

    def check_version(self, served: str) -> None:
        """Refuse vectors of another version.

        Raises:
            VersionMismatch: the server serves another version than the model was trained with.
        """
        if served != self.vector_version:
            raise VersionMismatch(
                f"The model was trained with vectors of {self.vector_version}; the server serves {served}. "
                f"Serve the former version, or train again."
            )


def save_model(folder: Path, model: Model, lineage: Lineage, config: dict[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(model, str(folder / WEIGHTS))
    document = {"fit": config, "lineage": asdict(lineage)}
    (folder / CONFIG).write_text(json.dumps(document, indent=1) + "\n")


def lineage_of(fields: dict[str, Any]) -> Lineage:
    """What ``asdict`` made of a lineage, after JSON.

    Raises:
        KeyError, TypeError: it is none.
    """
    inputs = {**fields["inputs"], "labels": tuple(fields["inputs"]["labels"])}
    return Lineage(**{**fields, "inputs": InputSpec(**inputs)})


def load_model(folder: str | Path) -> tuple[Model, Lineage, dict[str, Any]]:
    """The model of a run folder, its lineage, and its FitConfig as a dictionary.

    Raises:
        BadInput: the folder is no run, or its files do not fit together.
    """
    folder = Path(folder)
    try:
        document = json.loads((folder / CONFIG).read_text())
        lineage = lineage_of(document["lineage"])
        model = make(lineage.model, lineage.inputs, lineage.width, lineage.options)
        load_tensors(model, str(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{folder} holds no run that can be loaded: {error}. 'trainer fit' makes one.") from error
    return model.eval(), lineage, document["fit"]
