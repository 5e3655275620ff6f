"""A run folder: the model, what it was trained with, and the checks before it is used again.

config.json          FitConfig, vector version and generation, vocabulary hash, input sizes; digests of all files
model.safetensors    best weights
concepts.json        what the numbers of vectors mean, by space, where they are concepts: names may be edited
head.safetensors     the head that it learned, where it learned one; 'trainer align' writes it without a model
metrics.json         validation, test, the learning curve, and what training cost
predictions.parquet  test probabilities, in file order
tensorboard/
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model as load_tensors
from safetensors.torch import save_model as save_tensors

from crossmedia.concepts import ConceptCard
from crossmedia.disk import replacing
from crossmedia.errors import BadInput
from crossmedia.features.layout import META_FILE
from crossmedia.features.reading.samples import Samples
from crossmedia.features.typed import typed
from crossmedia.imgserver.head import Head
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models import make
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.runs.sealed import file_digest, open_json, replacing_whole, sealed_json, text_of

log = logging.getLogger(__name__)

CONFIG, WEIGHTS, HEAD, METRICS, PREDICTIONS = (
    "config.json",
    "model.safetensors",
    "head.safetensors",
    "metrics.json",
    "predictions.parquet",
)
ALIGNED = "align"  # in ``config.json`` of a head that 'trainer align' made, what ``fit`` is in that of a model
CARDS = "concepts.json"  # names are data: they may be edited, and no digest is kept of them
STATE = "state.pt"  # of a run that has not ended: state.py
FILES = (WEIGHTS, HEAD, METRICS, PREDICTIONS)


@dataclass(frozen=True)
class Lineage:
    """What a model's numbers depend on beside its configuration.

    Attributes:
        vocabulary_hash: of the samples.
        versions: of the vectors, by space; empty without images.
        generations: of each space's store when training ended.
        inputs: columns and sizes.
        width: numbers in an embedding.
        model: name in ``MODELS``.
        options: of the model.
        samples_hash: of the rows.
        learned: the space whose head learned; empty: all were frozen.
    """

    vocabulary_hash: str
    versions: dict[str, str]
    generations: dict[str, int]
    inputs: InputSpec
    width: int
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    samples_hash: str = ""
    learned: str = ""

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


def samples_folder(made: str | Path, recorded: str, given: str | Path = "") -> str | Path:
    """Where the samples are of a run, or of a comparison.

    Args:
        made: its folder.
        recorded: where they were, which may be relative to the folder in which the command was given.
        given: where they are now; empty: where they were.

    Raises:
        BadInput: nothing is given, and they are not where they were.
    """
    if given or (Path(recorded) / META_FILE).exists():
        return given or recorded
    seen = "" if Path(recorded).is_absolute() else f", seen from the folder of that command; this one is {Path.cwd()}"
    raise BadInput(
        f"{made} was made from the samples {recorded}{seen}. There are none now. Give the folder where they are: "
        f'--samples, or samples="..." in Python.'
    )


def save_run(folder: Path, model: Model, lineage: Lineage, config: dict[str, Any]) -> None:
    """Write ``model.safetensors``, and last ``config.json``, which holds the digests of all files that the run has.

    Raises:
        StoreError: they cannot be written.
    """
    with replacing_whole(folder / WEIGHTS) as part:
        save_tensors(model, str(part))
    _seal_run(folder, {"fit": config, "lineage": asdict(lineage)})


def _seal_run(folder: Path, about: dict[str, Any]) -> None:
    files = {name: file_digest(folder / name) for name in FILES if (folder / name).exists()}
    with replacing_whole(folder / CONFIG) as part:
        part.write_text(sealed_json({**about, "files": files}))


def save_head(folder: Path, head: Head, about: dict[str, Any]) -> None:
    """Write a folder that holds a head alone: ``head.safetensors``, and last ``config.json``, as ``save_run`` does.

    Args:
        folder: that holds ``metrics.json``.
        head: that was aligned.
        about: ``align``, its settings, and what else ``config.json`` is to say.

    Raises:
        StoreError: they cannot be written.
    """
    with replacing(folder / HEAD) as part:
        part.write_bytes(head.to_bytes())
    _seal_run(folder, about)


def save_cards(folder: Path, cards: Mapping[str, ConceptCard]) -> None:
    """Write what the numbers of vectors mean, by space; a file of an earlier run in this folder goes.

    Raises:
        StoreError: it cannot be written.
    """
    if not cards:
        (folder / CARDS).unlink(missing_ok=True)
        return
    told = {name: json.loads(card.to_bytes()) for name, card in cards.items()}
    with replacing(folder / CARDS) as part:
        part.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n")


def load_cards(folder: str | Path) -> dict[str, ConceptCard]:
    """What ``save_cards`` wrote, or what somebody edited; empty: the run's vectors are no concepts.

    Raises:
        BadInput: the file is no such one.
    """
    path = Path(folder) / CARDS
    try:
        told = json.loads(text_of(path))
        return {name: ConceptCard.from_bytes(json.dumps(card).encode()) for name, card in told.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError, BadInput) as error:
        raise BadInput(f"{path} does not say what the numbers of vectors mean: {error}") from error


def is_head_alone(folder: str | Path) -> bool:
    """Whether a run folder holds a head that 'trainer align' made, and no model.

    Raises:
        BadInput: the folder is no run, or its ``config.json`` is damaged.
    """
    try:
        return ALIGNED in document_of(Path(folder))
    except (OSError, ValueError) as error:
        raise _no_run(Path(folder), error) from error


def document_of(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of a run says.

    Raises:
        OSError, ValueError: there is none, or it is damaged.
    """
    text = text_of(folder / CONFIG)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG} is no JSON any more: it is damaged ({error})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{CONFIG} is not what 'trainer fit' writes: it is damaged")
    if document.keys() == {"fit", "lineage"}:
        log.warning("the run %s is of a release that kept no digests: damage to it is not noticed", folder)
        return {**document, "files": None}
    return open_json(text)


