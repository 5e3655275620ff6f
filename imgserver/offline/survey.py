"""Backbones side by side: dim, size, and images a second on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbone import TORCHVISION, Backbone
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
        megabytes: of its weights.
        here: whether its weights are on this machine.
        images_per_s: of the net alone, on ready pixels; None when it was not measured.
    """

    recipe: str
    dim: int | None
    size: int
    megabytes: float
    here: bool
    images_per_s: float | None = None


def survey(names: Sequence[str], machine: Machine) -> list[SurveyEntry]:
    """The backbones ``names``, measured; without names all of them, measured where the weights are here.

    Raises:
        BadInput: there is no backbone of a name.
    """
    if names:
        return [_named(name, machine) for name in names]
    found = [_named(DEFAULT, machine)]
    try:
        from crossmedia.imgserver.vision.torchvision_zoo import entries

        listed = entries()
    except BadInput:  # torchvision is not installed
        return found
    for entry in listed:
        row = SurveyEntry(entry.recipe, entry.dim, entry.size, entry.megabytes, entry.path.exists())
        found.append(replace(row, images_per_s=_rate(get_backbone(row.recipe), machine)) if row.here else row)
    return found


def _named(name: str, machine: Machine) -> SurveyEntry:
    here, backbone = True, None
    if name.startswith(TORCHVISION):
        from crossmedia.imgserver.vision.torchvision_zoo import entries, torchvision_backbone

        meant = [e for e in entries() if e.recipe == name or (e.default and e.recipe.startswith(f"{name}@"))]
        entry = meant[0] if meant else None
        if entry is not None and not entry.path.exists():
            here, backbone = False, torchvision_backbone(name, random_weights=True)
            megabytes = entry.megabytes
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
