"""Backbones side by side: dim, size, and images a second on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbone import TIMM, TORCHVISION, Backbone
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.efficientnet_lite import DEFAULT
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine

REPEATS = 3


@dataclass(frozen=True)
class SurveyEntry:
    """One backbone.

    Attributes:
        recipe: its name.
        dim: numbers in a feature; None where only its weights would tell.
        size: height and width of its input, in pixels.
        megabytes: of its weights; None where they are not here, and nothing tells.
        here: whether its weights are on this machine.
        images_per_s: of the net alone, on ready pixels; None when it was not measured.
    """

    recipe: str
    dim: int | None
    size: int
    megabytes: float | None
    here: bool
    images_per_s: float | None = None


def survey(names: Sequence[str], machine: Machine) -> list[SurveyEntry]:
    """The backbones ``names``, measured; without names all of them, measured where the weights are here.

    Raises:
        BadInput: there is no backbone of a name.
    """
    if names:
        return [_named(name, machine) for name in names]
    measured = (
        replace(row, images_per_s=_rate(get_backbone(row.recipe), machine)) if row.here else row for row in _published()
    )
    return [_named(DEFAULT, machine), *measured]


def _published() -> list[SurveyEntry]:
    """What torchvision and timm publish, as far as they are installed."""
    from crossmedia.imgserver.vision.timm_zoo import timm_entries
    from crossmedia.imgserver.vision.torchvision_zoo import entries

    found = []
    with suppress(BadInput):  # torchvision is not installed
        found += [SurveyEntry(e.recipe, e.dim, e.size, e.megabytes, e.path.exists()) for e in entries()]
    with suppress(BadInput):  # timm is not
        found += [SurveyEntry(e.recipe, None, e.size, None, e.here) for e in timm_entries()]
    return found


def _named(name: str, machine: Machine) -> SurveyEntry:
    here = True
    backbone: Backbone | None = None
    megabytes: float | None = None
    if name.startswith(TORCHVISION):
        from crossmedia.imgserver.vision.torchvision_zoo import entries, torchvision_backbone

        meant = [e for e in entries() if e.recipe == name or (e.default and e.recipe.startswith(f"{name}@"))]
        entry = meant[0] if meant else None
        if entry is not None and not entry.path.exists():
            here, backbone = False, torchvision_backbone(name, random_weights=True)
            megabytes = entry.megabytes
    if name.startswith(TIMM):
        from crossmedia.imgserver.vision.timm_zoo import timm_backbone, weights_to_fetch

        if weights_to_fetch(name):
            here, backbone, megabytes = False, timm_backbone(name, random_weights=True), None
    if backbone is None:
        backbone = get_backbone(name)
        megabytes = sum(path.stat().st_size for path in backbone.weights) / 1e6
    rate = _rate(backbone, machine)
    return SurveyEntry(backbone.recipe, backbone.feature_dim, backbone.preprocessing.size, megabytes, here, rate)


def _rate(backbone: Backbone, machine: Machine) -> float:
    """Images a second, the best of a few runs."""
    size = backbone.preprocessing.size
    engine = make_engine(backbone, None, machine)
    pixels = np.random.default_rng(0).integers(0, 256, (engine.batch, size, size, 3), dtype=np.uint8)
    engine.run(pixels)  # the first run of a shape sets things up
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        engine.run(pixels)
        seconds.append(time.perf_counter() - started)
    return engine.batch / min(seconds)
