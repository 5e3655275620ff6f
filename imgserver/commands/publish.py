"""Publish a store's versions to a cluster that copies of a server share."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click
from rich.console import Console

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.imgserver.commands.options import held_store, store_option
from crossmedia.imgserver.places import is_url, own_folder
from crossmedia.output import show
from crossmedia.progress import Bar
from crossmedia.words import counted


@click.command(cls=Command, example="--store store --to redis://h1:6379,h2:6379", goes_on=True)
@store_option
@click.option("--to", metavar="URL", required=True, help="The cluster: redis://host:port,host:port.")
@click.option(
    "--version",
    "versions",
    multiple=True,
    help="Version to publish, the active one when none is given; may be given several times. The name of a backbone "
    "publishes its features, which a head that learns needs.",
)
@json_option
def publish(store: Path, to: str, versions: tuple[str, ...], as_json: bool) -> None:
    """Copy vectors into a Redis-protocol cluster, from which copies of a server serve them.

    Run it again after each precompute, or when it was stopped: what the cluster has already is compared and not
    written. The store's active version becomes active there when it is published; running servers follow.
    """
    if not is_url(to):
        raise BadInput(f"--to takes the URL of a cluster, redis://host:port,host:port; got {to!r}.")
    from crossmedia.imgserver.offline.publish import images_of
    from crossmedia.imgserver.offline.publish import publish as work
    from crossmedia.imgserver.storage.cluster.store import RedisStore

    console = Console(stderr=True)
    with held_store(store) as opened:
        spaces, images = images_of(opened, versions)
        with closing(RedisStore(to, own_folder(to))) as cluster, Bar("publishing", images) as bar:
            report = work(opened, cluster, spaces, bar.advance)
    if report.evicted:
        console.print(
            "A node has evicted keys because its memory was full (evicted_keys in redis-cli info stats). Servers "
            "without a catalogue cannot tell evicted vectors from vectors that were never there."
        )
    said = f"{counted(report.images, 'image')}, {report.written:,} of them written, in {report.seconds:.1f} s"
    show(report, as_json, said, f"active version: {report.active}")
