"""The tables that a schema names, read and checked: impressions, and the attributes of items and users."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import NULL_IMAGE, Int64Array
from features.schema import Schema
from features.tables import flags, keys, read_table, seconds
from features.vocabulary import tokenize
from imgserver.errors import BadInput


@dataclass(frozen=True)
class Impressions:
    """The log, a column an attribute, all of one length.

    Attributes:
        user, item: keys as strings.
        time: shape (rows,), seconds.
        labels: label name -> shape (rows,).
    """

    user: pa.Array
    item: pa.Array
    time: Int64Array
    labels: dict[str, npt.NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.time)


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


def read_log(schema: Schema) -> tuple[Impressions, pa.Table]:
    """The log, and its columns for rules over it.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    log = schema.log
    rules = [*log.labels.values(), *(schema.behaviours.from_log.values() if schema.behaviours else ())]
    table = read_table(log.path, [log.user, log.item, log.time, *(rule.column for rule in rules)])
    user, item = keys(table, log.user), keys(table, log.item)
    for name, column in ((log.user, user), (log.item, item)):
        if column.null_count:
            raise BadInput(f"The column {name!r} of {log.path} has {column.null_count} empty cells.")
    labels = {name: flags(log.path, table, rule) for name, rule in log.labels.items()}
    return Impressions(user, item, seconds(log.path, table, log.time), labels), table


def read_items(schema: Schema) -> Attributes | None:
    """The item table, or None when the schema has none.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    items = schema.items
    if items is None:
        return None
    optional = [items.image] if items.image else []
    table = read_table(items.path, [items.item, *optional, *items.ids, *items.text])
    image = None
    if items.image:
        column = table[items.image].combine_chunks()
        if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            raise BadInput(
                f"The image column {items.image!r} of {items.path} is of type {column.type}; image ids are whole "
                f"numbers from 0 on, an empty cell means no image."
            )
        image = np.asarray(pc.fill_null(pc.cast(column, pa.int64()), NULL_IMAGE))
        if image.min() < NULL_IMAGE:
            raise BadInput(f"The image column {items.image!r} of {items.path} holds {image.min()}; ids start at 0.")
    text = {name: tokenize(table[name].combine_chunks()) for name in items.text}
    key = _unique_key(items.path, items.item, keys(table, items.item))
    return Attributes(key, {name: keys(table, name) for name in items.ids}, image, text)


def read_users(schema: Schema) -> Attributes | None:
    """The user table, or None when the schema has none.

    Raises:
        BadInput: the file, a column or a value is wrong.
    """
    users = schema.users
    if users is None:
        return None
    table = read_table(users.path, [users.user, *users.ids])
    key = _unique_key(users.path, users.user, keys(table, users.user))
    return Attributes(key, {name: keys(table, name) for name in users.ids})


def _unique_key(path: Path, name: str, key: pa.Array) -> pa.Array:
    if key.null_count or len(pc.unique(key)) != len(key):
        raise BadInput(f"The column {name!r} of {path} must name each row once; it has empty or repeated cells.")
    return key
