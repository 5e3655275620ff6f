"""Plan what a catalogue and its logs will take."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput

LABELS = {
    "embed_core_hours": "CNN, core hours",
    "embed_machines": "machines for the CNN",
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


@click.command(cls=Command, example="--images 1e8 --rows 1e9")
@click.option("--images", required=True, metavar="COUNT", help="Images in the catalogue, such as 1e8.")
@click.option("--rows", required=True, metavar="COUNT", help="Rows of samples, such as 1e9.")
@click.option("--dim", type=click.IntRange(min=1), default=64, help="Numbers in a vector.")
@click.option("--feature-dim", type=click.IntRange(min=1), default=1280, help="Numbers in a feature of the backbone.")
@click.option("--epochs", type=click.IntRange(min=1), default=1, help="Passes over the rows.")
@click.option("--embed-hours", type=click.FloatRange(min=0.01), default=24.0, help="For the whole catalogue.")
@click.option("--train-hours", type=click.FloatRange(min=0.01), default=24.0, help="For the training.")
@click.option("--cores", type=click.IntRange(min=1), default=32, help="Of each machine.")
@click.option("--memory-gb", type=click.FloatRange(min=1), default=128.0, help="Of each machine.")
@click.option(
    "--head", default="", metavar="WIDTHS", help="Layers of a head that learns, such as 256,64,12; empty without one."
)
@json_option
def plan(
    images: str,
    rows: str,
    dim: int,
    feature_dim: int,
    epochs: int,
    embed_hours: float,
    train_hours: float,
    cores: int,
    memory_gb: float,
    head: str,
    as_json: bool,
) -> None:
    """Say what a catalogue and its logs will take: machines, disk, memory, network; and where the design changes.

    It multiplies what docs/performance.md measured on one machine; docs/capacity.md says what that leaves out.
    """
    from crossmedia.imgserver.operations.planning import Sizes, make_plan

    widths = tuple(number(part) for part in head.split(",") if part.strip())
    sizes = Sizes(
        *(number(images), number(rows), dim, feature_dim, epochs, embed_hours, train_hours, cores, memory_gb), widths
    )
    found = asdict(make_plan(sizes))
    if as_json:
        click.echo(json.dumps({"sizes": asdict(sizes), **found}))
        return
    table = Table(show_header=False, box=None)
    for name, label in LABELS.items():
        table.add_row(label, shown(found[name]))
    Console(width=130).print(table)
    for note in found["notes"]:
        click.echo(f"- {note}")


def shown(value: float) -> str:
    """A number with two or three significant digits."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:,.2g}"
