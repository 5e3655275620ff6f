"""Names of models; a model is a class in a file of its own, and one line here."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crossmedia.arguments import must
from crossmedia.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from crossmedia.trainer.layers.inputs import InputSpec
    from crossmedia.trainer.models.base import Model

OF_EMBEDDINGS = ("pooling", "embedding_std")  # options that every model has that starts from embeddings
# In the order in which Alimama climbed them, then what came after. By name, so that listing them imports no torch.
MODELS = {
    "lr": "crossmedia.trainer.models.lr:LR",
    "mlr": "crossmedia.trainer.models.mlr:MLR",
    "gbdt_lr": "crossmedia.trainer.models.gbdt_lr:GBDTLR",
    "embedding_mlp": "crossmedia.trainer.models.embedding_mlp:EmbeddingMLP",
    "din": "crossmedia.trainer.models.din:DIN",
    "dicm": "crossmedia.trainer.models.dicm:DICM",
    "dien": "crossmedia.trainer.models.dien:DIEN",
    "rocket": "crossmedia.trainer.models.rocket:Rocket",
    "simtier": "crossmedia.trainer.models.simtier:SimTier",
    "muse": "crossmedia.trainer.models.muse:MUSE",
    "concepts": "crossmedia.trainer.models.concepts:Concepts",
}


def model_class(name: str) -> type[Model]:
    """The class of that name.

    Raises:
        BadInput: there is none.
    """
    if name not in MODELS:
        raise BadInput(f"There is no model {name!r}; there are: {', '.join(MODELS)}.{did_you_mean(name, MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    found: type[Model] = getattr(importlib.import_module(module), attribute)
    return found


def options_of(name: str) -> dict[str, Any]:
    """Options of a model and their defaults: the keyword-only arguments of its class, and of what it inherits from."""
    options: dict[str, Any] = {}
    for cls in reversed(model_class(name).__mro__):
        if "__init__" in vars(cls):
            parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
            options |= {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return options


def unknown_option(name: str, option: str) -> str:
    """What is wrong, and which options there are; those of a net inside are written ``net.NAME``."""
    known = [f"{n.removesuffix('_options')}.NAME" if n.endswith("_options") else n for n in options_of(name)]
    return f"{name} has no option {option!r}; its options are: {', '.join(known)}.{did_you_mean(option, known)}"


def _check_numbers(option: str, value: Any) -> None:
    """Refuse what no option can mean: a width below 1, and a number that is negative or not finite.

    Raises:
        BadInput: the option, its value and what it must be.
    """
    if isinstance(value, tuple | list):
        must(all(width >= 1 for width in value), option, value, "widths of layers, each at least 1")
    elif isinstance(value, int | float):
        must(0 <= value < math.inf, option, value, "a finite number, at least 0")


def make(name: str, spec: InputSpec, width: int, options: Mapping[str, Any], **shared: Any) -> Model:
    """A new model.

    Args:
        name: in ``MODELS``.
        spec: columns and sizes.
        width: numbers in an embedding.
        options: of the model, by name.
        shared: ``inputs``, embeddings shared with another model.

    Raises:
        BadInput: there is no such model, option or value.
    """
    cls, known, own = model_class(name), options_of(name), dict(options)
    if unknown := [option for option in options if option not in known]:
        raise BadInput(unknown_option(name, unknown[0]))
    for option, value in options.items():
        _check_numbers(f"{name}.{option}", value)
    embeds = "inputs" in inspect.signature(cls).parameters
    if shared and not embeds:
        raise BadInput(f"{name} cannot share embeddings: it has none.")
    if embeds and (given := {option: own.pop(option) for option in OF_EMBEDDINGS if option in own}):
        from crossmedia.trainer.layers.inputs import ModelInputs

        if shared:
            raise BadInput(f"{name} shares its embeddings, whose {min(given)} is that of the model around it.")
        shared = {"inputs": ModelInputs(cls.embedded(spec), width, **given)}  # type: ignore[attr-defined]
    return cls(spec, width, **own, **shared)  # type: ignore[call-arg]  # of the subclasses; Model has the spec alone