def run_digest(folder: str | Path) -> str:
    """Which run it is: sha256 of its ``config.json``, which holds the digests of the other files.

    Raises:
        BadInput: the folder is no run.
    """
    try:
        return file_digest(Path(folder) / CONFIG)
    except OSError as error:
        raise _no_run(Path(folder), error) from error


def of_run(folder: str | Path, name: str) -> Path | None:
    """The path of a file of a run, once its content is what was written; None: the run has no such file.

    Args:
        folder: of the run.
        name: one of ``FILES``.

    Raises:
        BadInput: the folder is no run, or the file is damaged.
    """
    path = Path(folder) / name
    try:
        return _checked(path, document_of(path.parent)["files"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_run(path.parent, error) from error


def needed(folder: str | Path, name: str) -> Path:
    """As ``of_run``, of a file that the run must have.

    Raises:
        BadInput: it has none, or what ``of_run`` raises.
    """
    if (path := of_run(folder, name)) is None:
        raise _no_run(Path(folder), ValueError(f"there is no {name}"))
    return path


def _checked(path: Path, files: dict[str, str] | None) -> Path | None:
    if files is None:  # of a former release
        return path if path.is_file() else None  # and no pipe, which has no end
    if path.name not in files:
        return None
    if file_digest(path) != files[path.name]:
        raise ValueError(f"{path.name} is not what was written with {CONFIG}: it is damaged, or of another run")
    return path


def _no_run(folder: Path, error: Exception) -> BadInput:
    if (folder / STATE).exists() and not (folder / CONFIG).exists():
        return BadInput(
            f"{folder} holds a run that was interrupted before it ended: there is no model to load yet. The 'trainer "
            f"fit' that began it goes on from its last epoch when the same command is given."
        )
    if folder.is_file():
        return BadInput(f"{folder} is a file and no run folder. Give the folder that 'trainer fit' made.")
    return BadInput(
        f"{folder} holds no run that can be loaded: {error}. 'trainer fit' makes one; of one that was whole, copy the "
        f"folder again."
    )


def lineage_of(fields: dict[str, Any]) -> Lineage:
    """What ``asdict`` made of a lineage, after JSON.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    if "vector_version" in fields:
        raise ValueError(
            "it is of a former release, whose samples had another format: build the samples, train it again"
        )
    inputs = typed(InputSpec, fields["inputs"])
    if min(inputs.max_history, inputs.actions, *inputs.spaces.values(), *inputs.vocabularies.values()) < 0:
        raise ValueError("the size of an input is below 0")
    return typed(Lineage, {**fields, "inputs": inputs})


def load_model(folder: str | Path) -> tuple[Model, Lineage, dict[str, Any]]:
    """The model of a run folder, its lineage, and its FitConfig as a dictionary.

    Raises:
        BadInput: the folder is no run, or its files do not fit together.
    """
    folder = Path(folder)
    try:
        document = document_of(folder)
        if ALIGNED in document:
            raise BadInput(
                f"{folder} holds a head that 'trainer align' made, and no model. Train a model on its vectors, which "
                f"'imgserver precompute --head {folder / HEAD}' makes, or with --head learn --warm-start {folder}."
            )
        lineage = lineage_of(document["lineage"])
        model = make(lineage.model, lineage.inputs, lineage.width, lineage.options)
        if (path := _checked(folder / WEIGHTS, document["files"])) is None:
            raise ValueError(f"there is no {WEIGHTS}")
        load_tensors(model, str(path))
        return model.eval(), lineage, document["fit"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise _no_run(folder, error) from error
