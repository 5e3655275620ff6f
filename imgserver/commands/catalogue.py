"""Bring photos into the store: a whole catalogue, its manifest, or single new photos."""

from __future__ import annotations

import os
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click
from rich.console import Console

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput, NothingEmbedded
from crossmedia.imgserver.commands.options import (
    held_store,
    how_to_serve,
    names_of,
    ownership_options,
    photo_options,
    served_store_option,
    server_address,
    server_option,
    store_option,
    threads_option,
)
from crossmedia.imgserver.commands.shards import embed_files, merge_files
from crossmedia.imgserver.shards import ownership_of
from crossmedia.output import show
from crossmedia.progress import Bar
from crossmedia.words import counted

if TYPE_CHECKING:
    from crossmedia.imgserver.offline.precompute import PrecomputeConfig, PrecomputeResult, StoreEmbedder
    from crossmedia.names import ImageNames

BEHIND_REQUESTS = 10  # niceness of offline work beside a server


@click.command(
    cls=Command,
    example="--store store --catalogue photos",
    goes_on=True,
    sections={
        "Photos": ("--catalogue", "--ids", "--photo-root", "--max-image-mb", "--read-timeout-s"),
        "Vectors": ("--store", "--backbone", "--dim", "--new-head", "--head", "--threads"),
        "Many machines": ("--part", "--engine", "--ray-address", "--out", "--servers", "--me"),
    },
)
@store_option
@click.option(
    "--catalogue",
    metavar="PATH|URL",
    help="Where photos are: a folder or URL with photos named <image id>.jpg, tars or Parquet files below it, or a "
    "manifest.",
)
@click.option(
    "--backbone",
    default="efficientnet_lite0",
    help="CNN that makes the features: efficientnet_lite0, torchvision:<model>, onnx:<file>; #bf16 behind the "
    "name computes in bfloat16, which is faster and makes another version.",
)
@click.option(
    "--dim",
    type=click.IntRange(min=1),
    help="Numbers in a vector, 64 for a new store; when it is not given the head of the active version is kept.",
)
@click.option(
    "--ids",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Embed only the images in this text file, one a line: ids, or keys of the manifest.",
)
@click.option(
    "--new-head",
    is_flag=True,
    help="Fit the PCA anew on the photos that are there now, which makes another version; otherwise the head of the "
    "active version is kept.",
)
@click.option(
    "--head",
    "head_file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Make the vectors of this head, such as head.safetensors of a run that learned one, from the features of the "
    "active version: no catalogue and no CNN. 'imgserver versions --activate' then serves them.",
)
@click.option(
    "--part",
    metavar="I/N",
    help="Embed only part I of N, into Parquet files below --out and no store: one process a part, under any "
    "scheduler, on machines that share a folder. 'imgserver merge' then takes the files into a store.",
)
@click.option(
    "--engine",
    type=click.Choice(["process", "ray"]),
    default="process",
    help="What runs the CNN: this process, or actors of a Ray cluster, which write files below --out that are then "
    "merged into the store.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="The Ray cluster, such as auto or ray://host:10001; without it RAY_ADDRESS counts, else Ray is started here.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="embedded",
    help="Folder for the files of --part and --engine ray; all machines use the same one.",
)
@ownership_options
@threads_option
@photo_options
@json_option
def precompute(
    store: Path,
    catalogue: str | None,
    backbone: str,
    dim: int | None,
    ids: Path | None,
    new_head: bool,
    head_file: Path | None,
    part: str | None,
    engine: str,
    ray_address: str | None,
    out: Path,
    servers: tuple[str, ...] | None,
    me: str,
    threads: int,
    read_timeout_s: float,
    max_image_mb: int,
    photo_roots: tuple[str, ...],
    as_json: bool,
) -> None:
    """Embed a catalogue of photos, and activate the vectors. Run it again after a kill, or when photos were added.

    With --head: vectors of a learned head from the features that are stored, as a version beside the active one. With
    --part or --engine ray: by many processes or machines, into files; with --head as well, vectors beside features.

    With --servers and --me a store gets the images that its server owns.
    """
    began = time.monotonic()
    ownership = ownership_of(servers, me)
    into_files = part is not None or engine == "ray"
    if head_file is not None and catalogue is None and not into_files:
        _apply_head(store, head_file, as_json)
        return
    if catalogue is None:
        raise BadInput("Give --catalogue, where the photos are, or --head alone for a head over stored features.")
    if part is not None and ownership is not None:
        raise BadInput("--part makes files for all servers: leave out --servers and --me, and give them to 'merge'.")
    if head_file is not None and not into_files:
        raise BadInput("--head takes stored features, so leave out --catalogue; with --part both are needed.")
    from crossmedia.imgserver.offline.image_ids import read_ids
    from crossmedia.imgserver.offline.precompute import PrecomputeConfig, StoreEmbedder
    from crossmedia.imgserver.offline.shards import Job
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    photos = PhotoSource.of_options(catalogue, max_image_mb, read_timeout_s, photo_roots)
    only = read_ids(ids, photos.names()) if ids else None
    if into_files:
        job, ray = Job(out, photos, backbone, only), engine == "ray"
        found = embed_files(
            *(job, part or "1/1"), threads=threads, on_ray=ray, ray_address=ray_address, head_file=head_file
        )
        if part is None:
            found["merged"] = merge_files(out, store, dim, ownership=ownership, new_head=new_head)
            said = f"active version: {found['merged']['version']}"
        else:
            said = f"When all parts are there: crossmedia imgserver merge {out} --store STORE"
        show(found, as_json, said)
        return
    config = PrecomputeConfig(dim, only, new_head=new_head, ownership=ownership)
    _go_behind_requests(store)
    with StoreEmbedder(store, photos, backbone, threads) as embedder:
        result = _into_store(embedder, config, began)
    _report_precompute(result, time.monotonic() - began, as_json)


