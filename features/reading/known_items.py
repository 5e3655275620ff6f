"""Items that requests name by their id alone: what each has is read once, from samples or from a table of raw values.

Legend: I items, n items of a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.disk import open_regular
from crossmedia.errors import BadInput
from crossmedia.features.batch import NO_ROW, Float32Array, Int64Array, Jagged, join
from crossmedia.features.columns import IMAGE, ITEM, key_column
from crossmedia.features.slices import column, list_values
from crossmedia.features.spec import BY_IMAGE
from crossmedia.keys import Column, full_keys

RAW = "raw_item_id"  # of the item table of samples: the id as the log has it


@dataclass(frozen=True)
class ItemColumns:
    """What a model is given of an item.

    Attributes:
        ids, numbers, lists, text: columns.
        images: whether items have images.
        spaces: name -> ``image`` or ``item``, what its vectors are keyed by.
    """

    ids: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    images: bool = False
    spaces: Mapping[str, str] | None = None

    @property
    def keyed(self) -> list[str]:
        """``image`` where items have images, and the names of spaces that are keyed by item."""
        by_item = [name for name, key in (self.spaces or {}).items() if key != BY_IMAGE]
        return [*([IMAGE] if self.images else []), *by_item]

    @property
    def raw(self) -> list[str]:
        """The columns of raw values, ``item_id`` first."""
        return [*self.ids, *self.numbers, *self.lists, *self.text, *([IMAGE] if self.images else [])]


@dataclass(frozen=True)
class ItemValues:
    """What some items have, as a model takes it.

    Attributes:
        ids: column -> places, shape (n,).
        numbers: column -> shape (n,), nan where one is missing.
        lists, text: column -> places, n rows.
        keys: ``image``, or a space that is keyed by item -> keys of vectors, n rows.
    """

    ids: dict[str, Int64Array]
    numbers: dict[str, Float32Array]
    lists: dict[str, Jagged]
    text: dict[str, Jagged]
    keys: dict[str, Jagged]

    def take(self, rows: Int64Array) -> ItemValues:
        """Those of some of the items."""
        return ItemValues(
            {name: values[rows] for name, values in self.ids.items()},
            {name: values[rows] for name, values in self.numbers.items()},
            *({name: lists.take(rows) for name, lists in of.items()} for of in (self.lists, self.text, self.keys)),
        )

    @classmethod
    def joined(cls, parts: Sequence[ItemValues]) -> ItemValues:
        """Those of several, in order."""
        if len(parts) == 1:
            return parts[0]

        def arrays(of: Callable[[ItemValues], Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
            return {name: np.concatenate([of(part)[name] for part in parts]) for name in of(parts[0])}

        def lists(of: Callable[[ItemValues], Mapping[str, Jagged]]) -> dict[str, Jagged]:
            return {name: join([of(part)[name] for part in parts]) for name in of(parts[0])}

        return cls(
            arrays(lambda part: part.ids),
            arrays(lambda part: part.numbers),
            lists(lambda part: part.lists),
            lists(lambda part: part.text),
            lists(lambda part: part.keys),
        )

    @classmethod
    def unknown(cls, columns: ItemColumns) -> ItemValues:
        """One item of which nothing is known."""
        none = Jagged(np.zeros(0, dtype=np.int64), np.zeros(2, dtype=np.int64))
        return cls(
            {name: np.zeros(1, dtype=np.int64) for name in columns.ids},
            {name: np.full(1, np.nan, dtype=np.float32) for name in columns.numbers},
            dict.fromkeys(columns.lists, none),
            dict.fromkeys(columns.text, none),
            dict.fromkeys(columns.keyed, none),
        )


class KnownItems:
    """Items by id.

    Args:
        names: ids as the log has them, I of them.
        values: of these items, and of one more that is unknown.
        what: they are from, for messages.

    Raises:
        BadInput: two have one id.
    """

    def __init__(self, names: pa.Array, values: ItemValues, what: str):
        self._rows = {name: row for row, name in enumerate(names.to_pylist())}
        if len(self._rows) < len(names):
            twice = next(name for name, count in Counter(names.to_pylist()).items() if count > 1)
            raise BadInput(f"{what} has two rows of the item {twice!r}. Keep one of them.")
        self._values = values

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, names: Iterable[str | None]) -> tuple[ItemValues, Int64Array]:
        """What some items have, and their rows, shape (n,), -1 for those that are not there."""
        rows = np.array([self._rows.get(name, NO_ROW) for name in names], dtype=np.int64)
        return self._values.take(rows), rows  # row -1 is the last, which is unknown


def known_items(
    table: pa.Table,
    columns: ItemColumns,
    encode: Callable[[Mapping[str, Column]], ItemValues],
    vocabulary_hash: str,
    what: str,
) -> KnownItems:
    """Items of a table: as ``features build`` wrote them, or raw values.

    Args:
        table: a row an item.
        columns: that a model knows.
        encode: turns raw values into what a model takes.
        vocabulary_hash: of the model.
        what: the table is, for messages.

    Raises:
        BadInput: it is of other samples, lacks a column, or holds a value that is not what its column takes.
    """
    if RAW in table.column_names:
        return _of_samples(table, columns, vocabulary_hash, what)
    return _of_raw(table, columns, encode, what)


def _of_samples(table: pa.Table, columns: ItemColumns, vocabulary_hash: str, what: str) -> KnownItems:
    found = (table.schema.metadata or {}).get(b"vocabulary_hash", b"").decode()
    if found != vocabulary_hash:
        raise BadInput(
            f"{what} is of samples with the vocabulary {found or 'none'}; the model was trained with "
            f"{vocabulary_hash}. Give the one of its samples, or a table of raw values."
        )
    keyed = {name: IMAGE if name == IMAGE else key_column(name) for name in columns.keyed}
    needed = [RAW, *columns.ids, *columns.numbers, *columns.lists, *columns.text, *keyed.values()]
    if lacking := [name for name in needed if name not in table.column_names]:
        raise BadInput(f"{what} lacks the column {lacking[0]!r}, which the model knows. Build the samples again.")
    try:
        values = ItemValues(
            {name: np.asarray(column(table, name)).astype(np.int64) for name in columns.ids},
            {name: np.asarray(column(table, name)).astype(np.float32) for name in columns.numbers},
            {name: _jagged(column(table, name)) for name in columns.lists},
            {name: _jagged(column(table, name)) for name in columns.text},
            {name: _jagged(column(table, stored)) for name, stored in keyed.items()},
        )
        return KnownItems(column(table, RAW), ItemValues.joined([values, ItemValues.unknown(columns)]), what)
    except (TypeError, ValueError, pa.ArrowException) as error:  # a column of another type
        raise BadInput(
            f"{what} has items that are not as 'features build' writes them ({error}). Build the samples again."
        ) from error


def _of_raw(
    table: pa.Table, columns: ItemColumns, encode: Callable[[Mapping[str, Column]], ItemValues], what: str
) -> KnownItems:
    if lacking := [name for name in columns.raw if name not in table.column_names]:
        raise BadInput(f"{what} lacks the column {lacking[0]!r}. The model knows of an item: {', '.join(columns.raw)}.")
    given = {name: Column(table[name].combine_chunks(), name, what) for name in columns.raw}
    values = ItemValues.joined([encode(given), ItemValues.unknown(columns)])
    return KnownItems(full_keys(given[ITEM]), values, what)


def read_items(path: Path) -> pa.Table:
    """A table of items.

    Raises:
        BadInput: it is no Parquet file that can be read.
    """
    try:
        with open_regular(path) as file:
            return pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"The items {path} cannot be read: {error}. They must be a Parquet file.") from error


def _jagged(values: Any) -> Jagged:
    """A column of lists, or of keys where -1 is none."""
    if pa.types.is_list(values.type):
        offsets = np.asarray(values.offsets).astype(np.int64)
        return Jagged(list_values(values).astype(np.int64), offsets - offsets[0])
    keys = np.asarray(values).astype(np.int64)
    return Jagged.of_lengths(keys[keys >= 0], (keys >= 0).astype(np.int64))
