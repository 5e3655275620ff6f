"""The command group of the image server. Heavy imports wait until a command runs."""

from __future__ import annotations

import click

from imgserver.commands.backbones import backbones
from imgserver.commands.catalogue import add, manifest, precompute
from imgserver.commands.daemon import health, info, serve, stop
from imgserver.commands.operations import backup, compact, doctor, mend, restore, upgrade
from imgserver.commands.planning import plan
from imgserver.commands.publish import publish
from imgserver.commands.shards import merge, reshard
from imgserver.commands.similarity import duplicates, index, search, semantic_ids
from imgserver.commands.vectors import compress, export, import_command
from imgserver.commands.versions import versions
from imgserver.config import Group, config_option


@click.group(cls=Group, name="imgserver")
@config_option
def imgserver(config: str | None) -> None:
    """Run the image server, and embed catalogues of photos."""


COMMANDS = (
    *(serve, info, health, stop),
    *(precompute, merge, reshard, manifest, add, import_command, export, publish, compress, versions, backbones),
    *(index, search, duplicates, semantic_ids),
    *(doctor, mend, backup, restore, compact, upgrade),
    plan,
)
for command in COMMANDS:
    imgserver.add_command(command)
