"""Read attributes of items, users and images by key, from separate tables or from columns of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import NULL_IMAGE, Int64Array, Jagged
from crossmedia.features.cells import alone, entries, fractions_in, full_id_keys, id_keys, joined, parted
from crossmedia.features.encoding import Encoding
from crossmedia.features.numbers import Float64Array, numbers
from crossmedia.features.spec import Columns, ImageTable, Items, Schema
from crossmedia.features.writing.notes import Notes, first_of
from crossmedia.features.writing.tables import TableSource
from crossmedia.features.writing.words import WordLists
from crossmedia.forms import near_in_words
from crossmedia.keys import Column, full_image_ids, image_ids, keys, texts
from crossmedia.list_cells import is_list
from crossmedia.names import ImageNames
from crossmedia.words import row_said

MERGE_AT = 4_000_000
KEY, IMAGE, ROW, ID, NUMBER, LIST, TEXT = "key:", "image:", "row:", "id:", "number:", "list:", "text:"
GROUP = "group:"
Readers = dict[str, tuple[str, Callable[[Column], pa.Array]]]


@dataclass(frozen=True)
class Attributes:
    """Attributes by row of a table; ``rows`` finds the row of a key, -1 where there is none.

    Attributes:
        key: shape (n,).
        ids: column -> keys, null where there is none, shape (n,).
        numbers: column -> shape (n,), nan where there is none.
        lists: column -> n rows of words: lists, and tokens of texts.
        images: n rows of image ids, in order, without the null image; None without images.
        group: of the column that items are held out by, keys, null where there is none, shape (n,); None without one.
    """

    key: pa.Array
    ids: dict[str, pa.Array]
    numbers: dict[str, Float64Array] = field(default_factory=dict)
    lists: dict[str, WordLists] = field(default_factory=dict)
    images: Jagged | None = None
    group: pa.Array | None = None

    def rows(self, raw: pa.Array) -> Int64Array:
        """The row of each key, shape (n,), -1 where there is none."""
        found = pc.index_in(raw, value_set=self.key)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64)


def read_items(schema: Schema, encoding: Encoding, notes: Notes) -> Attributes | None:
    """The attributes of items, or None when the schema has none; ``notes`` records what is odd in them.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    items = schema.items
    if items is None:
        return None
    wanted: Readers = {KEY: (items.item, full_id_keys)} | readers(items.columns)
    read_images = _several(keys if items.image_manifest else _image_ids)
    wanted |= {IMAGE + name: (name, read_images) for name in items.images}
    if by := schema.split.hold_out_by:
        wanted[GROUP] = by, id_keys
    table = _read(schema, items.path, wanted, "items", notes)
    found = _attributes(table, items.columns, encoding, "items", notes)
    if by:
        found = replace(found, group=table[GROUP].combine_chunks())
    if not items.images:
        return found
    images = _images(table, items, notes)
    if not len(images.values):
        notes.add("items_of_which_not_one_has_an_image", len(images))
    ids = found.ids | (_ids_of_images(schema.images, images, notes) if schema.images is not None else {})
    return replace(found, ids=ids, images=images)


