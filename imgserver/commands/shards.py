"""Shards as files: embed a catalogue into them on many machines, merge them into stores, move them between stores."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.imgserver.commands.options import held_store, ownership_options, store_option
from crossmedia.imgserver.shards import ownership_of
from crossmedia.output import show
from crossmedia.progress import Bar
from crossmedia.words import counted

if TYPE_CHECKING:
    from crossmedia.imgserver.offline.shards import Job, PartResult
    from crossmedia.imgserver.shards import Ownership
    from crossmedia.imgserver.vision.machine import Machine

SHOWN_REJECTS = 10


def embed_files(
    job: Job, part_text: str, *, machine: Machine, on_ray: bool, ray_address: str | None, head_file: Path | None
) -> dict[str, Any]:
    """Embed a part into files, here or on Ray, and vectors of a head if there is one; say and return what was done."""
    from crossmedia.imgserver.head import Head
    from crossmedia.imgserver.offline import shards

    part = shards.JobPart.parse(part_text)
    head = Head.from_bytes(head_file.read_bytes()) if head_file else None
    opened = shards.OpenJob(job)
    ids = opened.of_part(part)
    if (names := opened.photos.names()) is not None:
        names.keep(job.folder)
    console = Console(stderr=True)
    for sentence in opened.photos.passed_over:
        console.print(sentence, markup=False, soft_wrap=True)
    with Bar("embedding", len(ids), shown=bool(len(ids))) as bar:
        if on_ray:
            result = _embed_on_ray(opened, ids, part, ray_address, bar.advance)
        else:
            result = shards.embed_part(opened, ids, part, machine, bar.advance)
    console.print(
        f"part {part}: found {result.found}, embedded {result.embedded}, skipped {result.skipped}, "
        f"rejected {len(result.rejected)} in {result.seconds:.1f} s"
    )
    for image_id, reason in list(result.rejected.items())[:SHOWN_REJECTS]:
        console.print(f"image {image_id}: {reason}", markup=False)  # a reason may quote a file
    found = {**asdict(result), "folder": str(job.folder)}
    if head is not None:
        version, made = shards.apply_head_to_files(job.folder, head, opened.backbone.version, part)
        console.print(f"{made} vectors of {version}")
        found |= {"version": version, "vectors": made}
    return found


def _embed_on_ray(*arguments: Any) -> PartResult:
    try:
        from crossmedia.imgserver.offline.on_ray import embed_on_ray

        with redirect_stdout(sys.stderr):  # Ray prints what befalls its workers; stdout is for the result
            return embed_on_ray(*arguments)
    except ImportError as error:
        raise BadInput(
            f'--engine ray needs Ray ({error.name} is missing). Install it with: pip install "crossmedia[ray]"'
        ) from error
    except ConnectionError as error:
        raise BadInput(f"There is no Ray cluster: {error}") from error


def merge_files(
    folder: Path, store: Path, dim: int | None, *, ownership: Ownership | None = None, new_head: bool = False
) -> dict[str, Any]:
    """Take files into a store and make vectors; say what was done, and return it."""
    from crossmedia.imgserver.offline.merge import merge as work

    with held_store(store, create=True) as opened:
        report = work(opened, folder, dim, ownership=ownership, new_head=new_head)
    console = Console(stderr=True)
    console.print(
        f"{counted(report.images, 'image')} in files, {report.added:,} new, {report.rejected:,} rejected, "
        f"in {report.seconds:.1f} s"
    )
    if report.rejects_file:
        console.print(f"rejected photos: {report.rejects_file}", markup=False)
    if report.note:
        console.print(report.note)
    return asdict(report)


@click.command(cls=Command, example="embedded --store store", goes_on=True)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@store_option
@click.option(
    "--dim",
    type=click.IntRange(min=1),
    help="Numbers in a vector, 64 for a new store; when it is not given the head of the active version is kept.",
)
@ownership_options
@json_option
def merge(folder: Path, store: Path, dim: int | None, servers: tuple[str, ...] | None, me: str, as_json: bool) -> None:
    """Take what shards embedded into a store, make the vectors, and activate them.

    FOLDER is the --out of 'imgserver precompute --part', or of 'imgserver reshard'. Run it again when more shards are
    there. With --servers and --me only what this server owns is taken.
    """
    ownership = ownership_of(servers, me)
    found = merge_files(folder, store, dim, ownership=ownership)
    show(found, as_json, f"active version: {found['version']}")


@click.command(cls=Command, example="--store store --servers a:7070,b:7070 --me a:7070", goes_on=True)
@store_option
@ownership_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="moved",
    help="Folder of the files, the same for all servers of the list.",
)
@click.option(
    "--drop",
    is_flag=True,
    help="Take out of the store what other servers own, once the folder says that their stores hold it.",
)
@json_option
def reshard(store: Path, servers: tuple[str, ...] | None, me: str, out: Path, drop: bool, as_json: bool) -> None:
    """Move the images that other servers own, after the list of servers has changed.

    --servers is the list from now on; a server that leaves gives its former name as --me. Without --drop their rows are
    written into files, and the store stays as it is. The new owners take them with 'imgserver merge'. With --drop they
    are then taken out of this store; the server that runs on it must know the new list by then. Each step can be
    repeated at any time.
    """
    ownership = ownership_of(servers, me, leaving=True)
    if ownership is None:
        raise BadInput("Give --servers, the list from now on, and --me, which of them this store belongs to.")
    from crossmedia.imgserver.offline.moving import drop_moved, write_moved

    if drop:
        _refuse_if_served(store, ownership)
    with held_store(store) as opened:
        report = drop_moved(opened, out, ownership) if drop else write_moved(opened, out, ownership)
    shards = ", ".join(f"{count} to {server}" for server, count in report.to.items()) or "none"
    lines = [f"virtual shards for others: {shards} ({counted(report.images, 'image')})"]
    lines.append(f"{counted(report.rows, 'row')} {'dropped' if drop else 'written'} in {report.seconds:.1f} s")
    if drop:
        lines.append("An index for similarity still names what was dropped: build it again with 'imgserver index'.")
    else:
        merge = f"crossmedia imgserver merge {out} --servers {','.join(servers or ())}"
        lines += [f"at {server}: {merge} --me {server}" for server in report.to]
    show(report, as_json, *lines)


def _refuse_if_served(store: Path, ownership: Ownership) -> None:
    """Refuse to drop images for which a running server would then answer NOT_FOUND."""
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.service.running import running_daemon

    daemon = running_daemon(store)
    if daemon is None:
        return
    with ImageClient(daemon.address, timeout_s=5.0) as client:
        knows = client.info().ownership.servers
    if list(knows) != ownership.servers:
        raise BadInput(
            f"The server of this store (process {daemon.pid}) was started with --servers "
            f"{','.join(knows) or '(none)'}. Start it again with --servers {','.join(ownership.servers)}, or stop it, "
            f"before its images are dropped."
        )
