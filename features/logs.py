"""The tables that a schema names, checked: logs as streams, attributes of items and users whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.batch import NULL_IMAGE, Int64Array
from features.schema import Images, Items, Schema
from features.tables import Source, flags, full_keys, keys, seconds
from features.vocabulary import tokenize
from imgserver.errors import BadInput

LABEL, DID = "label:", "did:"


def log_source(schema: Schema) -> Source:
    """The log's file or folder.

    Raises:
        BadInput: it is missing, or lacks a column.
    """
    log = schema.log
    rules = [*log.labels.values(), *(schema.behaviours.from_log.values() if schema.behaviours else ())]
    columns = [rule.column for rule in rules if rule.column]
    return Source(log.path, [log.user, log.item], [log.time, *columns], columns)


def stream_log(schema: Schema, source: Source) -> Iterator[pa.Table]:
    """Impressions, some at a time.

    Yields:
        ``row`` (its number in the log), ``user`` and ``item`` (strings), ``time`` (seconds), ``label:<name>`` and
        ``did:<action>`` (whether a rule holds).

    Raises:
        BadInput: a value is wrong; the message names file, column and row.
    """
    log, first = schema.log, 0
    for table in source.batches():
        columns = {
            "row": np.arange(first, first + len(table)),
            "user": full_keys(log.path, table, log.user, first),
            "item": full_keys(log.path, table, log.item, first),
            "time": seconds(log.path, table, log.time, first),
        }
        columns |= {LABEL + name: flags(log.path, table, rule, first) for name, rule in log.labels.items()}
        if schema.behaviours:
            rules = schema.behaviours.from_log.items()
            columns |= {DID + name: flags(log.path, table, rule, first) for name, rule in rules}
        first += len(table)
        yield pa.table(columns)


def behaviour_source(schema: Schema) -> Source | None:
    """The behaviours' own file or folder; None when they come from the log, or there are none.

    Raises:
        BadInput: it is missing, or lacks a column.
    """
    found = schema.behaviours
    if found is None or found.path is None:
        return None
    return Source(found.path, [found.user, found.item, found.action], [found.time])


def stream_behaviours(schema: Schema, source: Source) -> Iterator[pa.Table]:
    """Behaviours of a log of their own, some at a time: ``user``, ``item``, ``action`` (strings), ``time`` (seconds).

    Rows without a user, item or action are left out.

    Raises:
        BadInput: a time is wrong.
    """
    found, first = schema.behaviours, 0
    assert found is not None
    for table in source.batches():
        columns = {"user": keys(table, found.user), "item": keys(table, found.item)}
        columns["action"] = keys(table, found.action)
        at = seconds(source.path, table, found.time, first)
        first += len(table)
        yield pa.table({**columns, "time": at}).drop_null()


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


def read_items(schema: Schema, notes: dict[str, int]) -> Attributes | None:
    """The item table, or None when the schema has none; image names that have no id are counted in ``notes``.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    items = schema.items
    if items is None:
        return None
    image_key = [items.image] if items.image and items.image_manifest else []
    image_id = [items.image] if items.image and not items.image_manifest else []
    source = Source(items.path, [items.item, *items.ids, *items.text, *image_key], image_id)
    table = source.read()
    image = _images(items, table, notes) if items.image else None
    text = {name: tokenize(table[name].combine_chunks()) for name in items.text}
    key = _unique_key(items.path, items.item, keys(table, items.item))
    ids = {name: keys(table, name) for name in items.ids}
    if schema.images is not None and image is not None:
        ids |= _ids_of_images(schema.images, image, notes)
    return Attributes(key, ids, image, text)


def _ids_of_images(images: Images, image: Int64Array, notes: dict[str, int]) -> dict[str, pa.Array]:
    """Id columns of the image table, by item; null where an item has no image, or its image no row."""
    table = Source(images.path, [images.image, *images.ids]).read()
    key = _unique_key(images.path, images.image, keys(table, images.image))
    shown = pa.array(image, mask=image == NULL_IMAGE).cast(pa.string())
    row = pc.index_in(shown, value_set=key)
    if absent := len(shown) - shown.null_count - int(pc.count(row).as_py()):
        notes["items_whose_image_is_not_in_the_image_table"] = absent
    return {name: keys(table, name).take(row) for name in images.ids}


def _images(items: Items, table: pa.Table, notes: dict[str, int]) -> Int64Array:
    """Image ids, shape (rows,), ``NULL_IMAGE`` where the cell is empty."""
    assert items.image is not None
    if items.image_manifest is not None:
        return _ids_of_names(items.image_manifest, keys(table, items.image), notes)
    column = table[items.image].combine_chunks()
    if pa.types.is_floating(column.type):  # what pandas makes of whole numbers with empty cells
        column = pc.cast(column, pa.int64(), safe=False) if _whole(column) else column
    if pa.types.is_string(column.type) and _digits(column):  # the item's own key, which is read as a string
        column = pc.cast(column, pa.int64())
    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise BadInput(
            f"The image column {items.image!r} of {items.path} is of type {column.type}; image ids are whole "
            f"numbers from 0 on, an empty cell means no image. For names, give image_manifest too."
        )
    image = np.asarray(pc.fill_null(pc.cast(column, pa.int64()), NULL_IMAGE))
    if image.min() < NULL_IMAGE:
        raise BadInput(f"The image column {items.image!r} of {items.path} holds {image.min()}; ids start at 0.")
    return image


def _whole(column: pa.Array) -> bool:
    return bool(pc.all(pc.equal(column, pc.floor(column))).as_py())


def _digits(column: pa.Array) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, "^[0-9]{1,18}$")).as_py())


def _ids_of_names(manifest: Path, names: pa.Array, notes: dict[str, int]) -> Int64Array:
    try:
        table = pq.read_table(manifest, columns=["image_id", "key"])
    except (OSError, pa.ArrowException) as error:
        raise BadInput(
            f"The manifest {manifest} cannot be read: {error}. 'imgserver manifest' writes one with the columns "
            f"image_id and key."
        ) from error
    place = pc.index_in(names, value_set=table["key"].combine_chunks().cast(pa.string()))
    found = pc.fill_null(table["image_id"].combine_chunks().take(place), NULL_IMAGE)
    if absent := len(names) - names.null_count - int(pc.count(place).as_py()):
        notes["items_whose_image_is_not_in_the_manifest"] = absent
    return np.asarray(pc.cast(found, pa.int64()))


def read_users(schema: Schema) -> Attributes | None:
    """The user table, or None when the schema has none.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    users = schema.users
    if users is None:
        return None
    table = Source(users.path, [users.user, *users.ids]).read()
    key = _unique_key(users.path, users.user, keys(table, users.user))
    return Attributes(key, {name: keys(table, name) for name in users.ids})


def _unique_key(path: Path, name: str, key: pa.Array) -> pa.Array:
    if key.null_count or len(pc.unique(key)) != len(key):
        raise BadInput(f"The column {name!r} of {path} must name each row once; it has empty or repeated cells.")
    return key
