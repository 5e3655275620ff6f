"""Find similar photos: build the index, search it, and list a catalogue's near-duplicates."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput, NothingEmbedded
from crossmedia.imgserver.commands.options import (
    held_store,
    manifest_option,
    names_of,
    photo_root_option,
    served_store_option,
    server_address,
    server_option,
    store_option,
)
from crossmedia.output import show
from crossmedia.progress import Bar
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
        f"{counted(info.images, 'image')} of {info.version}",
        f"kind {info.kind}, {info.bytes_per_image:.0f} bytes an image, {report.seconds:.1f} s",
        f"recall@10 {info.recall_at_10:.3f}; {report.queries_per_s:,.0f} queries/s{brute}",
    )


@click.command(cls=Command, example="5 photos/042.jpg --store store --out similar.png")
@click.argument("queries", nargs=-1, required=True)
@click.option("--k", type=click.IntRange(min=1), default=10, help="Neighbours of each.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw queries and neighbours into this PNG."
)
@manifest_option
@server_option
@served_store_option
@click.option("--timeout-s", type=float, default=30.0, help="Seconds for all of it, retries included.")
@json_option
def search(
    queries: tuple[str, ...],
    k: int,
    out: Path | None,
    manifest: Path | None,
    server: str | None,
    store: str,
    timeout_s: float,
    as_json: bool,
) -> None:
    """The images most alike QUERIES: keys of the manifest, image ids, files of photos in no catalogue, or words.

    Asks a running server, whose store has an index ('imgserver index'). A word that is a key is that image, though it
    is a number or a file as well. Words find texts, and photos that went through the image tower of CLIP or SigLIP.
    """
    from crossmedia.imgserver.client import ImageClient, Status

    names = names_of(store, manifest) if manifest is not None or server is None else None
    ids, files, words = _asked(queries, names)
    photos = [file.read_bytes() for file in files]
    labels = [_label(image_id, names) for image_id in ids] + [file.name for file in files]
    labels += [f'"{word}"' for word in words]
    with ImageClient(server_address(server, store), timeout_s=timeout_s) as client:
        if words and not client.info().knows_words:
            raise _neither(words[0], names)
        parts = [client.search(part, k) for part in (ids, photos, words) if part]
        near = [
            [(image_id, cosine) for image_id, cosine in zip(*row, strict=True) if image_id >= 0]
            for part in parts
            for row in zip(part.image_ids.tolist(), part.cosines.tolist(), strict=True)
        ]
        status = [Status(value).name for part in parts for value in part.status.tolist()]
        called = _keys({image_id for row in near for image_id, _ in row}, names)
        if out is not None:
            _draw(out, client, ids, [*photos, *(None for _ in words)], labels, near, called)
    if as_json:
        rows = [
            {"query": label, "status": state, "neighbours": [_neighbour(i, c, names, called) for i, c in row]}
            for label, state, row in zip(labels, status, near, strict=True)
        ]
        click.echo(json.dumps({"version": parts[0].version, "images": parts[0].images, "queries": rows}))
    else:
        for label, state, row in zip(labels, status, near, strict=True):
            found = "  ".join(f"{called[image_id]} ({cosine:.3f})" for image_id, cosine in row)
            click.echo(f"{label}: {found if state == 'OK' else state}")
        if out is not None:
            click.echo(f"drawn: {out}")
    if failed := [label for label, state in zip(labels, status, strict=True) if state != "OK"]:
        raise NothingEmbedded(f"{len(failed)} of {len(labels)} queries have no vector; the first is {failed[0]}.")


def _asked(queries: Sequence[str], names: ImageNames | None) -> tuple[list[int], list[Path], list[str]]:
    """Image ids, files and words: a key first, then a number, a file, a key with a suffix behind it; the rest."""
    from crossmedia.keys import as_image_id

    keyed = dict(zip(queries, names.find(queries).tolist(), strict=True)) if names is not None else {}
    ids, files, words = [], [], []
    for query in queries:
        found, number = keyed.get(query, -1), as_image_id(query)
        if found >= 0 and (names is None or names.keys([found]) == [query] or not os.path.isfile(query)):
            ids.append(found)
        elif number is not None:
            ids.append(number)
        elif os.path.isfile(query):
            files.append(Path(query))
        else:
            words.append(query)
    return ids, files, words


def _neither(query: str, names: ImageNames | None) -> BadInput:
    key = "a key of the manifest, " if names is not None else ""
    meant = names.meant(query) if names is not None else ""
    return BadInput(f"{query} is neither {key}an image id nor a file.{meant}")


def _keys(ids: Collection[int], names: ImageNames | None) -> dict[int, str]:
    """The name of each image."""
    ordered = sorted(ids)
    return dict(zip(ordered, names.keys(ordered) if names is not None else map(str, ordered), strict=True))


def _label(image_id: int, names: ImageNames | None) -> str:
    return f"image {image_id}" if names is None else names.keys([image_id])[0]


def _neighbour(image_id: int, cosine: float, names: ImageNames | None, called: dict[int, str]) -> dict[str, Any]:
    return {"image_id": image_id, "cosine": cosine} | ({} if names is None else {"key": called[image_id]})


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
        groups, images, nearest = find_duplicates(opened, threshold, bar.advance)
    called = _keys({image_id for group in groups for image_id in group.image_ids}, names_of(store))
    _write(out, _table(groups, called))
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
        _write(picture, contact_sheet([[cell(image_id) for image_id in ids] for ids in shown]))
    many = sum(len(group.image_ids) for group in groups)
    listed = [asdict(group) | {"keys": [called[i] for i in group.image_ids]} for group in groups]
    found = {"images": images, "groups": listed, "nearest": nearest, "file": str(out)}
    summary = f"{counted(images, 'image')}, {counted(len(groups), 'group')} of {counted(many, 'image')}"
    show(
        found | {"picture": str(picture) if picture else None},
        as_json,
        f"{summary} with a cosine of {threshold} or more",
        _other_threshold(threshold, images, many, nearest),
        f"groups: {out}" + (f"; the largest drawn: {picture}" if picture else ""),
    )


def _other_threshold(threshold: float, images: int, grouped: int, nearest: float) -> str:
    """What to do when nothing, or most of all, is alike; else empty."""
    if 2 * grouped > images:
        return (
            f"More than half of all images are in groups: raise --threshold above {threshold}, or index a version of "
            f"more numbers."
        )
    if not grouped and nearest > 0:
        below = math.floor(nearest * 100) / 100
        return (
            f"The two images most alike have a cosine of {nearest:.3f}: lower --threshold, to {below} or less, to see "
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
    said = f"{counted(report.images, 'image')}; {by_level}; {report.error:.0%} of the variance is left"
    show(report, as_json, said, f"{'codes of an earlier run go on; ' if report.kept else ''}written: {report.file}")


def _draw(
    out: Path,
    client: Any,
    ids: Sequence[int],
    photos: Sequence[bytes | None],
    names: Sequence[str],
    near: Sequence[Sequence[tuple[int, float]]],
    called: dict[int, str],
) -> None:
    from crossmedia.imgserver.similarity.contact_sheet import contact_sheet, small

    every = sorted({*ids, *(image_id for row in near for image_id, _ in row)})
    jpegs = dict(zip(every, client.thumbnails(every), strict=True))
    own = [jpegs[image_id] for image_id in ids] + [small(photo) for photo in photos]
    rows = [
        [(jpeg, name), *((jpegs[image_id], f"{called[image_id]}  {cosine:.3f}") for image_id, cosine in row)]
        for jpeg, name, row in zip(own, names, near, strict=True)
    ]
    _write(out, contact_sheet(rows))


def _table(groups: Sequence[DuplicateGroup], called: dict[int, str]) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("group", "image_id", "key", "cosine", "same_bytes"))
    for number, group in enumerate(groups, start=1):
        for image_id in group.image_ids:
            lines.writerow((number, image_id, called[image_id], f"{group.cosine:.4f}", int(group.same_bytes)))
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    from crossmedia.disk import replacing

    with replacing(path) as part:
        part.write_bytes(data)
