"""Plan what a catalogue and its logs will take."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.imgserver.commands.options import devices_option, photo_root_option

if TYPE_CHECKING:
    from crossmedia.imgserver.offline.measuring import Measured

LABELS = {
    "embed_core_hours": "embedding, core hours",
    "embed_photos_s": "photos/s that a machine embeds",
    "embed_machines": "machines that embed",
    "feature_tb": "features on disk, TB",
    "vector_gb": "vectors on disk, GB",
    "server_memory_gb": "memory for vectors, GB",
    "servers": "image servers",
    "samples_tb": "samples on disk, TB",
    "train_core_hours": "training, core hours",
    "workers": "machines that train",
    "network_mb_s": "between servers and trainers, MB/s",
    "step_mb": "a step of one trainer, MB",
}


OF_MEASURE = {
    "catalogue": "--catalogue",
    "photo_roots": "--photo-root",
    "backbone": "--backbone",
    "devices": "--devices",
}


def number(text: str) -> int:
    """A count such as 1000000, 1e8 or 1_000.

    Raises:
        BadInput: it is none.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise BadInput(f"{text!r} must be a count, such as 1000000 or 1e8.") from error
    if not 1 <= value <= 1e15:
        raise BadInput(f"{text!r} must be between 1 and 1e15.")
    return round(value)


@click.command(
    cls=Command,
    example="--images 1e8 --rows 1e9",
    sections={
        "What is planned for": (
            *("--images", "--rows", "--dim", "--feature-dim", "--epochs", "--embed-hours", "--train-hours"),
            *("--cores", "--memory-gb", "--head"),
        ),
        "What a photo costs": ("--measure", "--catalogue", "--photo-root", "--backbone", "--devices"),
    },
)
@click.option("--images", metavar="COUNT", help="Images in the catalogue, such as 1e8.")
@click.option("--rows", metavar="COUNT", help="Rows of samples, such as 1e9.")
@click.option("--dim", type=click.IntRange(min=1), default=64, help="Numbers in a vector.")
@click.option(
    "--feature-dim", type=click.IntRange(min=1), default=1280, help="Numbers in a feature; of --measure, the CNN's."
)
@click.option("--epochs", type=click.IntRange(min=1), default=1, help="Passes over the rows.")
@click.option("--embed-hours", type=click.FloatRange(min=0.01), default=24.0, help="For the whole catalogue.")
@click.option("--train-hours", type=click.FloatRange(min=0.01), default=24.0, help="For the training.")
@click.option("--cores", type=click.IntRange(min=1), default=32, help="Of each machine.")
@click.option("--memory-gb", type=click.FloatRange(min=1), default=128.0, help="Of each machine.")
@click.option(
    "--head", default="", metavar="WIDTHS", help="Layers of a head that learns, such as 256,64,12; empty without one."
)
@click.option("--measure", is_flag=True, help="Measure here what a photo costs to embed, and plan with that.")
@click.option(
    "--catalogue",
    metavar="PATH|URL",
    help="For --measure: where photos are, of which some are taken; without it photos of several sizes are made.",
)
@photo_root_option
@click.option("--backbone", default="efficientnet_lite0", help="For --measure: the CNN, as precompute takes it.")
@devices_option
@json_option
def plan(
    images: str | None,
    rows: str | None,
    head: str,
    measure: bool,
    catalogue: str | None,
    photo_roots: tuple[str, ...],
    backbone: str,
    devices: tuple[str, ...],
    as_json: bool,
    **machines: Any,
) -> None:
    """Say what a catalogue and its logs will take: machines, disk, memory, network; and where the design changes.

    It computes with what docs/performance.md measured on one machine; docs/capacity.md says what that leaves out. With
    --measure, what a photo costs to embed is measured on this machine, in a minute or two; --images and --rows may then
    be left out.
    """
    from crossmedia.imgserver.operations.planning import COST, Sizes, make_plan

    source = click.get_current_context().get_parameter_source
    sizes = None
    if images is not None and rows is not None:
        widths = tuple(number(part) for part in head.split(",") if part.strip())
        sizes = Sizes(number(images), number(rows), head=widths, **machines)
    elif not measure or images is not None or rows is not None:
        raise BadInput("A plan is for --images COUNT and --rows COUNT: give both. Only --measure runs without them.")
    if not measure and (
        given := [flag for name, flag in OF_MEASURE.items() if source(name) is ParameterSource.COMMANDLINE]
    ):
        raise BadInput(f"{given[0]} is for what is measured. Give --measure as well, or leave it out.")
    measured = measured_here(backbone, catalogue, photo_roots, devices) if measure else None
    if sizes and measured and source("feature_dim") is ParameterSource.DEFAULT:
        sizes = replace(sizes, feature_dim=measured.feature_dim)
    found = asdict(make_plan(sizes, measured.cost if measured else COST)) if sizes else {}
    if as_json:
        said = {"measured": asdict(measured)} if measured else {}
        click.echo(json.dumps(said | ({"sizes": asdict(sizes)} if sizes else {}) | found))
        return
    if measured:
        show_measured(measured)
    if sizes:
        show(found)


