"""Puts the page together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from features.samples import Samples
from imgserver.client import ImageClient
from imgserver.errors import BadInput, CrossMediaError
from trainer.checkpoint import load_model
from trainer.compare import COMPARISON
from trainer.figures import auc_by_item_count, learning_curves, svg
from trainer.report.photos import Strip, attention, neighbours
from trainer.tables import number


@dataclass(frozen=True)
class ReportConfig:
    """What to draw.

    Attributes:
        comparison: folder of ``trainer compare``.
        server: address of the image server, for vectors and photos.
        seed: draws the photos and impressions.
        title: heading.
        note: a sentence on the data; may be empty.
        out: the HTML file.
    """

    comparison: Path
    server: str
    seed: int
    title: str
    note: str
    out: Path


@dataclass(frozen=True)
class Section:
    """Strips of photos, or why there are none."""

    strips: list[Strip]
    absent: str = ""


def write_report(config: ReportConfig) -> Path:
    """Write the page and return its path. Photos are left out, and the page says why, when the server cannot be had.

    Raises:
        BadInput: the folder holds no comparison.
    """
    try:
        comparison = json.loads((config.comparison / COMPARISON).read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{config.comparison} holds no comparison: {error}. 'trainer compare' makes one.") from error
    samples = Samples(comparison["samples"])
    near, looked, version = _photo_sections(config, comparison, samples)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("page.html").render(
        config=config,
        comparison=comparison,
        number=number,
        samples=samples,
        held_out=samples.has_held_out,
        version=version,
        curves=svg(learning_curves(comparison["runs"])),
        buckets=svg(auc_by_item_count([comparison["runs"]])),
        near=near,
        looked=looked,
    )
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(html, encoding="utf-8")
    return config.out


def _photo_sections(config: ReportConfig, comparison: dict[str, Any], samples: Samples) -> tuple[Section, Section, str]:
    runs = [line for line in comparison["runs"] if line["model"] == "din" and line["images"]]
    if not samples.image_vocabulary_size:
        absent = Section([], "The samples have no images.")
        return absent, absent, ""
    if not runs:
        absent = Section([], "No DIN was trained with images.")
        return absent, absent, ""
    run = config.comparison / f"din-images-{runs[0]['seed']}"
    try:
        model, lineage, _ = load_model(run)
    except BadInput:  # its line came from a file of results; the weights are elsewhere
        absent = Section([], f"The weights of the run are not at {run}.")
        return absent, absent, runs[0]["vector_version"]

    def section(work: Callable[[ImageClient], list[Strip]]) -> Section:
        try:
            with ImageClient(config.server, version=lineage.vector_version, timeout_s=20) as client:
                strips = work(client)
        except CrossMediaError as error:
            return Section([], f"Not drawn: {error}")
        return Section(strips, "" if strips else "There are too few rows to draw.")

    near = section(lambda client: neighbours(samples, client, config.seed))
    looked = section(lambda client: attention(samples, client, run, model, lineage, config.seed))
    return near, looked, lineage.vector_version
