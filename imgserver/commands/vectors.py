"""Import and export vectors as files, and compress them within the store."""

from __future__ import annotations

from pathlib import Path

import click

from crossmedia.config import Command, json_option
from crossmedia.imgserver.commands.options import held_store, how_to_serve, manifest_option, store_option
from crossmedia.options import check_not_empty
from crossmedia.output import show
from crossmedia.scale import doubt_of_scale
from crossmedia.words import counted


@click.command(name="import", cls=Command, example="clip.parquet --name clip-vit-b32 --store store", goes_on=True)
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Name of the net that made the vectors; it becomes part of the version.")
@click.option(
    "--activate/--no-activate",
    default=True,
    help="Serve them to who names no version, which is the default; or keep them beside the active version.",
)
@manifest_option
@store_option
@json_option
def import_command(file: Path, name: str, activate: bool, manifest: Path | None, store: Path, as_json: bool) -> None:
    """Serve vectors that exist already: a Parquet FILE, or a folder of them, with the columns image_id and vector.

    Images are ids, or keys of a manifest; with --manifest a column key counts, and image_id beside it is not read.
    Vectors are lists of floats of one length; they are stored as float16. Models begin as if their numbers had a mean
    square of 1, and it is said where they have another. The same file again changes nothing.
    """
    from crossmedia.imgserver.offline.exchange import KnownImages, check_vectors, import_vectors
    from crossmedia.names import ImageNames

    given, before = ImageNames.read(manifest) if manifest else None, ImageNames.of_store(store)
    known = before if given is None else given.over(before)
    vectors = check_vectors(file, name, KnownImages(given, known))  # a file that is wrong makes no store
    if vectors.passed_over:
        click.echo(f"image_id of {file} was not read: its column key counts, by the manifest", err=True)
    with held_store(store, create=True) as opened:
        if given is not None:
            given.keep(opened.folder)
        report = import_vectors(opened, vectors, activate=activate)
    if doubt := doubt_of_scale(report.mean_square, str(file)):
        click.echo(doubt, err=True)
    made = f"{counted(report.images, 'vector')} of {report.dim} numbers, {report.added:,} new"
    version = f"{'active version' if activate else 'version, not active'}: {report.version}"
    show(report, as_json, f"{made}, in {report.seconds:.1f} s", version)


@click.command(cls=Command, example="--store store --out vectors.parquet")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="vectors.parquet",
    help="File to write: .parquet, or .npy for a plain matrix with its ids in a second file.",
)
@click.option("--version", default="", help="Version to export; the active one when it is not given.")
@click.option(
    "--since",
    default="",
    metavar="POINT",
    help="Write only what changed since an earlier export, whose point this is: images that were added or replaced, "
    "and those that have no vector any more, with a null in its place.",
)
@store_option
@json_option
def export(out: Path, version: str, since: str, store: Path, as_json: bool) -> None:
    """Write the vectors of a version to a file, sorted by image id, for use without this project.

    The point that it prints, and that is in the file's metadata, says what the file is of: --since takes it.
    """
    from crossmedia.imgserver.offline.export import export_vectors

    check_not_empty("since")
    with held_store(store) as opened:
        report = export_vectors(opened, out, version, since)
    what = f"{counted(report.images, 'vector')} of {report.dim} numbers"
    if since:
        what += f" that changed, and {counted(report.removed, 'image')} without a vector now,"
    made = f"{what} in {', '.join(report.files)} ({report.seconds:.1f} s)"
    show(
        report,
        as_json,
        made,
        f"version: {report.version}",
        f"generation: {report.generation}",
        f"point: {report.point}",
    )


@click.command(cls=Command, example="--bytes 16 --store store", goes_on=True)
@click.option(
    "--bytes",
    "size",
    type=click.IntRange(min=1),
    required=True,
    help="Bytes of a compressed vector. They must divide the numbers of the vector, because each byte codes an equal "
    "share of them. A byte for four numbers loses little; docs/performance.md says what each choice costs.",
)
@click.option("--version", default="", help="Version to compress; the active one if it is not given.")
@store_option
@json_option
def compress(size: int, version: str, store: Path, as_json: bool) -> None:
    """Make a version of a few bytes a vector out of one that the store holds: no catalogue and no CNN.

    Its vectors are what a codebook (product quantisation) leaves of the others, so it is a version of its own, beside
    them; 'imgserver versions --activate' serves it. New photos get vectors of it like of any other. Run the command
    again after a kill, or when photos were added.
    """
    from crossmedia.imgserver.offline.compress import compress as work

    with held_store(store) as opened:
        report = work(opened, size, version)
    made = f"{counted(report.images, 'vector')} of {report.bytes} instead of {report.plain_bytes} bytes"
    kept = "the codebook of an earlier run goes on" if report.kept else "a new codebook"
    show(
        report,
        as_json,
        f"{made}, {report.added:,} new",
        f"{kept}; mean cosine to the vectors as they were: {report.cosine:.4f} ({report.seconds:.1f} s)",
        f"version: {report.version}",
        how_to_serve(store, report.version),
    )