def measured_here(
    backbone: str, catalogue: str | None, photo_roots: tuple[str, ...], devices: tuple[str, ...]
) -> Measured:
    """What a photo costs on this machine; says so where other work is on it."""
    from crossmedia.imgserver.offline.measuring import measure
    from crossmedia.imgserver.vision.machine import Machine
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    machine = Machine(devices=devices)
    _ = machine.gpus  # before anything is read
    measured = measure(backbone, None if catalogue is None else PhotoSource(catalogue, roots=photo_roots), machine)
    if measured.loaded:
        click.echo(
            f"This machine was loaded: a load average of {measured.load:.1f} on {measured.cores} cores. Seconds of a "
            f"core are more then than on a quiet machine, and a GPU's rate is less; measure again when it is quiet.",
            err=True,
        )
    return measured


def show_measured(measured: Measured) -> None:
    """Print what was measured, and what the cores of this machine make of it."""
    table = Table(box=None)
    for name in ("photos", "how many", "KB each", "decoded/s a core"):
        table.add_column(name, justify="left" if name == "photos" else "right")
    for rate in measured.decode:
        cells = (f"{rate.count}", f"{rate.kilobytes:,.0f}", f"{rate.photos_per_core_s:,.0f}")
        table.add_row(rate.photos, *cells)
    Console(width=130).print(table)
    if measured.broken:
        click.echo(f"{measured.broken} more photos cannot be decoded, and are not counted.")
    if measured.gpu_images_per_s:
        cnn = f"{measured.gpu_images_per_s:,.0f} images/s on {measured.device}"
    else:
        cnn = f"{measured.cnn_images_per_core_s:,.1f} images/s a core on {measured.device}"
    cost, cores = measured.cost, measured.cores
    click.echo(f"{measured.backbone}: {cnn}")
    click.echo(f"the process between them: {measured.own_cpu_us:,.0f} CPU µs a photo")
    click.echo(
        f"a plan takes {1e3 * cost.decode_s:.2f} ms of a core to decode, {1e3 * cost.cnn_s:.2f} for the CNN and "
        f"{1e3 * cost.own_s:.2f} between: {cost.photos_per_s(cores):,.0f} photos/s on the {cores} cores here"
    )


def show(found: dict[str, Any]) -> None:
    """Print a plan, and its notes below it."""
    table = Table(show_header=False, box=None)
    for name, label in LABELS.items():
        table.add_row(label, shown(found[name]))
    Console(width=130).print(table)
    for note in found["notes"]:
        click.echo(f"- {note}")


def shown(value: float) -> str:
    """A number with two or three significant digits."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:,.2g}"