def _go_behind_requests(store: Path) -> None:
    """Give way to a server that answers callers from this machine."""
    from crossmedia.service.running import running_daemon

    if running_daemon(store):
        os.nice(BEHIND_REQUESTS)


def _into_store(embedder: StoreEmbedder, config: PrecomputeConfig, began: float) -> PrecomputeResult:
    """Embed what is left of a catalogue, and show how far it is; ``began``: the command did, on the monotonic clock."""
    console = Console(stderr=True)
    _say(embedder.catalogue.passed_over)
    plan = embedder.plan(config)
    _ = embedder.engine
    todo = len(plan.to_embed)
    console.print(f"{plan.found} photos, {plan.skipped} of them embedded already, {todo} to embed.")
    if todo:
        rate, megabytes = embedder.images_per_s(plan), plan.disk_bytes(embedder.backbone.feature_dim) / 1e6
        start_s = time.monotonic() - began
        console.print(
            f"Estimate: {start_s + todo / rate:.0f} s in all: {start_s:.0f} s to start, which are over, and "
            f"{todo / rate:.0f} s at {rate:.0f} images/s; {megabytes:.1f} MB on disk.",
            soft_wrap=True,
        )
    with Bar("embedding", todo, shown=bool(todo)) as bar:
        return embedder.run(plan, bar.advance)


def _say(passed_over: tuple[str, ...]) -> None:
    for sentence in passed_over:
        click.echo(sentence, err=True)


def _apply_head(store: Path, file: Path, as_json: bool) -> None:
    from crossmedia.imgserver.head import Head
    from crossmedia.imgserver.offline.head_vectors import apply_head

    started = time.monotonic()
    with held_store(store) as opened:
        version, images = apply_head(opened, Head.from_bytes(file.read_bytes()))
    seconds = time.monotonic() - started
    found = {"version": version, "images": images, "seconds": seconds}
    made = f"{counted(images, 'image')} in {seconds:.1f} s, from stored features"
    show(found, as_json, made, f"version: {version}", how_to_serve(store, version))


