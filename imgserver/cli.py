"""The command group of the image server. Heavy imports wait until a command runs."""

from __future__ import annotations

import click

from crossmedia.config import Group, config_option
from crossmedia.imgserver.commands.adding import add
from crossmedia.imgserver.commands.backbones import backbones
from crossmedia.imgserver.commands.catalogue import manifest, precompute
from crossmedia.imgserver.commands.concepts import concepts
from crossmedia.imgserver.commands.daemon import health, info, serve, stop
from crossmedia.imgserver.commands.operations import backup, compact, doctor, mend, restore
from crossmedia.imgserver.commands.planning import plan
from crossmedia.imgserver.commands.projector import projector
from crossmedia.imgserver.commands.publish import publish
from crossmedia.imgserver.commands.search import search
from crossmedia.imgserver.commands.shards import merge, reshard
from crossmedia.imgserver.commands.similarity import duplicates, index, semantic_ids
from crossmedia.imgserver.commands.vectors import compress, export, import_command
from crossmedia.imgserver.commands.versions import versions

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Serve": (serve, health, info, stop),
    "Photos and vectors": (precompute, add, manifest, versions, compress, import_command, export, backbones),
    "Which photos are alike": (index, search, duplicates, semantic_ids, projector),
    "What photos show": (concepts,),
    "Care of a store": (doctor, mend, backup, restore, compact),
    "Many machines": (plan, merge, reshard, publish),
}


@click.group(cls=Group, name="imgserver", sections=SECTIONS)
@config_option
def imgserver(config: str | None) -> None:
    """Run the image server, and embed catalogues of photos."""
