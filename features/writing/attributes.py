"""Read attributes of items, users and images by key, from separate tables or from columns of the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import NULL_IMAGE, Int64Array
from crossmedia.features.schema import ImageTable, Schema
from crossmedia.features.vocabulary import tokenize
from crossmedia.features.writing.notes import Notes, first_of
from crossmedia.features.writing.tables import TableSource
from crossmedia.forms import near_in_words
from crossmedia.keys import Column, full_image_ids, full_keys, image_ids, keys, texts
from crossmedia.names import ImageNames
from crossmedia.words import row_said

MERGE_AT = 4_000_000
KEY, IMAGE, ROW, ID, TEXT = "key:", "image:", "row:", "id:", "text:"
Readers = dict[str, tuple[str, Callable[[Column], pa.Array]]]


@dataclass(frozen=True)
class Attributes:
    """Attributes by row of a table; ``rows`` finds the row of a key, -1 where there is none."""

    key: pa.Array
    ids: dict[str, pa.Array]
    image: Int64Array | None = None
    text: dict[str, pa.ListArray] = field(default_factory=dict)

    def rows(self, raw: pa.Array) -> Int64Array:
        """The row of each key, shape (n,), -1 where there is none."""
        found = pc.index_in(raw, value_set=self.key)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64)


def read_items(schema: Schema, notes: Notes) -> Attributes | None:
    """The attributes of items, or None when the schema has none; ``notes`` records what is odd in them.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    items = schema.items
    if items is None:
        return None
    wanted: Readers = {KEY: (items.item, full_keys)}
    wanted |= {ID + name: (name, keys) for name in items.ids} | {TEXT + name: (name, texts) for name in items.text}
    if items.image is not None:
        wanted[IMAGE] = (items.image, keys if items.image_manifest else _image_column)
    table = _read(schema, items.path, wanted, "items", notes)
    image = None
    if items.image is not None:
        found = table[IMAGE].combine_chunks()
        image = np.asarray(found) if not items.image_manifest else _ids_of_names(items.image_manifest, found, notes)
        if not (image != NULL_IMAGE).any():
            notes.add("items_of_which_not_one_has_an_image", len(image))
    ids = {name: table[ID + name].combine_chunks() for name in items.ids}
    if schema.images is not None and image is not None:
        ids |= _ids_of_images(schema.images, image, notes)
    text = {name: tokenize(table[TEXT + name].combine_chunks()) for name in items.text}
    return Attributes(table[KEY].combine_chunks(), ids, image, text)


