"""Nets in narrow numbers beside float32, on pixels that are ready: images a second, and what becomes of their features.

    python -m benchmarks.embed --parts int8 --nets efficientnet_lite0 torchvision:resnet50

A net whose weights are not here has random ones, which are as fast; what becomes of its features is then not told.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parts import Part, Work, as_dict, run_rounds, show
from crossmedia.imgserver.offline.own_nets import photos_of
from crossmedia.imgserver.offline.survey import plain_net
from crossmedia.imgserver.vision.backbone import BF16, Backbone
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.engines import OpenVinoEngine, calibrated, run_all
from crossmedia.imgserver.vision.int8 import Int8Name, in_store, int8_backbone, keep
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.photo_source import PhotoSource

CALIBRATED_ON = {True: 300, False: 64}  # photos, of a net whose weights are here or not
COMPARED = 256
FORMS = ("float32", "bfloat16", "int8")


def backbone_in(form: str, net: str, file: Path | None) -> Backbone:
    """A net in numbers of a kind."""
    plain, _, _ = plain_net(net)
    if file is not None and form == "int8":
        return int8_backbone(plain, Int8Name(net, file=str(file)), None)
    return replace(plain, recipe=net + BF16, bf16=True) if form == "bfloat16" else plain


def ready(form: str, net: str, file: Path, pixels_file: Path, threads: int) -> Work:
    """The engine that ``precompute`` takes, on pixels that are there."""
    backbone = backbone_in(form, net, file)
    engine, pixels = OpenVinoEngine(backbone, None, Machine(threads=threads)), np.load(pixels_file)

    def work() -> int:
        run_all(engine, list(pixels))
        return len(pixels)

    return work


def measure(nets: list[str], photos: Path, folder: Path, rounds: int, n: int, threads: int) -> tuple[Any, Any]:
    """Ratios and parts of each net, the first of which gives its name to no ratio."""
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    source = PhotoSource(str(photos))
    for number, net in enumerate(nets):
        plain, _, here = plain_net(net)
        with Decoders(source.limits) as decoders:
            given = photos_of(source.open(), plain, decoders, CALIBRATED_ON[here])
            others = photos_of(source.open(), plain, decoders, CALIBRATED_ON[here], start=0.5)[:COMPARED]
        file = in_store(folder, keep(folder, calibrated(plain, given)))
        pixels_file = folder / f"pixels-{number}.npy"
        np.save(pixels_file, others[:n])
        parts = {form: Part(ready, form, net, file, pixels_file, threads) for form in FORMS}
        taken = run_rounds(parts, rounds)
        for part in parts.values():
            part.close()
        show(f"{net}{'' if here else ', random weights'}: {len(others[:n])} images a round", taken, "images/s")
        found[net] = {form: as_dict(one) for form, one in taken.items()} | {"random_weights": not here}
        tail = f"_{net.rpartition(':')[2]}" if number else ""
        for form, short in (("int8", "int8_f32"), ("bfloat16", "bf16_f32")):
            ratios[short + tail] = taken[form].rate / taken["float32"].rate
            if here:
                cosines = _cosines(net, form, file, others, threads)
                found[net][f"{form}_cosine"] = {"mean": float(cosines.mean()), "least": float(cosines.min())}
                print(f"{net} in {form}: cosine to float32 {cosines.mean():.4f} in the mean, {cosines.min():.4f} least")
    return ratios, found


def _cosines(net: str, form: str, file: Path, pixels: Any, threads: int) -> Any:
    one, other = (
        run_all(OpenVinoEngine(backbone_in(kind, net, file), None, Machine(threads=threads)), list(pixels))
        for kind in (form, "float32")
    )
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
