"""List the available CNNs, and what each costs here."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, json_option
from crossmedia.imgserver.commands.options import machine_of, machine_options, photo_root_option


@click.command(cls=Command, example="torchvision:resnet50")
@click.argument("names", nargs=-1)
@click.option(
    "--catalogue",
    metavar="PATH|URL",
    help="Photos on which names that end in #bf16, #tf32 or #int8 are compared with float32, and #int8 is calibrated.",
)
@photo_root_option
@machine_options
@json_option
def backbones(
    names: tuple[str, ...], catalogue: str | None, photo_roots: tuple[str, ...], as_json: bool, **machine: Any
) -> None:
    """List the CNNs that can make features, with the numbers in a feature, their size, and their speed here.

    Speed is measured for those whose weights are on this machine, and for all NAMES that are given: without weights,
    with random ones, which take as long. A name in narrow numbers has its speed beside that of float32, too, and with
    --catalogue the cosine of its features to those in float32.
    """
    from crossmedia.imgserver.offline.survey import survey
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    photos = None if catalogue is None else PhotoSource(catalogue, roots=photo_roots)
    found = survey(names, machine_of(machine), photos)
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in found]))
        return
    table = Table(box=None)
    narrow = any(entry.of_fp32 for entry in found)
    columns = ("name", "dim", "input", "MB", "weights", "images/s here")
    for name in columns + ("of float32", "cosine: mean", "least") * narrow:
        table.add_column(name, justify="left" if name in ("name", "weights") else "right")
    for entry in found:
        cells: list[Any] = [entry.recipe, entry.dim or "-", f"{entry.size} px"]
        cells.append("-" if entry.megabytes is None else f"{entry.megabytes:.0f}")
        cells += ["here" if entry.here else "to fetch", f"{entry.images_per_s:.0f}" if entry.images_per_s else "-"]
        narrowed = (entry.of_fp32, entry.cosine_mean, entry.cosine_least) if narrow else ()
        cells += [f"{value:.{2 if place == 0 else 4}f}" if value else "-" for place, value in enumerate(narrowed)]
        table.add_row(*map(str, cells))
    Console(width=max(130, Console().width)).print(table)
