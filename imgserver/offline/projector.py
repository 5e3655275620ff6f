"""Vectors for TensorBoard's projector: numbers, what each photo is, and one picture of all photos.

The layout is that of the plugin (projector_config.pbtxt beside the files that it names), written here and not by
``torch.utils.tensorboard``: its ``add_embedding`` holds all photos as floats, and the picture once more as doubles
(docs/adr/0046).

Legend: n photos, D numbers in a vector.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from crossmedia.disk import replacing
from crossmedia.errors import BadInput
from crossmedia.imgserver.similarity.contact_sheet import GREY, opened_small
from crossmedia.imgserver.storage.catalogue.texts import TextTable, ids_of_keys
from crossmedia.imgserver.storage.records import Ids
from crossmedia.keys import NULL_IMAGE, Column, keys, texts
from crossmedia.list_cells import entries_of
from crossmedia.names import ImageNames

SIDE, LARGEST = 64, 8192  # pixels of a photo in the picture, and of the picture: a browser draws none that is larger
MOST = (LARGEST // SIDE) ** 2
CONFIG, VECTORS, ITEMS, PHOTOS = "projector_config.pbtxt", "vectors.tsv", "items.tsv", "photos.png"
_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")


@dataclass(frozen=True)
class ColumnTable(TextTable):
    """A table of items whose columns stand beside each point.

    Attributes:
        shown: the columns.
    """

    called: ClassVar[str] = "items"

    text: str = ""
    shown: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """The columns that are read, and the option that names each."""
        return ("--key", self.key), *(("--columns", name) for name in self.shown)


@dataclass(frozen=True)
class ItemColumns:
    """What a table says of photos.

    Attributes:
        ids: of the photos that it names, ascending, each once.
        values: of each column, a text a photo.
        passed_over: sentences on rows that name none.
    """

    ids: Ids
    values: Mapping[str, list[str]]
    passed_over: tuple[str, ...] = ()

    def of(self, ids: Ids) -> dict[str, list[str]]:
        """The columns of some photos, shape (n,); empty texts for those that the table does not name."""
        place = np.minimum(np.searchsorted(self.ids, ids), max(0, len(self.ids) - 1))
        there = (self.ids[place] == ids).tolist() if len(self.ids) else [False] * len(ids)
        found = list(zip(place.tolist(), there, strict=True))
        return {name: [own[at] if known else "" for at, known in found] for name, own in self.values.items()}


def read_columns(table: ColumnTable, names: ImageNames | None) -> ItemColumns:
    """What a table says of photos; of several rows of one photo the first counts.

    Args:
        table: CSV or Parquet; a cell of its key may be a list of photos.
        names: what photos are called; None: by their ids.

    Raises:
        BadInput: the table cannot be read, lacks a column, or names no photo.
    """
    content = table.columns()
    cells = entries_of(Column(content[table.key], table.key, table.path))
    named = keys(cells)
    filled = np.asarray(pc.and_(pc.is_valid(named), pc.fill_null(pc.not_equal(named, str(NULL_IMAGE)), False)))
    if not filled.any():
        raise BadInput(f"The column {table.key!r} of {table.path} names no photo in any of its rows.")
    cells = cells.only(filled)
    found, passed = ids_of_keys(cells, names)
    known = np.flatnonzero(found != NULL_IMAGE)
    ids, first = np.unique(found[known], return_index=True)
    rows = pa.array(cells.parents[known[first]])
    values = {}
    for name in table.shown:
        column = content[name].combine_chunks() if isinstance(content[name], pa.ChunkedArray) else content[name]
        told = pc.cast(column, pa.string()) if pa.types.is_boolean(column.type) else column
        values[name] = pc.fill_null(texts(Column(told, name, table.path)).take(rows), "").to_pylist()
    return ItemColumns(ids, values, passed)


def drawn(ids: Ids, most: int, seed: int) -> Ids:
    """At most so many of some photos, ascending; drawn by seed where there are more."""
    if len(ids) <= most:
        return ids
    return np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))


def write_projector(
    out: Path, vectors: npt.NDArray[Any], columns: Mapping[str, Sequence[str]], photos: Iterable[bytes | None] | None
) -> list[Path]:
    """Write what ``tensorboard --logdir OUT`` shows in its projector.

    Args:
        out: folder; what is there of an earlier call is replaced.
        vectors: shape (n, D), n at most ``MOST`` with photos.
        columns: a text a photo, by the name of the column; tabs and line breaks in them become spaces. One column
            has no header, for the plugin takes none.
        photos: small JPEGs in the order of the vectors; None: there is none, which is grey. Without any, points stay
            points.

    Returns:
        the files; the configuration, which names the others, is written last.

    Raises:
        StoreError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = f'embeddings {{\n  tensor_name: "photos"\n  tensor_path: "{VECTORS}"\n  metadata_path: "{ITEMS}"\n'
    files = [out / VECTORS, out / ITEMS]
    with replacing(files[0]) as part:
        np.savetxt(part, np.asarray(vectors, dtype=np.float32), fmt="%.6g", delimiter="\t")
    # The plugin takes the first line for a header where it has a tab; of one column it would be the first point's.
    header = [tuple(columns)] if len(columns) > 1 else []
    lines = ["\t".join(map(_cell, row)) for row in (*header, *zip(*columns.values(), strict=True))]
    with replacing(files[1]) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if photos is not None:
        files.append(out / PHOTOS)
        with replacing(files[2]) as part:
            part.write_bytes(_picture(photos, len(vectors)))
        sides = f"    single_image_dim: {SIDE}\n" * 2
        config += f'  sprite {{\n    image_path: "{PHOTOS}"\n{sides}  }}\n'
    with replacing(out / CONFIG) as part:
        part.write_text(config + "}\n", encoding="utf-8")
    if photos is None:
        (out / PHOTOS).unlink(missing_ok=True)  # of an earlier call
    return [*files, out / CONFIG]


def _cell(text: str) -> str:
    """A text as a cell of a table that knows no quotes: tabs and line breaks are spaces."""
    return _BREAKS.sub(" ", text)


def _picture(photos: Iterable[bytes | None], count: int) -> bytes:
    """All photos in a square of squares, row by row, as a PNG."""
    wide = math.isqrt(max(1, count) - 1) + 1
    sheet = Image.new("RGB", (wide * SIDE, wide * SIDE), "white")
    for number, jpeg in enumerate(photos):
        left, top = number % wide * SIDE, number // wide * SIDE
        if (photo := opened_small(jpeg)) is None:
            sheet.paste(GREY, (left, top, left + SIDE, top + SIDE))
            continue
        photo.thumbnail((SIDE, SIDE))
        sheet.paste(photo, (left + (SIDE - photo.width) // 2, top + (SIDE - photo.height) // 2))
    found = io.BytesIO()
    sheet.save(found, format="PNG")
    return found.getvalue()
