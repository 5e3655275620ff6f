"""Classifiers of torchvision as backbones: the net without its last layer, with the preprocessing of its weights."""

from __future__ import annotations

import os
import re
import sys
import types
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.imgserver.vision.backbone import TORCHVISION, Backbone, Normalised
from crossmedia.imgserver.vision.decode import Preprocessing
from crossmedia.imgserver.vision.weights import State, fitted, load, read_weights

HUGE_MB = 1000
HELPERS = ("AuxLogits.", "aux1.", "aux2.")  # classifiers that helped Inception and GoogLeNet to train
# Published weights of DenseNet have names of an older torch: norm.1.weight for norm1.weight.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])(?=\.)")


def import_torchvision() -> Any:
    """torchvision.models; also beside a CPU build of torch, where a torchvision built for CUDA does not import.

    Raises:
        BadInput: torchvision is not installed.
    """
    try:
        import torchvision.models
    except ModuleNotFoundError as error:
        raise BadInput(
            f'This backbone needs torchvision ({error}). Install it with: pip install "crossmedia[torchvision]"'
        ) from error
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        # That wheel's operators need CUDA. Models and transforms use none of them; only their registration fails.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
        import torchvision.models
    return torchvision.models


@dataclass(frozen=True)
class Entry:
    """One set of published weights.

    Attributes:
        recipe: ``torchvision:<model>@<weights>``.
        dim: numbers in a feature; None for a net too large to build for that alone.
        size: height and width of its input, in pixels.
        megabytes: of its weights.
        path: where torch.hub keeps them.
        default: whether they are what the model's name alone means.
    """

    recipe: str
    dim: int | None
    size: int
    megabytes: float
    path: Path
    default: bool


def entries() -> list[Entry]:
    """All classifiers with published weights that end in a linear layer.

    Raises:
        BadInput: torchvision is not installed.
    """
    models = import_torchvision()
    found = []
    for model in models.list_models(module=models):
        if model.startswith("squeezenet"):  # ends in a convolution
            continue
        published = models.get_model_weights(model)
        dim = None
        if not (model.startswith("regnet") and next(iter(published)).meta["_file_size"] > HUGE_MB):
            dim = _feature_dim(models, model)
        for weights in published:
            size = int(weights.transforms().crop_size[0])
            recipe = f"{TORCHVISION}{model}@{weights.name}"
            default = weights is published.DEFAULT
            found.append(Entry(recipe, dim, size, weights.meta["_file_size"], _hub_path(weights), default))
    return found


def torchvision_backbone(recipe: str, *, random_weights: bool = False) -> Backbone:
    """A classifier without its last layer.

    Args:
        recipe: ``torchvision:<model>``, which takes the best weights, ``torchvision:<model>@<weights>``, or
            ``torchvision:<model>@<file>``: see ``weights``; preprocessing is then that of the best published
            weights.
        random_weights: weights do not matter, as when speed is measured; nothing is fetched.

    Raises:
        BadInput: no such model or weights, the weights cannot be had, or they do not fit the model.
    """
    models = import_torchvision()
    model, _, chosen = recipe.removeprefix(TORCHVISION).partition("@")
    if model not in (known := models.list_models(module=models)):
        near = did_you_mean(model, known)
        raise BadInput(f"torchvision has no classifier {model!r}.{near} 'imgserver backbones' lists them.")
    published = models.get_model_weights(model)
    named = published[chosen] if chosen in published.__members__ else None
    weights = named or published.DEFAULT
    preprocessing = _preprocessing(weights.transforms())
    dim = _feature_dim(models, model)
    if random_weights:
        return Backbone(recipe, model, dim, preprocessing, (), partial(_build, models, model, preprocessing, None))
    if chosen and named is None:
        path = Path(chosen).resolve()
        if not path.is_file():
            raise BadInput(
                f"torchvision has no weights {chosen!r} for {model}, and there is no such file. There are: "
                f"{', '.join(published.__members__)}."
            )
        recipe, label = f"{TORCHVISION}{model}@{path}", re.sub(r"[^\w.-]", "_", path.stem)
    else:
        path, label = _fetched(weights, recipe), weights.name
        recipe = f"{TORCHVISION}{model}@{weights.name}"
    state = fitted(
        _read(path, model), _skeleton(models, model), model, path, HELPERS, own=named is None and bool(chosen)
    )
    build = partial(_build, models, model, preprocessing, state)
    return Backbone(recipe, f"{TORCHVISION}{model}.{label}", dim, preprocessing, (path,), build)


def _preprocessing(preset: Any) -> Preprocessing:
    return Preprocessing(
        size=int(preset.crop_size[0]),
        fit="crop",
        resize=int(preset.resize_size[0]),
        interpolation=preset.interpolation.value,
        mean=tuple(round(255 * value, 6) for value in preset.mean),
        scale=tuple(round(255 * value, 6) for value in preset.std),
        draft=0,
    )


def _last_linear(net: nn.Module, model: str) -> tuple[str, nn.Linear]:
    found = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise BadInput(f"{model} has no last linear layer to take off, so it cannot be a backbone. Choose another one.")
    return found[-1]


def _feature_dim(models: Any, model: str) -> int:
    with _no_memory(model):
        return _last_linear(_bare(models, model), model)[1].in_features


def _skeleton(models: Any, model: str) -> nn.Module:
    """The net without its last layer, for the names of its weights."""
    with _no_memory(model):
        return _cut(_bare(models, model), model)


def _no_memory(model: str) -> AbstractContextManager[Any]:
    """A net that is built in here has no numbers, which takes neither memory nor time."""
    if model.startswith("regnet"):  # computes its widths with tensors, which the meta device does not have
        return nullcontext()
    return torch.device("meta")


def _cut(net: nn.Module, model: str) -> nn.Module:
    name, _ = _last_linear(net, model)
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, nn.Identity())
    return net


def _bare(models: Any, model: str) -> nn.Module:
    # The published weights of these two were trained with their own shift of the input.
    options = {"init_weights": False, "transform_input": True} if model in ("googlenet", "inception_v3") else {}
    net: nn.Module = models.get_model(model, weights=None, **options)
    return net


def _build(models: Any, model: str, preprocessing: Preprocessing, state: State | None) -> nn.Module:
    net = _cut(_bare(models, model), model)
    if state is not None:
        load(net, state, model)
    return Normalised(net, preprocessing).eval()


def _hub_path(weights: Any) -> Path:
    return Path(str(torch.hub.get_dir()), "checkpoints", os.path.basename(weights.url))


def _fetched(weights: Any, recipe: str) -> Path:
    path = _hub_path(weights)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(weights.url, str(path), digest[1] if digest else None)
        except (OSError, RuntimeError) as error:
            raise BadInput(
                f"The weights of {recipe} are not in {path} and cannot be fetched from {weights.url}: {error}. "
                f"Put the file there, or name a file: torchvision:<model>@<file>."
            ) from error
    return path


def _read(path: Path, model: str) -> State:
    state = read_weights(path)
    if model.startswith("densenet"):
        for name in list(state):
            state[OLD_DENSENET.sub(r"\1\2", name)] = state.pop(name)
    return state
