"""Vectors in and out of the store as files."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from imgserver.commands.options import missing_extra, store_option
from imgserver.config import Command, json_option


@click.command(name="import", cls=Command)
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Name of the net that made the vectors; it becomes part of the version.")
@store_option
@json_option
def import_command(file: Path, name: str, store: Path, as_json: bool) -> None:
    """Serve vectors that exist already: a Parquet FILE, or a folder of them, with the columns image_id and vector.

    Vectors are lists of floats of one length; they are stored as float16. The same file again changes nothing.
    """
    try:
        from imgserver.offline.exchange import import_vectors
        from imgserver.storage.store import Store
    except ImportError as error:
        raise missing_extra(error) from error

    with closing(Store(store)) as opened:
        report = import_vectors(opened, file, name)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    click.echo(f"{report.images} vectors of {report.dim} numbers, {report.added} new, in {report.seconds:.1f} s")
    click.echo(f"active version: {report.version}")


@click.command(cls=Command)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="vectors.parquet",
    help="File to write: .parquet, or .npy for a plain matrix with its ids in a second file.",
)
@click.option("--version", default="", help="Version to export; the active one when it is not given.")
@store_option
@json_option
def export(out: Path, version: str, store: Path, as_json: bool) -> None:
    """Write the vectors of a version to a file, sorted by image id, for use without this project."""
    try:
        from imgserver.offline.exchange import export_vectors
        from imgserver.storage.store import Store
    except ImportError as error:
        raise missing_extra(error) from error

    with closing(Store(store, create=False)) as opened:
        report = export_vectors(opened, out, version)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    click.echo(f"{report.images} vectors of {report.dim} numbers in {', '.join(report.files)} ({report.seconds:.1f} s)")
    click.echo(f"version: {report.version}")
