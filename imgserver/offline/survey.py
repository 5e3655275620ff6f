"""Backbones side by side: dim, size, images a second on this machine, and how close narrow numbers come to float32."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.offline.own_nets import photos_of
from crossmedia.imgserver.vision.backbone import BF16, TF32, TIMM, TORCHVISION, Backbone
from crossmedia.imgserver.vision.backbones import get_backbone, without_endings
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.efficientnet_lite import DEFAULT
from crossmedia.imgserver.vision.engines import Engine, calibrated, run_all
from crossmedia.imgserver.vision.int8 import CALIBRATED_ON, Int8Name, check_plain, int8_backbone, keep
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photo_source import PhotoSource

REPEATS = 3
COMPARED = 256  # photos, others than those that a net is calibrated on where there are enough


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
        of_fp32: its images a second, of those that the same net has in float32; None where it is that, as the next two.
        cosine_mean: of its features to those in float32, on photos of the catalogue.
        cosine_least: of them.
    """

    recipe: str
    dim: int | None
    size: int
    megabytes: float | None
    here: bool
    images_per_s: float | None = None
    of_fp32: float | None = None
    cosine_mean: float | None = None
    cosine_least: float | None = None


def survey(names: Sequence[str], machine: Machine, photos: PhotoSource | None = None) -> list[SurveyEntry]:
    """The backbones ``names``, measured; without names all of them, measured where the weights are here.

    Args:
        names: of backbones.
        machine: what is taken of this machine.
        photos: a catalogue; names in narrow numbers are compared with float32 on it, and ``#int8`` calibrated.

    Raises:
        BadInput: there is no backbone of a name, or it cannot run here.
    """
    if photos is not None:
        photos.open()  # one that is wrong is refused, whatever is measured
    if names:
        return [_named(name, machine, photos) for name in names]
    measured = (_named(row.recipe, machine, photos) if row.here else row for row in _published())
    return [_named(DEFAULT, machine, photos), *measured]


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


def _named(name: str, machine: Machine, photos: PhotoSource | None) -> SurveyEntry:
    plain, megabytes, here = plain_net(without_endings(name))
    with tempfile.TemporaryDirectory(prefix="crossmedia-backbones-") as folder:
        backbone = _in_form(name, plain, here, machine, photos, Path(folder))
        engine = make_engine(backbone, None, machine)
        rate = _rate(engine, backbone)
    recipe = name if backbone.int8 else backbone.recipe
    entry = SurveyEntry(recipe, backbone.feature_dim, backbone.preprocessing.size, megabytes, here, rate)
    if not (backbone.int8 or backbone.bf16 or backbone.tf32):
        return entry
    plain_engine = make_engine(plain, None, machine)
    entry = replace(entry, of_fp32=rate / _rate(plain_engine, plain))
    if photos is None or not here:
        return entry
    with Decoders(photos.limits, machine.decoders) as decoders:
        pixels = photos_of(photos.open(), plain, decoders, CALIBRATED_ON, start=0.5)[:COMPARED]
    if not len(pixels):
        raise BadInput(f"No photo of {photos.catalogue} can be read, so {name} cannot be compared with float32.")
    one, other = (run_all(of, [*pixels])[:, : plain.feature_dim] for of in (engine, plain_engine))
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return replace(entry, cosine_mean=float(cosines.mean()), cosine_least=float(cosines.min()))


def plain_net(name: str) -> tuple[Backbone, float | None, bool]:
    """A net in float32, the megabytes of its weights, and whether they are here: else it has random ones."""
    if name.startswith(TORCHVISION):
        from crossmedia.imgserver.vision.torchvision_zoo import entries, torchvision_backbone

        meant = [e for e in entries() if e.recipe == name or (e.default and e.recipe.startswith(f"{name}@"))]
        if meant and not meant[0].path.exists():
            return torchvision_backbone(name, random_weights=True), meant[0].megabytes, False
    if name.startswith(TIMM):
        from crossmedia.imgserver.vision.timm_zoo import timm_backbone, weights_to_fetch

        if weights_to_fetch(name):
            return timm_backbone(name, random_weights=True), None, False
    backbone = get_backbone(name)
    return backbone, sum(path.stat().st_size for path in backbone.weights) / 1e6, True


def _in_form(
    name: str, plain: Backbone, here: bool, machine: Machine, photos: PhotoSource | None, folder: Path
) -> Backbone:
    """A net in the numbers that its name says; one in 8 bits is calibrated into ``folder``."""
    named = Int8Name.parse(name)
    if named is not None and photos is not None and not named.file:
        check_plain(plain, named)
        with Decoders(photos.limits, machine.decoders) as decoders:
            pixels = photos_of(photos.open(), plain, decoders, CALIBRATED_ON)
        named = Int8Name(named.net, hash=keep(folder, calibrated(plain, pixels)))
    if named is not None:
        return int8_backbone(plain, named, folder)
    return get_backbone(name) if here else replace(plain, recipe=name, bf16=BF16 in name, tf32=TF32 in name)


def _rate(engine: Engine, backbone: Backbone) -> float:
    """Images a second, the best of a few runs."""
    size = backbone.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (engine.batch, size, size, 3), dtype=np.uint8)
    engine.run(pixels)  # the first run of a shape sets things up
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        engine.run(pixels)
        seconds.append(time.perf_counter() - started)
    return engine.batch / min(seconds)
