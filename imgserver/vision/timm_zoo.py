"""Nets of timm as backbones: their pooled vector, with the preprocessing of their own data configuration.

timm:convnext_tiny.in12k_ft_in1k                       weights from the hub's cache, or fetched from the hub
timm:vit_small_patch14_dinov2.lvd142m@weights.pth      the same net with weights from a file
timm:vit_base_patch16_clip_224.openai                  the trunk of CLIP's image tower
timm:vit_base_patch16_clip_224.openai#projection       and its projection, into the space that texts share
"""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbone import TIMM, Backbone, Normalised
from crossmedia.imgserver.vision.decode import RESAMPLING, Preprocessing
from crossmedia.imgserver.vision.torchvision_zoo import import_torchvision
from crossmedia.imgserver.vision.weights import State, fitted, load, read_weights

PROJECTION = "#projection"
NEAR = 5  # names that are offered for one that is none
CONVERTERS = ("checkpoint_filter_fn", "_filter_fn")  # in a file of timm: from names that others gave to weights


@dataclass(frozen=True)
class TimmEntry:
    """One set of published weights.

    Attributes:
        recipe: ``timm:<model>.<tag>``.
        size: height and width of its input, in pixels.
        here: whether its weights are on this machine.
    """

    recipe: str
    size: int
    here: bool


def timm_entries() -> list[TimmEntry]:
    """All nets of timm with published weights.

    Raises:
        BadInput: timm is not installed.
    """
    timm = _import_timm()
    found = []
    for name in timm.list_models(pretrained=True):
        config = timm.models.get_pretrained_cfg(name)
        found.append(TimmEntry(f"{TIMM}{name}", config.input_size[-1], _cached(config) is not None))
    return found


def weights_to_fetch(recipe: str) -> bool:
    """Whether ``timm_backbone`` would ask the hub.

    Raises:
        BadInput: timm is not installed, or has no such net.
    """
    timm = _import_timm()
    named, at, _ = recipe.removeprefix(TIMM).removesuffix(PROJECTION).partition("@")
    return not at and _cached(timm.models.get_pretrained_cfg(_full_name(timm, named))) is None


def timm_backbone(recipe: str, *, random_weights: bool = False) -> Backbone:
    """A net of timm without its classifier.

    Args:
        recipe: see the top of this file. A file is as ``weights`` reads it, with or without a classifier.
        random_weights: weights do not matter, as when speed is measured; nothing is fetched.

    Raises:
        BadInput: timm is not installed; there is no such net; its weights cannot be had, or do not fit; it asks for
            pixels that are not made here; or it gives no vector of finite numbers.
    """
    timm = _import_timm()
    named, _, chosen = recipe.removeprefix(TIMM).removesuffix(PROJECTION).partition("@")
    projected = recipe.endswith(PROJECTION)
    name = _full_name(timm, named)
    config = timm.models.get_pretrained_cfg(name)
    if projected and not _has_projection(name, config):
        raise BadInput(f"{TIMM}{name} has no projection into a space with texts. Leave out {PROJECTION}.")
    label = name + ".projection" * projected
    path: Path | None = None
    state: State | None = None
    net = _net(timm, name, projected)
    preprocessing = _preprocessing(timm, net, name)
    if not random_weights:
        path = Path(chosen).resolve() if chosen else _fetched(name, config)
        if not path.is_file():
            raise BadInput(f"There is no file {chosen!r} with weights of {name}.")
        state = _state(net, name, path, own=bool(chosen))
        load(net, state, name)
    if chosen and path:
        label += "." + re.sub(r"[^\w.-]", "_", path.stem)
    recipe = f"{TIMM}{name}{f'@{path}' if chosen else ''}{PROJECTION * projected}"
    dim = _feature_dim(Normalised(net, preprocessing).eval(), recipe, preprocessing.size)
    build = partial(_build, timm, name, projected, preprocessing, state)
    return Backbone(recipe, f"{TIMM}{label}", dim, preprocessing, (path,) if path else (), build)


def _import_timm() -> Any:
    with suppress(BadInput):  # timm imports torchvision, which may need our help
        import_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        raise BadInput(f'{TIMM} needs timm ({error}). Install it with: pip install "crossmedia[timm]"') from error
    return timm


def _full_name(timm: Any, name: str) -> str:
    """The net with its tag, which timm has a default of.

    Raises:
        BadInput: there is no such net.
    """
    known = set(timm.list_models()) | set(timm.list_models(pretrained=True))
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known), n=NEAR)
        offered = f" Names near it: {', '.join(near)}." if near else ""
        raise BadInput(f"timm has no net {name!r}.{offered} 'imgserver backbones' lists them.")
    config = timm.models.get_pretrained_cfg(name)
    return f"{config.architecture}.{config.tag}" if config.tag else name


