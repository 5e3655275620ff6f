"""``crossmedia``: one command with groups, and one that looks at all of them, each imported when it is used."""

from __future__ import annotations

import importlib
from importlib.metadata import version

import click

from crossmedia.config import Group, config_option

GROUPS = {
    "imgserver": ("crossmedia.imgserver.cli", "Run the image server, and embed catalogues of photos."),
    "features": ("crossmedia.features.cli", "Turn logs into samples that hold ids only, and look at them."),
    "trainer": (
        "crossmedia.trainer.cli",
        "Train and compare CTR models on samples, with image vectors fetched on demand.",
    ),
    "browse": (
        "crossmedia.trainer.commands.browsing",
        "Look at photos, neighbours, versions, runs and the server in a browser.",
    ),
}


class _LazyGroup(Group):
    """Lists what there is without importing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in GROUPS:
            return None
        command: click.Command = getattr(importlib.import_module(GROUPS[name][0]), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in GROUPS.items()])


@click.group(cls=_LazyGroup, name="crossmedia")
@config_option
@click.version_option(version("crossmedia"), prog_name="crossmedia")
def crossmedia(config: str | None) -> None:
    """Train click-through-rate models on pictures that stay on an image server."""