def read_users(schema: Schema, encoding: Encoding, notes: Notes) -> Attributes | None:
    """The attributes of users, or None when the schema has none.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    users = schema.users
    if users is None:
        return None
    wanted: Readers = {KEY: (users.user, full_id_keys)} | readers(users.columns)
    return _attributes(_read(schema, users.path, wanted, "users", notes), users.columns, encoding, "users", notes)


def readers(columns: Columns) -> Readers:
    """What reads the columns of a table."""
    wanted: Readers = {ID + name: (name, id_keys) for name in columns.ids}
    wanted |= {NUMBER + name: (name, _nullable_numbers) for name in columns.numbers}
    wanted |= {LIST + name: (name, _entries_by(between)) for name, between in columns.lists.items()}
    return wanted | {TEXT + name: (name, texts) for name in columns.text}


def _attributes(table: pa.Table, columns: Columns, encoding: Encoding, who: str, notes: Notes) -> Attributes:
    ids = {name: table[ID + name].combine_chunks() for name in columns.ids}
    for name, found in ids.items():
        note_fractions(name, found, notes)
    scaled = {name: as_floats(table[NUMBER + name]) for name in columns.numbers}
    lists = {name: WordLists.of(table[LIST + name].chunks) for name in columns.lists}
    lists |= {name: WordLists.of(map(encoding.tokenizer(name), table[TEXT + name].chunks)) for name in columns.text}
    empty = [name for name, found in ids.items() if found.null_count == len(found)]
    empty += [name for name, values in scaled.items() if np.isnan(values).all()]
    note_empty(who, len(table), [*empty, *(name for name, found in lists.items() if not len(found.words))], notes)
    return Attributes(table[KEY].combine_chunks(), ids, scaled, lists)


def note_empty(who: str, count: int, columns: Iterable[str], notes: Notes) -> None:
    """Note columns in which nothing stands: empty cells, nan alone, lists of nulls, titles without a word."""
    for name in columns:
        kind = f"{who}_of_which_not_one_has_anything_in_the_column_{name}"
        notes.add(kind, count, f"no model learns anything of {name!r}")
        notes.remedy[kind] = "leave it out of the schema, or fill its cells"


def note_fractions(name: str, found: pa.Array, notes: Notes) -> None:
    """Note ids that are all numbers, with fractions among them, as CSV gives them."""
    if broken := fractions_in(found):
        kind = f"values_of_the_id_column_{name}_that_are_fractions"
        notes.add(kind, broken, "each value is an id of its own")
        notes.remedy[kind] = f'if they are numbers, write numbers = {{ {name} = "standard" }}'


def as_floats(column: pa.ChunkedArray) -> Float64Array:
    """A column of numbers, nan where there is none."""
    return np.asarray(pc.fill_null(column, np.nan).combine_chunks(), dtype=np.float64)


def _nullable_numbers(column: Column) -> pa.Array:
    return pa.array(numbers(column), from_pandas=True)


def _entries_by(separator: str) -> Callable[[Column], pa.Array]:
    return lambda column: entries(column, separator)


def _several(read: Callable[[Column], pa.Array]) -> Callable[[Column], pa.Array]:
    """Reads a column of lists, or one of a key a cell."""
    return lambda c: entries(c, read=read) if is_list(c.plain().values.type) else alone(read(c))


def _image_ids(column: Column) -> pa.Array:
    found = image_ids(column, "; for names give image_manifest too")
    return pa.array(found, mask=found == NULL_IMAGE)


def _full_image_column(column: Column) -> pa.Array:
    return pa.array(full_image_ids(column))


def _images(table: pa.Table, items: Items, notes: Notes) -> Jagged:
    """Images of each item, in the order of the columns and, within one, of its list."""
    each = [_image_column(name, table[IMAGE + name], items.image_manifest, notes) for name in items.images]
    rows = np.concatenate([np.repeat(np.arange(len(table)), one.lengths) for one in each])
    found = np.concatenate([one.values for one in each])
    if len(each) > 1:
        order = np.argsort(rows, kind="stable")
        rows, found = rows[order], found[order]
    there = found != NULL_IMAGE
    return Jagged.of_lengths(found[there], np.bincount(rows[there], minlength=len(table)).astype(np.int64))


def _image_column(name: str, column: pa.ChunkedArray, manifest: Path | None, notes: Notes) -> Jagged:
    """Image ids of each item in one column; ``NULL_IMAGE`` where a name has none."""
    if manifest is None:
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
        return Jagged.of_lengths(np.asarray(pc.list_flatten(column)).astype(np.int64), lengths)
    words = WordLists.of(column.chunks)
    counts = np.bincount(words.codes.values, minlength=len(words.words))
    ids = _ids_of_names(name, manifest, words.words, counts, notes)
    return Jagged(ids[words.codes.values], words.codes.offsets)


def _read(schema: Schema, path: str | None, wanted: Readers, who: str, notes: Notes) -> pa.Table:
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


def _own(path: str, wanted: Readers, notes: Notes) -> pa.Table:
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
    table = pa.concat_tables(tables)
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
    names, before, types = list(wanted), 0, pa.schema([])
    for rows in source.batches():
        columns = {name: read(rows.column(column)) for name, (column, read) in wanted.items()}
        read_rows = pa.table(columns | {ROW: np.arange(before, before + len(rows))})
        types = read_rows.schema
        parts.append(_distinct([_without_lists(read_rows)], names))
        before += len(rows)
        if len(parts) > 1 and sum(map(len, parts)) > MERGE_AT:
            parts = [_distinct(parts, names)]
    table = _distinct(parts, names).sort_by([(ROW, "descending")]).combine_chunks()
    key = table[KEY].combine_chunks()
    last = np.asarray(pc.index_in(key, value_set=key)) == np.arange(len(key))
    differ = pc.unique(key.filter(pa.array(~last)))
    notes.add(f"{who}_whose_columns_change_in_the_log_of_which_the_last_row_counts", len(differ), first_of(differ))
    return _with_lists(table.filter(pa.array(last)).combine_chunks(), types)


def _distinct(parts: list[pa.Table], names: list[str]) -> pa.Table:
    """Rows that differ in more than their number, each with its last number."""
    every = pa.concat_tables(parts).group_by(names).aggregate([(ROW, "max")])
    return every.select([*names, f"{ROW}_max"]).rename_columns([*names, ROW])


def _without_lists(table: pa.Table) -> pa.Table:
    """A table whose lists are texts."""
    for number, kind in enumerate(table.schema.types):
        if is_list(kind):
            text = pa.chunked_array([joined(chunk) for chunk in table[number].chunks], pa.string())
            table = table.set_column(number, table.column_names[number], text)
    return table


def _with_lists(table: pa.Table, types: pa.Schema) -> pa.Table:
    """A table whose lists were texts."""
    for number, kind in enumerate(types.types):
        if is_list(kind):
            lists = pc.cast(parted(table[number].combine_chunks()), kind)
            table = table.set_column(number, table.column_names[number], lists)
    return table


def _ids_of_images(table_of: ImageTable, images: Jagged, notes: Notes) -> dict[str, pa.Array]:
    """Id columns of the image table, by item, of its first image; null where it has none, or its image no row."""
    wanted: Readers = {KEY: (table_of.image, _full_image_column)}
    wanted |= {ID + name: (name, id_keys) for name in table_of.ids}
    table = _own(table_of.path, wanted, notes)
    none = images.lengths == 0
    first = np.append(images.values, NULL_IMAGE)[np.where(none, -1, images.offsets[:-1])]
    shown = pa.array(first, mask=none)
    row = pc.index_in(shown, value_set=table[KEY].combine_chunks())
    absent = shown.filter(pc.and_(pc.is_valid(shown), pc.is_null(row)))
    if len(absent) and not row.drop_null():
        raise BadInput(
            f"Not one image of the items is in {table_of.path}; the first that is not is {first_of(absent)}. Check "
            f"that {table_of.image!r} holds the image ids of the items."
        )
    notes.add("items_whose_image_is_not_in_the_image_table", len(absent), first_of(absent))
    return {name: table[ID + name].combine_chunks().take(row) for name in table_of.ids}


def _ids_of_names(column: str, manifest: Path, names: pa.Array, counts: Int64Array, notes: Notes) -> Int64Array:
    """The ids that a manifest gives to names of images; a name, unlike a key, may have a folder and a suffix.

    Args:
        column: that holds the names.
        manifest: a file.
        names: each once, shape (n,).
        counts: how often each stands there, shape (n,).
        notes: told what the manifest lacks.
    """
    known = ImageNames.read(manifest)
    found = known.find(names)
    absent = names.filter(pa.array(found == NULL_IMAGE))
    near = known.near(absent)
    if len(absent) == len(names) and len(absent):
        raise BadInput(
            f"Not one image of the column {column!r} is in the manifest {manifest}, whose first key is "
            f"{known.first!r}; the first that is not is {first_of(absent)!r}."
            f"{near_in_words(near, len(absent)) or ' Keys are names of files without folder and suffix.'}"
        )
    without = int(counts[found == NULL_IMAGE].sum())
    notes.add("images_of_items_that_are_not_in_the_manifest", without, first_of(absent))
    notes.add_near("names_of_images_that_the_manifest_has", near)
    return found