def read_users(schema: Schema, notes: Notes) -> Attributes | None:
    """The attributes of users, or None when the schema has none.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    users = schema.users
    if users is None:
        return None
    wanted: Readers = {KEY: (users.user, full_keys)} | {ID + name: (name, keys) for name in users.ids}
    table = _read(schema, users.path, wanted, "users", notes)
    return Attributes(table[KEY].combine_chunks(), {name: table[ID + name].combine_chunks() for name in users.ids})


def _image_column(column: Column) -> pa.Array:
    return pa.array(image_ids(column, "; for names give image_manifest too"))


def _full_image_column(column: Column) -> pa.Array:
    return pa.array(full_image_ids(column))


def _read(schema: Schema, path: Path | None, wanted: Readers, who: str, notes: Notes) -> pa.Table:
    """A table with one row per key: from a separate file, or from the last row of each key in the log.

    Args:
        schema: with the log.
        path: of the table; None: the log.
        wanted: name in the result -> column of the file, and what reads it.
        who: what the keys name.
        notes: told how many keys have rows in the log that differ.

    Raises:
        BadInput: the file, a column or a value is wrong, or a key stands in a table of its own twice.
    """
    if path is None:
        return _latest(TableSource(schema.log.path, _names(wanted)), wanted, who, notes)
    return _own(path, wanted, notes)


def _own(path: Path, wanted: Readers, notes: Notes) -> pa.Table:
    """A table that names each key once; ``notes`` records what else is in its folder.

    Raises:
        BadInput: it does not.
    """
    source = TableSource(path, _names(wanted))
    source.note_others(notes)
    tables, places, before = [], [], 0
    for rows in source.batches():
        tables.append(pa.table({name: read(rows.column(column)) for name, (column, read) in wanted.items()}))
        places.append((before, rows.file, rows.first_row))
        before += len(rows)
    table = pa.concat_tables(tables).combine_chunks()
    key = table[KEY].combine_chunks()
    first = np.asarray(pc.index_in(key, value_set=key))  # where each key stands first
    twice = np.flatnonzero(first != np.arange(len(key)))
    if len(twice):
        row = int(twice[0])
        before, file, first_row = next(place for place in reversed(places) if place[0] <= row)
        raise BadInput(
            f"The column {wanted[KEY][0]!r} of {file} must name each row once; {key[row].as_py()!r} in "
            f"{row_said(first_row + row - before + 1, str(file))} was there before."
        )
    return table


def _names(wanted: Readers) -> list[str]:
    return [column for column, _ in wanted.values()]


def _latest(source: TableSource, wanted: Readers, who: str, notes: Notes) -> pa.Table:
    """The last row of each key in the log; repeated values are held once."""
    parts: list[pa.Table] = []
    names, before = list(wanted), 0
    for rows in source.batches():
        columns = {name: read(rows.column(column)) for name, (column, read) in wanted.items()}
        parts.append(_distinct([pa.table(columns | {ROW: np.arange(before, before + len(rows))})], names))
        before += len(rows)
        if len(parts) > 1 and sum(map(len, parts)) > MERGE_AT:
            parts = [_distinct(parts, names)]
    table = _distinct(parts, names).sort_by([(ROW, "descending")]).combine_chunks()
    key = table[KEY].combine_chunks()
    last = np.asarray(pc.index_in(key, value_set=key)) == np.arange(len(key))
    differ = pc.unique(key.filter(pa.array(~last)))
    notes.add(f"{who}_whose_columns_change_in_the_log_of_which_the_last_row_counts", len(differ), first_of(differ))
    return table.filter(pa.array(last))


def _distinct(parts: list[pa.Table], names: list[str]) -> pa.Table:
    """Rows that differ in more than their number, each with its last number."""
    every = pa.concat_tables(parts).group_by(names).aggregate([(ROW, "max")])
    return every.select([*names, f"{ROW}_max"]).rename_columns([*names, ROW])


def _ids_of_images(images: ImageTable, image: Int64Array, notes: Notes) -> dict[str, pa.Array]:
    """Id columns of the image table, by item; null where an item has no image, or its image no row."""
    wanted: Readers = {KEY: (images.image, _full_image_column)} | {ID + name: (name, keys) for name in images.ids}
    table = _own(images.path, wanted, notes)
    shown = pa.array(image, mask=image == NULL_IMAGE)
    row = pc.index_in(shown, value_set=table[KEY].combine_chunks())
    absent = shown.filter(pc.and_(pc.is_valid(shown), pc.is_null(row)))
    if len(absent) and not row.drop_null():
        raise BadInput(
            f"Not one image of the items is in {images.path}; the first that is not is {first_of(absent)}. Check that "
            f"{images.image!r} holds the image ids of the items."
        )
    notes.add("items_whose_image_is_not_in_the_image_table", len(absent), first_of(absent))
    return {name: table[ID + name].combine_chunks().take(row) for name in images.ids}


def _ids_of_names(manifest: Path, names: pa.Array, notes: Notes) -> Int64Array:
    """The ids that a manifest gives to names of images; a name, unlike a key, may have a folder and a suffix."""
    known = ImageNames.read(manifest)
    found = known.find(names)
    absent = names.filter(pc.and_(pc.is_valid(names), pa.array(found == NULL_IMAGE)))
    near = known.near(pc.unique(absent))
    if len(absent) == len(names) - names.null_count and len(absent):
        raise BadInput(
            f"Not one image of the items is in the manifest {manifest}, whose first key is {known.first!r}; the "
            f"first that is not is {first_of(absent)!r}."
            f"{near_in_words(near, len(absent)) or ' Keys are names of files without folder and suffix.'}"
        )
    notes.add("items_whose_image_is_not_in_the_manifest", len(absent), first_of(absent))
    notes.add_near("names_of_images_that_the_manifest_has", near)
    return found
