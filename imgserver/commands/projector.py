"""Vectors and photos for TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    server_option,
    store_option,
)
from crossmedia.options import Several
from crossmedia.output import show
from crossmedia.progress import Bar
from crossmedia.version import Version
from crossmedia.words import counted

if TYPE_CHECKING:
    import numpy.typing as npt

    from crossmedia.imgserver.client import ImageClient
    from crossmedia.imgserver.storage.records import Ids

STEP = 256  # photos that are asked for at a time
MOST_PHOTOS = 16_384  # 128 x 128 photos of 64 pixels are the largest picture that browsers draw
TIMEOUT_S = 60.0


@click.command(
    cls=Command,
    example="--store store --catalogue photos --items items.csv --columns category,colour --out logs",
    sections={
        "Where things are": ("--store", "--catalogue", "--server", "--version", "--manifest", "--photo-root"),
        "What stands beside a photo": ("--items", "--key", "--columns"),
        "What is written": ("--photos", "--seed", "--out"),
    },
)
@store_option
@click.option("--catalogue", metavar="PATH|URL", help="Where the photos are, with --store; without it points are dots.")
@server_option
@click.option("--version", default="", help="Version of the vectors; the active one when it is not given.")
@manifest_option
@photo_root_option
@click.option(
    "--items",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of the items, CSV or Parquet: the photos that it names are shown. Needed with --server.",
)
@click.option("--key", default="image_id", help="Its column with the image ids, or the keys of the manifest.")
@click.option(
    "--columns", type=Several(str, "NAME,..."), default="", help="Its columns that say what a photo is, to colour by."
)
@click.option(
    "--photos",
    type=click.IntRange(2, MOST_PHOTOS),
    default=10_000,
    help="Photos at most; of more, so many are drawn. t-SNE and UMAP in a browser take minutes for 10,000.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the draw.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="logs", help="Folder for TensorBoard.")
@json_option
def projector(
    store: Path,
    catalogue: str | None,
    server: str | None,
    version: str,
    manifest: Path | None,
    photo_roots: tuple[str, ...],
    items: Path | None,
    key: str,
    columns: tuple[str, ...],
    photos: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Write vectors and photos for TensorBoard's projector: PCA, t-SNE, UMAP and neighbours in a browser.

    Look at the result with 'tensorboard --logdir OUT' (pip install tensorboard), in the tab Projector. Vectors and
    photos come from a store in this process, or from a server.
    """
    from crossmedia.imgserver.offline.projector import ColumnTable, read_columns, write_projector

    if columns and items is None:
        raise BadInput("--columns names columns of a table of items: give --items, too.")
    if server and items is None:
        raise BadInput("A server does not say which photos it has: give --items, a table that names them.")
    names = names_of(store, manifest) if manifest is not None or server is None else None
    _check_columns(columns, with_keys=names is not None)
    table = read_columns(ColumnTable(str(items), key=key, shown=columns), names) if items is not None else None
    ids = _ids(store, version) if table is None else table.ids  # before the store is opened for good
    with _client(store, catalogue, server, photo_roots) as client:
        client.version = version or None
        shown = _shown(client, ids, photos, seed)
        with_photos = bool(server or catalogue) and Version.parse(shown.version).made_of != "text"
        jpegs = list(_drawn(client, shown.ids)) if with_photos else None
    beside = {"image_id": [str(one) for one in shown.ids.tolist()]}
    beside |= {"key": names.keys(shown.ids)} if names is not None else {}
    beside |= table.of(shown.ids) if table is not None else {}
    files = write_projector(out, shown.vectors, beside, jpegs)
    drawable = sum(one is not None for one in jpegs or ())
    for sentence in table.passed_over if table is not None else ():
        click.echo(sentence, err=True)
    show(
        {"version": shown.version, "photos": len(shown.ids), "of": shown.of, "drawn": drawable, "seed": seed}
        | {"columns": list(beside), "files": [str(file) for file in files]},
        as_json,
        f"{shown.said(seed)}, {shown.vectors.shape[1]} numbers each, of {shown.version}",
        "points are dots: give --catalogue to see photos" if jpegs is None else f"{counted(drawable, 'photo')} drawn",
        f"look at it: tensorboard --logdir {out}",
    )


def _check_columns(columns: tuple[str, ...], *, with_keys: bool) -> None:
    """Refuse columns of the table that have the names of those that stand beside each photo anyway."""
    own = ("image_id", "key") if with_keys else ("image_id",)
    if taken := [name for name in columns if name in own]:
        raise BadInput(
            f"--columns names {taken[0]!r}, and a column of that name stands beside each photo anyway: leave it out, "
            f"or give the table's column another name."
        )


@dataclass(frozen=True)
class _Shown:
    """The images that are shown, ascending, with their vectors, shape (n, D); ``of`` so many that have one."""

    ids: Ids
    vectors: npt.NDArray[Any]
    of: int
    version: str

    def said(self, seed: int) -> str:
        """How many, and of how many."""
        made_of = Version.parse(self.version).made_of
        if len(self.ids) == self.of:
            return counted(self.of, made_of)
        return f"{len(self.ids):,} of {counted(self.of, made_of)}, drawn by seed {seed}"


def _shown(client: ImageClient, ids: Ids, most: int, seed: int) -> _Shown:
    from crossmedia.imgserver.offline.projector import drawn

    found = client.get(ids)
    there = ids[found.ok]
    if not len(there):
        raise NothingEmbedded(f"None of {counted(len(ids), 'image')} has a vector of {found.version}.")
    chosen = drawn(there, most, seed)
    return _Shown(chosen, found.values[found.ok][there.searchsorted(chosen)], len(there), found.version)


def _ids(store: Path, version: str) -> Ids:
    """The images of a store that have a vector, ascending."""
    from crossmedia.imgserver.storage.versions import held
    from crossmedia.status import is_ok

    with held_store(store) as opened:
        ids, entries, _ = opened.index.load(held(opened, version, "vector").name)
    found: Ids = ids[is_ok(entries["status"])]
    return found


@contextmanager
def _client(
    store: Path, catalogue: str | None, server: str | None, photo_roots: tuple[str, ...]
) -> Iterator[ImageClient]:
    """Who has vectors and photos: a server, or a store in this process."""
    from crossmedia.imgserver import open_local
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    source = server or open_local(store, PhotoSource(catalogue, roots=photo_roots) if catalogue else None)
    with ImageClient(source, timeout_s=TIMEOUT_S) as client:
        yield client


def _drawn(client: ImageClient, ids: Ids) -> Iterator[bytes | None]:
    """Small photos, in the order of the ids."""
    from crossmedia.imgserver.offline.projector import SIDE

    with Bar("photos", len(ids)) as bar:
        for start in range(0, len(ids), STEP):
            part = ids[start : start + STEP]
            yield from client.thumbnails(part, max_side=SIDE)
            bar.advance(len(part))
