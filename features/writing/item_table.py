"""Write the item table: a row for each item that the samples show, with everything that the item has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia.errors import BadInput
from crossmedia.features.batch import NULL_IMAGE, Int64Array, Jagged
from crossmedia.features.columns import GROUP, IMAGE, ITEM, key_column
from crossmedia.features.layout import ITEMS_FILE
from crossmedia.features.spec import BY_ITEM, Schema, VectorSpace
from crossmedia.features.vocabulary import HASHED_AT_ONCE, Vocabularies
from crossmedia.features.writing.attributes import Attributes
from crossmedia.features.writing.hold_out import HoldOut, codes
from crossmedia.features.writing.notes import Notes, first_of
from crossmedia.forms import near_in_words
from crossmedia.keys import is_number
from crossmedia.names import ImageNames

MOST_ENTRIES = 2**31 - 1  # of a list column in Arrow


class ItemTable:
    """The items of the samples, those of the vocabulary first and in its order.

    Args:
        schema: names of columns.
        vocabulary: places, and scales of numbers.
        items: attributes; None without any.
        shown: keys of the items that the samples show, each once.
        hold_out: which of them are held out.
        notes: told which items a manifest does not name.

    Attributes:
        keys: of the rows, shape (rows,).
        places: id column -> shape (rows,), int32.

    Raises:
        BadInput: items have no keys for a space of vectors.
    """

    def __init__(
        self,
        schema: Schema,
        vocabulary: Vocabularies,
        items: Attributes | None,
        shown: pa.Array,
        hold_out: HoldOut,
        notes: Notes,
    ):
        shown = shown.take(pc.sort_indices(shown))
        place = vocabulary.encode(ITEM, shown)
        order = np.argsort(np.where(place == 0, len(vocabulary.values[ITEM]) + 1, place), kind="stable")
        self.keys = shown.take(pa.array(order))
        self.places = {ITEM: place[order].astype(np.int32)}
        self._columns: dict[str, Any] = {"raw_item_id": self.keys}
        if schema.split.hold_out_items:
            self._columns["held_out"] = hold_out(self.keys).astype(np.int8)
        self.row_of_attributes = None if items is None else items.rows(self.keys)
        if items is not None and self.row_of_attributes is not None:
            self._add(schema, vocabulary, items, self.row_of_attributes)
        for name, space in schema.vectors.items():
            if space.key == BY_ITEM:
                self._columns[key_column(name)] = _item_keys(name, space, self.keys, notes)

    def _add(self, schema: Schema, vocabulary: Vocabularies, items: Attributes, rows: Int64Array) -> None:
        for name, found in items.ids.items():
            self.places[name] = np.append(vocabulary.encode(name, found), 0)[rows].astype(np.int32)
        for name, numbers in items.numbers.items():
            scale, values = vocabulary.encoding.numbers[name], np.append(numbers, np.nan)[rows]
            if scale.in_buckets:
                self.places[name] = scale.places(values).astype(np.int32)
            else:
                self._columns[name] = scale.scale(values)
        for name, lists in items.lists.items():
            self._columns[name] = as_arrow(_of_rows(lists.places(name, vocabulary), rows), np.int32)
        if items.group is not None:
            self._columns[GROUP] = np.append(codes(items.group), -1)[rows].astype(np.int32)
        if items.images is not None:
            self._columns[IMAGE] = as_arrow(_of_rows(items.images, rows), np.int64)

    @property
    def hash(self) -> str:
        """12 hex digits of sha256 over the keys, in their order."""
        sha = hashlib.sha256()
        for start in range(0, len(self.keys), HASHED_AT_ONCE):
            sha.update("\n".join(self.keys.slice(start, HASHED_AT_ONCE).to_pylist()).encode() + b"\n")
        return sha.hexdigest()[:12]

    def rows(self, keys: pa.Array) -> npt.NDArray[np.int32]:
        """The row of each item, shape (n,), int32; -1 for one that the samples do not show."""
        return np.asarray(pc.fill_null(pc.index_in(keys, value_set=self.keys), -1))

    def write(self, folder: Path, metadata: dict[str, str]) -> None:
        """Write the file."""
        table = pa.table(self.places | self._columns).replace_schema_metadata(metadata)
        pq.write_table(table, folder / ITEMS_FILE, compression="zstd", write_page_checksum=True)


def _of_rows(lists: Jagged, rows: Int64Array) -> Jagged:
    """The lists of some rows; row -1 has an empty one."""
    longer = Jagged(lists.values, np.append(lists.offsets, lists.offsets[-1]))
    return longer.take(np.where(rows < 0, len(lists), rows))


def as_arrow(lists: Jagged, kind: type[np.integer[Any]]) -> pa.ListArray:
    """Lists as an Arrow column.

    Raises:
        BadInput: there are more entries than it can count.
    """
    if len(lists.values) > MOST_ENTRIES:
        raise BadInput(
            f"A column of lists or words has {len(lists.values):,} entries over all items, and {MOST_ENTRIES:,} can be "
            f"stored. Leave out what says least: rare tags, or long texts."
        )
    return pa.ListArray.from_arrays(pa.array(lists.offsets.astype(np.int32)), pa.array(lists.values.astype(kind)))


def _item_keys(name: str, space: VectorSpace, keys: pa.Array, notes: Notes) -> Int64Array:
    """The key of each item in a space, shape (n,), -1 where it has none.

    Raises:
        BadInput: keys are names and there is no manifest, or the manifest knows none of them.
    """
    if space.manifest is None:
        if (bad := np.asarray(pc.invert(is_number(keys)))).any():
            first = keys[int(np.argmax(bad))].as_py()
            raise BadInput(
                f"The space {name!r} is keyed by item, and the item {first!r} is no whole number from 0 to 2^63 - 1. "
                f"Give [vectors.{name}] the manifest that gives ids to names of items."
            )
        found: Int64Array = np.asarray(keys.cast(pa.int64()))
        if len(twice := np.flatnonzero(np.diff(np.sort(found)) == 0)):
            number = np.sort(found)[twice[0]]
            both = [key.as_py() for key in keys.filter(pa.array(found == number))]
            raise BadInput(
                f"The space {name!r} is keyed by item, and the items {both[0]!r} and {both[1]!r} are one number. Give "
                f"[vectors.{name}] a manifest, which tells names apart."
            )
        return found
    known = ImageNames.read(space.manifest)
    found = known.find(keys)
    absent = keys.filter(pa.array(found == NULL_IMAGE))
    if len(absent) == len(keys):
        near = near_in_words(known.near(absent), len(absent))
        raise BadInput(
            f"Not one item is in the manifest {space.manifest}, whose first key is {known.first!r}; the first item is "
            f"{first_of(absent)!r}.{near}"
        )
    notes.add(f"items_that_are_not_in_the_manifest_of_the_space_{name}", len(absent), first_of(absent))
    return found
