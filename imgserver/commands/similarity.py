"""Find similar photos: build the index, list a catalogue's near-duplicates, write ids that images alike share."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossmedia.config import Command, json_option
from crossmedia.imgserver.commands.options import (
    held_store,
    names_of,
    photo_root_option,
    store_option,
)
from crossmedia.output import show
from crossmedia.progress import Bar
from crossmedia.version import Version
from crossmedia.words import counted

if TYPE_CHECKING:
    from crossmedia.imgserver.similarity.contact_sheet import Cell
    from crossmedia.imgserver.similarity.duplicates import DuplicateGroup
    from crossmedia.names import ImageNames

SHOWN_GROUPS, SHOWN_IMAGES = 30, 10


@click.command(cls=Command, example="--store store")
@store_option
@click.option(
    "--kind",
    type=click.Choice(["auto", "flat", "hnsw", "ivf-pq"]),
    default="auto",
    help="Kind of index: flat compares with every image, hnsw walks a graph, ivf-pq holds a byte for eight numbers; "
    "auto chooses by the number of images.",
)
@json_option
def index(store: Path, kind: str, as_json: bool) -> None:
    """Build the similarity index of the active version; a running server takes it into use within a second.

    Run it again when photos were added or another version was activated.
    """
    from crossmedia.imgserver.similarity.building import build_index

    with held_store(store) as opened, Bar("indexing") as bar:
        report = build_index(opened, kind, progress=bar.advance)
    info = report.info
    brute = "" if info.kind == "flat" else f", {report.brute_force_queries_per_s:,.0f} by brute force"
    show(
        report,
        as_json,
        f"{counted(info.images, 'vector')} of {info.version}",
        f"kind {info.kind}, {info.bytes_per_image:.0f} bytes a vector, {report.seconds:.1f} s",
        f"recall@10 {info.recall_at_10:.3f}; {report.queries_per_s:,.0f} queries/s{brute}",
    )


@click.command(cls=Command, example="--store store --catalogue photos --out duplicates.csv")
@store_option
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.95, help="Least cosine of two images in a group.")
@click.option("--catalogue", metavar="PATH|URL", help="Where the photos are, to draw the largest groups.")
@photo_root_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="duplicates.csv",
    help="File of groups: group, image_id, key, cosine, same_bytes. With --catalogue a PNG is drawn beside it.",
)
@json_option
def duplicates(
    store: Path, threshold: float, catalogue: str | None, photo_roots: tuple[str, ...], out: Path, as_json: bool
) -> None:
    """List groups of photos that are the same, or nearly, by the similarity index ('imgserver index').

    What photos are alike depends on the backbone and the head: look at the picture before you delete anything.
    """
    from crossmedia.imgserver.similarity.contact_sheet import contact_sheet, small
    from crossmedia.imgserver.similarity.duplicates import find_duplicates
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    with held_store(store) as opened, Bar("comparing") as bar:
        (groups, images, nearest), version = find_duplicates(opened, threshold, bar.advance), opened.index.active
    called = keys_of({image_id for group in groups for image_id in group.image_ids}, names_of(store))
    write_file(out, _table(groups, called))
    picture = out.with_suffix(".png") if catalogue and groups else None
    if picture is not None and catalogue is not None:
        source = PhotoSource(catalogue, roots=photo_roots)
        photos = source.open()

        def cell(image_id: int) -> Cell:
            try:
                data = photos.read(image_id, source.limits.max_bytes)
            except OSError:
                data = None
            return small(data), called[image_id]

        shown = [group.image_ids[:SHOWN_IMAGES] for group in groups[:SHOWN_GROUPS]]
        write_file(picture, contact_sheet([[cell(image_id) for image_id in ids] for ids in shown]))
    many = sum(len(group.image_ids) for group in groups)
    listed = [asdict(group) | {"keys": [called[i] for i in group.image_ids]} for group in groups]
    found = {"images": images, "groups": listed, "nearest": nearest, "file": str(out)}
    what = Version.parse(version).made_of
    summary = f"{counted(images, what)}, {counted(len(groups), 'group')} of {counted(many, what)}"
    show(
        found | {"picture": str(picture) if picture else None},
        as_json,
        f"{summary} with a cosine of {threshold} or more",
        _other_threshold(threshold, images, many, nearest, what),
        f"groups: {out}" + (f"; the largest drawn: {picture}" if picture else ""),
    )


def _other_threshold(threshold: float, images: int, grouped: int, nearest: float, what: str) -> str:
    """What to do when nothing, or most of all, is alike; else empty."""
    if 2 * grouped > images:
        return (
            f"More than half of all {what}s are in groups: raise --threshold above {threshold}, or index a version of "
            f"more numbers."
        )
    if not grouped and nearest > 0:
        below = math.floor(nearest * 100) / 100
        return (
            f"The two {what}s most alike have a cosine of {nearest:.3f}: lower --threshold, to {below} or less, to see "
            f"them."
        )
    return ""


@click.command(name="semantic-ids", cls=Command, example="--store store --out semantic_ids.parquet")
@store_option
@click.option("--levels", type=click.IntRange(1, 8), default=3, help="Codes of an image.")
@click.option("--codes", type=int, default=64, help="Different codes of a level: a power of two, at most 256.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="semantic_ids.parquet",
    help="File to write: image_id, sid_1, sid_2, …, and key where a manifest gave the ids; name it in a samples schema "
    "under [images].",
)
@json_option
def semantic_ids(store: Path, levels: int, codes: int, out: Path, as_json: bool) -> None:
    """Write ids that images which look alike share: codes of the active version's vectors, coarse to fine.

    Any model takes them as id features. Run it again when photos were added: the codes keep their meaning.
    """
    from crossmedia.imgserver.similarity.semantic_ids import write_semantic_ids

    with held_store(store) as opened:
        report = write_semantic_ids(opened, out, levels, codes)
    by_level = f"different ids by level: {', '.join(f'{count:,}' for count in report.distinct)}"
    of = counted(report.images, Version.parse(report.version).made_of)
    said = f"{of}; {by_level}; {report.error:.0%} of the variance is left"
    show(report, as_json, said, f"{'codes of an earlier run go on; ' if report.kept else ''}written: {report.file}")


def keys_of(ids: Collection[int], names: ImageNames | None) -> dict[int, str]:
    """The name of each image."""
    ordered = sorted(ids)
    return dict(zip(ordered, names.keys(ordered) if names is not None else map(str, ordered), strict=True))


def _table(groups: Sequence[DuplicateGroup], called: dict[int, str]) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("group", "image_id", "key", "cosine", "same_bytes"))
    for number, group in enumerate(groups, start=1):
        for image_id in group.image_ids:
            lines.writerow((number, image_id, called[image_id], f"{group.cosine:.4f}", int(group.same_bytes)))
    return text.getvalue().encode()


def write_file(path: Path, data: bytes) -> None:
    """Write a file as a whole, in the place of one that was there."""
    from crossmedia.disk import replacing

    with replacing(path) as part:
        part.write_bytes(data)
