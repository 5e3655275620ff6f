"""The versions in a store: list them, serve another one, delete one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.imgserver.commands.options import held_store, store_option


@click.command(cls=Command, example="--store store")
@click.option("--activate", metavar="VERSION", help="Serve this version from now on; a running server follows.")
@click.option("--delete", metavar="VERSION", help="Delete this version, or the features of this backbone.")
@store_option
@json_option
def versions(activate: str | None, delete: str | None, store: Path, as_json: bool) -> None:
    """List the versions in a store, or activate or delete one.

    A run that trains on a version goes on with it when another becomes active. Deleting frees the disk at once, or when
    a server that still has the version open ends.
    """
    from crossmedia.imgserver.storage import versions as work

    if activate and delete:
        raise BadInput("Give either --activate or --delete.")
    with held_store(store) as opened:
        if activate:
            work.activate(opened, activate)
        if delete:
            deleted = work.delete(opened, delete)
            click.echo(f"{delete} is deleted, with what was stored of {deleted:,} images.", err=True)
        held = work.held_versions(opened)
    if as_json:
        click.echo(json.dumps([asdict(version) for version in held]))
        return
    table = Table(box=None)
    for heading in ("", "version", "kind", "dim", "bytes a row", "rows"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("", "version", "kind") else "right")
    for version in held:
        mark = "active" if version.active else ""
        numbers = (f"{number:,}" for number in (version.dim, version.row_bytes, version.rows))
        table.add_row(mark, version.name, version.kind, *numbers)
    Console(width=max(Console().width, 130)).print(table)  # a version must stay in one piece to be copied
