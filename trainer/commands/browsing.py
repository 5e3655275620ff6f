"""Look at a catalogue, its vectors, its server, runs and impressions in a browser of this machine."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import click

from crossmedia.config import Command
from crossmedia.errors import BadInput
from crossmedia.imgserver.browse.settings import BrowseConfig
from crossmedia.logs import set_up_logs
from crossmedia.options import options_of


@click.command(
    cls=Command,
    example="--server localhost:7070 --runs runs --samples samples",
    sections={
        "What is shown": ("--server", "--runs", "--samples"),
        "Where it answers, and whom": ("--host", "--port", "--tls-cert", "--tls-key", "--tokens"),
    },
)
@options_of(BrowseConfig, [field.name for field in fields(BrowseConfig)])
def browse(**values: Any) -> None:
    """Serve pages to look at: photos and their neighbours by two versions, near-duplicates, a map, versions, runs.

    They are for a browser of this machine, read only, and load nothing from any network but the image server's photos
    and vectors. Ctrl-C ends it.
    """
    config = BrowseConfig(**values)
    try:
        from crossmedia.imgserver.browse.app import MoreTabs, no_tabs
        from crossmedia.imgserver.browse.app import browse as serve
    except ImportError as error:
        raise BadInput(
            f"The pages need packages that are not installed ({error.name} is missing). "
            f'Install them with: pip install "crossmedia[ui]"'
        ) from error
    set_up_logs("text")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it answers is said below
    more: MoreTabs = no_tabs
    columns = None
    if config.runs is not None or config.samples is not None:
        from crossmedia.trainer.browsing.tabs import columns_of, tabs_of

        more, columns = tabs_of(config), columns_of(config)
    serve(config, lambda address: click.echo(f"Open {address} in a browser of this machine."), more, columns)