def _report_precompute(result: PrecomputeResult, seconds: float, as_json: bool) -> None:
    result.start_s, result.seconds = result.start_s + seconds - result.seconds, seconds
    show(
        result,
        as_json,
        f"found {result.found}, embedded {result.embedded}, skipped {result.skipped}, rejected {result.rejected} "
        f"in {result.seconds:.1f} s, {result.start_s:.1f} s of them before the first photo (packages, list, CNN)",
        f"rejected photos and reasons: {result.rejects_file}" if result.rejects_file else "",
        result.note,
        f"active version: {result.version}",
    )
    if not result.embedded and not result.skipped:
        raise NothingEmbedded(f"Not one photo was embedded; the reasons are in {result.rejects_file}.")


@click.command(cls=Command, example="photos --out manifest.parquet")
@click.argument("catalogue", metavar="PATH|URL")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="manifest.parquet",
    help="The manifest to write; ids that are in it already are kept.",
)
@json_option
def manifest(catalogue: str, out: Path, as_json: bool) -> None:
    """List a catalogue once and give every image an id that lasts.

    Needed when photos have names instead of numbers, and useful when listing takes long: then use the manifest as the
    catalogue. Names stay the ids when all are whole numbers. Run it again when photos were added.
    """
    from crossmedia.imgserver.storage.catalogue.manifest import write_manifest

    report = write_manifest(catalogue, out)
    _say((*report.passed_over, *report.alike))
    gone = f", {report.gone} no longer in the catalogue" if report.gone else ""
    outside = (
        f"its photos lie outside its own folder; precompute and serve read them if you allow it: --catalogue "
        f"{quote(report.out)} --photo-root {quote(report.photo_root)}"
    )
    made = f"{counted(report.images, 'image')} in {report.out}: {report.added:,} new{gone}"
    show(report, as_json, made, outside if report.photo_root else "")


@click.command(cls=Command, example="4711.jpg --store store", goes_on=True)
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--id", "image_id", type=click.IntRange(min=0), help="Image id of the one photo that is given.")
@server_option
@served_store_option
@click.option("--timeout-s", type=float, default=60.0, help="Seconds for all of it, retries included.")
@json_option
def add(
    photos: tuple[Path, ...], image_id: int | None, server: str | None, store: str, timeout_s: float, as_json: bool
) -> None:
    """Have a running server embed new PHOTOS at once, or take new photos in place of old ones.

    Files are named <image id>.jpg, or by a key of the manifest that the store was filled from, or --id names the image.
    The server keeps the vector, not the photo: bring it to the catalogue too.
    """
    from crossmedia.imgserver.client import ImageClient, Status

    names = names_of(store) if server is None else None
    brought: dict[int, bytes] = {}
    for path in photos:
        number = _image_id(path, names) if image_id is None else image_id
        if number in brought:
            raise BadInput(f"Image id {number} is given twice; the second photo is {path}.")
        brought[number] = path.read_bytes()
    with ImageClient(server_address(server, store), timeout_s=timeout_s) as client:
        result = client.put(brought)
    refused = {number: status.name for number, status in result.items() if status != Status.OK}
    added, reasons = len(result) - len(refused), [f"image {i}: {n}{_why(brought[i])}" for i, n in refused.items()]
    show({"added": added, "refused": refused}, as_json, f"added {added}, refused {len(refused)}", *reasons)
    if refused:
        raise NothingEmbedded(f"{len(refused)} of {len(result)} photos were refused; each has its reason above.")


def _image_id(path: Path, names: ImageNames | None) -> int:
    """The image that a file is named after: a key of the manifest, else a whole number, in digits as in a catalogue."""
    from crossmedia.keys import as_image_id

    if names is not None and (found := int(names.named([path.name])[0])) >= 0:
        return found

    if path.stem.isdecimal() and (number := as_image_id(path.stem)) is not None:
        return number
    other = ", nor by a key of the store's manifest" if names is not None else ", a whole number from 0 to 2^63 - 1"
    meant = names.meant(path.name) if names is not None else ""
    raise BadInput(
        f"The photo {path} is not named after an image id{other}.{meant} Rename it, or give its id with --id."
    )


def _why(data: bytes) -> str:
    """What the bytes of a refused photo look like, if they do not begin like a photo."""
    from crossmedia.imgserver.vision.formats import CorruptImage, format_of

    try:
        format_of(data)
    except CorruptImage as error:
        return f": {error}"
    return ""
