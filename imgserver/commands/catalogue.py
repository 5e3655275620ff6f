"""Bring photos into the store: a whole catalogue, its manifest, or single new photos."""

from __future__ import annotations

import os
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from crossmedia.allocator import keep_freed_memory
from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput, NothingEmbedded
from crossmedia.imgserver.commands.options import (
    held_store,
    how_to_serve,
    machine_of,
    machine_options,
    manifest_option,
    ownership_options,
    photo_options,
    store_option,
    text_options,
    text_source,
)
from crossmedia.imgserver.commands.shards import embed_files, merge_files
from crossmedia.imgserver.shards import ownership_of
from crossmedia.output import show
from crossmedia.progress import Bar
from crossmedia.version import Version
from crossmedia.words import counted

if TYPE_CHECKING:
    from crossmedia.imgserver.offline.plan import PrecomputeConfig
    from crossmedia.imgserver.offline.precompute import PrecomputeResult, StoreEmbedder

BEHIND_REQUESTS = 10  # niceness of offline work beside a server


@click.command(
    cls=Command,
    example="--store store --catalogue photos",
    goes_on=True,
    sections={
        "Texts": ("--texts", "--text", "--key", "--manifest", "--encoder"),
        "Photos": ("--catalogue", "--ids", "--photo-root", "--max-image-mb", "--read-timeout-s"),
        "Vectors": ("--store", "--backbone", "--dim", "--new-head", "--head"),
        "This machine": ("--threads", "--decode-threads", "--batch-size", "--devices", "--compile"),
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
    help="CNN that makes the features: efficientnet_lite0, torchvision:<model>, timm:<model>, onnx:<file>, "
    "hf:<folder>; #bf16 behind the name computes in bfloat16, #int8 in 8 bits, which are faster and make other "
    "versions; #photometry adds numbers of the pixels. When it is not given that of the active version is kept, "
    "efficientnet_lite0 for a new store.",
)
@text_options
@manifest_option
@click.option(
    "--encoder",
    default="tfidf",
    help="What makes features of texts: tfidf, of character n-grams, fitted on these texts and kept in the store; "
    "hf:<folder or name>, onnx:<folder>; tfidf:<file> of another store.",
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
@machine_options
@photo_options
@json_option
def precompute(
    store: Path,
    catalogue: str | None,
    backbone: str | None,
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
    read_timeout_s: float,
    max_image_mb: int,
    photo_roots: tuple[str, ...],
    as_json: bool,
    **texts_and_machine: Any,
) -> None:
    """Embed a catalogue of photos, or --texts, and activate the vectors. Run it again after a kill, or for new ones.

    With --head: vectors of a learned head from the features that are stored, as a version beside the active one. With
    --part or --engine ray: by many processes or machines, into files; with --head as well, vectors beside features.

    With --servers and --me a store gets the images that its server owns.
    """
    keep_freed_memory()  # of pixels, block after block
    began, ownership = time.monotonic(), ownership_of(servers, me)
    into_files = part is not None or engine == "ray"
    if head_file is not None and catalogue is None and not into_files:
        _apply_head(store, head_file, as_json)
        return
    _check_source(catalogue, texts_and_machine["texts"], head_file, into_files=into_files)
    if part is not None and ownership is not None:
        raise BadInput("--part makes files for all servers: leave out --servers and --me, and give them to 'merge'.")
    from crossmedia.imgserver.offline.image_ids import read_ids
    from crossmedia.imgserver.offline.plan import PrecomputeConfig
    from crossmedia.imgserver.offline.precompute import StoreEmbedder
    from crossmedia.imgserver.offline.shards import Job
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    machine = machine_of(texts_and_machine)
    photos = PhotoSource.of_options(catalogue, max_image_mb, read_timeout_s, photo_roots)
    if catalogue is None:
        photos, backbone = text_source(store, **texts_and_machine)
    only = read_ids(ids, photos.names()) if ids else None
    if into_files:
        job, ray = Job(out, photos, _net_of_files(backbone, store, part), only), engine == "ray"
        found = embed_files(
            *(job, part or "1/1"), machine=machine, on_ray=ray, ray_address=ray_address, head_file=head_file
        )
        if part is None:
            found["merged"] = merge_files(out, store, dim, ownership=ownership, new_head=new_head)
        show(found, as_json, _of_parts(found, out))
        return
    config = PrecomputeConfig(dim, only, new_head=new_head, ownership=ownership)
    _go_behind_requests(store)
    with StoreEmbedder(store, photos, backbone, machine) as embedder:
        _report_precompute(_into_store(embedder, config, began), time.monotonic() - began, as_json)


def _check_source(catalogue: str | None, texts: str | None, head_file: Path | None, *, into_files: bool) -> None:
    """Refuse options of which one would be passed over."""
    if texts is not None:
        if catalogue is not None or into_files or head_file is not None:
            raise BadInput("--texts go into a store alone: leave out --catalogue, --part, --engine and --head.")
    elif catalogue is None:
        raise BadInput(
            "Give --catalogue, where the photos are, or --texts, or --head alone for a head over stored features."
        )
    if head_file is not None and not into_files:
        raise BadInput("--head takes stored features, so leave out --catalogue; with --part both are needed.")


def _net_of_files(backbone: str | None, store: Path, part: str | None) -> str:
    """The net that was named; else that of the store which files are merged into at once; for a part the default."""
    if backbone is not None:
        return backbone
    from crossmedia.imgserver.offline.own_nets import kept_recipe
    from crossmedia.imgserver.vision.efficientnet_lite import DEFAULT

    return kept_recipe(store) if part is None else DEFAULT


def _of_parts(found: dict[str, Any], out: Path) -> str:
    """What parts have become, or what is to be done with them."""
    if "merged" in found:
        return f"active version: {found['merged']['version']}"
    return f"When all parts are there: crossmedia imgserver merge {out} --store STORE"


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
    todo, what = len(plan.to_embed), f"{embedder.backbone.space.version.made_of}s"
    _say(_gives_way(embedder.store.index.active, embedder.backbone.space.version.backbone))
    console.print(f"{plan.found} {what}, {plan.skipped} of them embedded already, {todo} to embed.")
    if todo:
        rate, megabytes = embedder.images_per_s(plan), plan.disk_bytes(embedder.backbone.feature_dim) / 1e6
        start_s = time.monotonic() - began
        console.print(
            f"Estimate: {start_s + todo / rate:.0f} s in all: {start_s:.0f} s to start, which are over, and "
            f"{todo / rate:.0f} s at {rate:.0f} {what} a second; {megabytes:.1f} MB on disk.",
            soft_wrap=True,
        )
    with Bar("embedding", todo, shown=bool(todo)) as bar:
        return embedder.run(plan, bar.advance)


def _gives_way(active: str, backbone: str) -> tuple[str, ...]:
    """What is said where the active version has another backbone than what is embedded now."""
    if not active or Version.parse(active).backbone == backbone:
        return ()
    return (
        f"The active version, {active}, is of another backbone than {backbone}, whose vectors will be active instead. "
        f"To go on with it, stop this and give its --backbone; to go back, 'imgserver versions --activate'.",
    )


def _say(passed_over: tuple[str, ...]) -> None:
    for sentence in passed_over:
        click.echo(sentence, err=True)


def _apply_head(store: Path, file: Path, as_json: bool) -> None:
    from crossmedia.imgserver.head_files import read_head_file
    from crossmedia.imgserver.offline.head_vectors import apply_head

    started = time.monotonic()
    with held_store(store) as opened:
        version, images = apply_head(opened, *read_head_file(file))
    seconds = time.monotonic() - started
    found = {"version": version, "images": images, "seconds": seconds}
    made = f"{counted(images, 'vector')} in {seconds:.1f} s, from stored features"
    show(found, as_json, made, f"version: {version}", how_to_serve(store, version))


def _report_precompute(result: PrecomputeResult, seconds: float, as_json: bool) -> None:
    result.start_s, result.seconds = result.start_s + seconds - result.seconds, seconds
    show(
        result,
        as_json,
        f"found {result.found}, embedded {result.embedded}, skipped {result.skipped}, rejected {result.rejected} "
        f"in {result.seconds:.1f} s, {result.start_s:.1f} s of them before the first (packages, list, backbone)",
        f"rejected ones and reasons: {result.rejects_file}" if result.rejects_file else "",
        result.note,
        f"active version: {result.version}",
    )
    if not result.embedded and not result.skipped:
        raise NothingEmbedded(f"Not one of {result.found} was embedded; the reasons are in {result.rejects_file}.")


@click.command(cls=Command, example="photos --out manifest.parquet")
@click.argument("catalogue", metavar="PATH|URL")
@click.option(
    "--key",
    default="",
    help="The catalogue is a table of items, Parquet or CSV, and this column names them: for --texts.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="manifest.parquet",
    help="The manifest to write; ids that are in it already are kept.",
)
@json_option
def manifest(catalogue: str, key: str, out: Path, as_json: bool) -> None:
    """List a catalogue once and give every image an id that lasts.

    Needed when photos have names instead of numbers, and useful when listing takes long: then use the manifest as the
    catalogue. Names stay the ids when all are whole numbers. Run it again when photos were added.
    """
    from crossmedia.imgserver.storage.catalogue.manifest import write_manifest
    from crossmedia.imgserver.storage.catalogue.texts import rows_by_key

    report = write_manifest(catalogue, out, rows=rows_by_key(catalogue, key) if key else None)
    _say((*report.passed_over, *report.alike))
    gone = f", {report.gone} no longer in the catalogue" if report.gone else ""
    outside = (
        f"its photos lie outside its own folder; precompute and serve read them if you allow it: --catalogue "
        f"{quote(report.out)} --photo-root {quote(report.photo_root)}"
    )
    made = f"{counted(report.images, 'image')} in {report.out}: {report.added:,} new{gone}"
    show(report, as_json, made, outside if report.photo_root and not key else "")