def _has_projection(name: str, config: Any) -> bool:
    """Whether the last layer is CLIP's projection: also a linear one, which timm does not tell from a classifier."""
    return "clip" in name and "_ft_" not in name and bool(config.num_classes)


def _net(timm: Any, name: str, projected: bool) -> nn.Module:
    made: nn.Module = timm.create_model(name, pretrained=False, **({} if projected else {"num_classes": 0}))
    return made


def _preprocessing(timm: Any, net: nn.Module, name: str) -> Preprocessing:
    said = timm.data.resolve_model_data_config(net)
    channels, height, width = said["input_size"]
    share, mode = said["crop_pct"], said["crop_mode"]
    fits = mode == "center" or (mode == "squash" and share == 1)
    if channels != 3 or height != width or said["interpolation"] not in RESAMPLING or not fits:
        raise BadInput(
            f"{TIMM}{name} asks for pixels that are not made here: {said}. Photos are cropped to a square in the "
            f"middle (center) or stretched to it (squash with crop_pct 1), with bilinear or bicubic interpolation."
        )
    crop = mode == "center"
    return Preprocessing(
        size=height,
        fit="crop" if crop else "stretch",
        resize=math.floor(height / share) if crop else 0,
        interpolation=said["interpolation"],
        mean=tuple(round(255 * value, 6) for value in said["mean"]),
        scale=tuple(round(255 * value, 6) for value in said["std"]),
        draft=0,
    )


def _state(net: nn.Module, name: str, path: Path, own: bool) -> State:
    """The weights of a file by the net's names; a file with the names of those who trained the net goes through timm.

    Raises:
        BadInput: as ``fitted``.
    """
    state = read_weights(path)
    try:
        return fitted(state, net, name, path, own=own)
    except BadInput:
        module = sys.modules[type(net).__module__]
        convert = next((getattr(module, found) for found in CONVERTERS if hasattr(module, found)), None)
        if convert is None:
            raise
        front = os.path.commonprefix(list(state)).rpartition(".")[0]  # noqa: RUF071  no paths, and cut at a dot
        plain = {key[len(front) :].lstrip("."): value for key, value in state.items()}
        with suppress(Exception):  # each file of timm raises its own where names are none that it knows
            return fitted(State(convert(plain, net)), net, name, path, own=own)
        raise


def _build(timm: Any, name: str, projected: bool, preprocessing: Preprocessing, state: State | None) -> nn.Module:
    net = _net(timm, name, projected)
    if state is not None:
        load(net, state, name)
    return Normalised(net, preprocessing).eval()


@torch.inference_mode()
def _feature_dim(net: nn.Module, recipe: str, size: int) -> int:
    """Numbers in a feature, from one of a picture of all values.

    Raises:
        BadInput: it is no vector, or not finite.
    """
    picture = torch.arange(3 * size * size, dtype=torch.int64).remainder(251).to(torch.uint8).view(1, size, size, 3)
    found = net(picture)
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 1:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise BadInput(f"The output of {recipe} for a photo is no vector: {shape}. It cannot be a backbone.")
    if not found.isfinite().all():
        raise BadInput(f"The output of {recipe} is not finite (nan, inf): its weights are damaged, or of another net.")
    return int(found.shape[1])


def _files(config: Any) -> list[str]:
    """Of the weights on the hub: safetensors where there are any, then what torch loads."""
    given = config.hf_hub_filename or "pytorch_model.bin"
    if not given.endswith(".bin"):
        return [given]
    return [given.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors", given]


def _cached(config: Any) -> Path | None:
    """The file of weights where a hub's client keeps it."""
    import huggingface_hub

    for file in _files(config) if config.hf_hub_id else ():
        found = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return Path(found)
    return None


def _fetched(name: str, config: Any) -> Path:
    if (cached := _cached(config)) is not None:
        return cached
    advice = f"Name a file that has them: {TIMM}{name}@<file>."
    if not config.hf_hub_id:
        raise BadInput(f"timm names no weights of {name} on the hub. {advice}")
    import huggingface_hub

    said = ""
    for file in _files(config):
        try:
            return Path(huggingface_hub.hf_hub_download(config.hf_hub_id, file))
        except Exception as error:  # of the hub's client, of HTTP, of the cache: each raises its own
            said = str(error)[:300]
    raise BadInput(
        f"The weights of {name} are not in the hub's cache and cannot be fetched from {config.hf_hub_id}: {said} "
        f"{advice}"
    )
