"""A catalogue embedded into files by many processes or machines, and the files taken into a store."""

from __future__ import annotations

import json
import sys
from contextlib import closing, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from imgserver.commands.options import embedding_progress, missing_extra, store_option
from imgserver.config import Command, json_option
from imgserver.errors import BadInput

if TYPE_CHECKING:
    from imgserver.offline.shards import Job, ShardResult

SHOWN_REJECTS = 10


def embed_files(
    job: Job, shard_text: str, *, threads: int, on_ray: bool, ray_address: str | None, head_file: Path | None
) -> dict[str, Any]:
    """Embed a shard into files, here or on Ray, and vectors of a head if there is one; say and return what was done."""
    from imgserver.head import Head
    from imgserver.offline import shards

    shard = shards.Shard.parse(shard_text)
    head = Head.from_bytes(head_file.read_bytes()) if head_file else None
    catalogue = shards.Catalogue(job)
    ids = catalogue.of_shard(shard)
    console = Console(stderr=True)
    with embedding_progress(console) as progress:
        task = progress.add_task("embedding", total=len(ids))
        if on_ray:
            result = _embed_on_ray(
                catalogue, ids, shard, ray_address, lambda done: progress.advance(task, done)
            )  # fmt: skip
        else:
            result = shards.embed_shard(catalogue, ids, shard, threads, lambda done: progress.advance(task, done))
    console.print(
        f"shard {shard}: found {result.found}, embedded {result.embedded}, skipped {result.skipped}, "
        f"rejected {len(result.rejected)} in {result.seconds:.1f} s"
    )
    for image_id, reason in list(result.rejected.items())[:SHOWN_REJECTS]:
        console.print(f"image {image_id}: {reason}")
    found = {**result.as_dict(), "folder": str(job.folder)}
    if head is not None:
        version, made = shards.apply_head_to_files(job.folder, head, catalogue.backbone.version, shard)
        console.print(f"{made} vectors of {version}")
        found |= {"version": version, "vectors": made}
    return found


def _embed_on_ray(*arguments: Any) -> ShardResult:
    try:
        from imgserver.offline.on_ray import embed_on_ray

        with redirect_stdout(sys.stderr):  # Ray prints what befalls its workers; stdout is for the result
            return embed_on_ray(*arguments)
    except ImportError as error:
        raise BadInput(
            f'--engine ray needs Ray ({error.name} is missing). Install it with: pip install "crossmedia[ray]"'
        ) from error
    except ConnectionError as error:
        raise BadInput(f"There is no Ray cluster: {error}") from error


def merge_files(folder: Path, store: Path, dim: int | None, *, new_head: bool = False) -> dict[str, Any]:
    """Take files into a store and make vectors; say what was done, and return it."""
    from imgserver.offline.merge import merge as work
    from imgserver.storage.store import Store

    with closing(Store(store)) as opened:
        report = work(opened, folder, dim, new_head=new_head)
    console = Console(stderr=True)
    console.print(
        f"{report.images} images in files, {report.added} new, {report.rejected} rejected, in {report.seconds:.1f} s"
    )
    if report.rejects_file:
        console.print(f"rejected ids: {report.rejects_file}")
    return asdict(report)


@click.command(cls=Command)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@store_option
@click.option(
    "--dim",
    type=click.IntRange(min=1),
    help="Numbers in a vector, 64 for a new store; when it is not given the head of the active version is kept.",
)
@json_option
def merge(folder: Path, store: Path, dim: int | None, as_json: bool) -> None:
    """Take what shards embedded into a store, make the vectors, and activate them.

    FOLDER is the --out of 'imgserver precompute --shard'. Run it again when more shards are there.
    """
    try:
        found = merge_files(folder, store, dim)
    except ImportError as error:
        raise missing_extra(error) from error
    click.echo(json.dumps(found) if as_json else f"active version: {found['version']}")
