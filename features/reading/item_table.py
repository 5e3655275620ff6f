"""The item table of a folder of samples: what items have, by row, and the part of it that batches need.

Legend: I rows of the table, W items of a window of rows, U items of a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crossmedia.features.batch import BatchItems, Int64Array, Jagged, VectorKeys
from crossmedia.features.columns import GROUP, IMAGE, ITEM, key_column
from crossmedia.features.distinct import Flags, KeyVocabulary, distinct
from crossmedia.features.hold_out import Links, together
from crossmedia.features.layout import ITEMS_FILE, damaged, open_file
from crossmedia.features.meta import Meta
from crossmedia.features.slices import Slices, column, list_values
from crossmedia.features.spec import BY_IMAGE


class ItemTable:
    """What items have, in memory; it is read once, at the first use.

    Args:
        folder: of samples.
        meta: what it holds.
        images: places of image ids.

    Attributes:
        rows: I.
        ids: id column -> shape (I,), places.
        numbers: column -> shape (I,), float32.
        group: number of the group that an item is held out with, -1 for none, shape (I,); None without groups.
        lists, text: column -> which slice of values each row has, and the values.
        hidden_images: places of the images that were hidden, ascending.
        keys: key of a space (``image``, or the name of one that is keyed by item) -> the same, of vectors' keys.

    Raises:
        BadInput: the file cannot be read, or is of another build.
    """

    def __init__(self, folder: Path, meta: Meta, images: KeyVocabulary):
        self._folder, self._meta, self._images = folder, meta, images
        spaces = meta.space_of
        of = {IMAGE: IMAGE} if meta.has_images else {}
        of |= {name: key_column(name) for name, space in spaces.items() if space.key != BY_IMAGE}
        lists = (*meta.item_lists, *meta.item_text)
        group = [GROUP] if meta.hold_out_by else []
        table = self.read([*meta.item_ids, *meta.item_numbers, *lists, *of.values(), *group])
        self.rows = len(table)
        self.ids = {name: np.asarray(column(table, name)) for name in meta.item_ids}
        self._stored = self.ids[ITEM]  # also of those that are hidden later
        self.numbers = {name: np.asarray(column(table, name)) for name in meta.item_numbers}
        self.lists = {name: _sliced(column(table, name)) for name in meta.item_lists}
        self.text = {name: _sliced(column(table, name)) for name in meta.item_text}
        self.keys = {name: _sliced(column(table, found)) for name, found in of.items()}
        self.group = np.asarray(column(table, GROUP)).astype(np.int64) if group else None
        self.hidden_images = np.zeros(0, dtype=np.int64)
        self.space_keys = {name: IMAGE if space.key == BY_IMAGE else name for name, space in spaces.items()}

    def hide(self, unknown: npt.NDArray[np.bool_]) -> None:
        """Forget the ids of some items, and those of all of their images: both are place 0 from now on.

        Args:
            unknown: whether an item is one of them, by its place, shape (places,).
        """
        hidden = unknown[self.ids[ITEM]]
        self.ids = self.ids | {ITEM: np.where(hidden, 0, self.ids[ITEM])}
        if IMAGE in self.keys and hidden.any():
            slices, keys = self.keys[IMAGE]
            self.hidden_images = self._images.hide(keys[slices.entries(np.flatnonzero(hidden))[0]])

    def together(self, places: int) -> Int64Array:
        """Which items belong together, because they share images or a group: by place less 1, shape (places,).

        Args:
            places: items of the vocabulary.
        """
        links = [Links.of_codes(self.group)] if self.group is not None else []
        if IMAGE in self.keys:
            slices, keys = self.keys[IMAGE]
            entries, offsets = slices.entries(np.arange(self.rows))
            links.append(Links.of_images(Jagged(keys[entries], offsets)))
        of_row = together(self.rows, links)
        known = np.flatnonzero(self._stored > 0)
        place = self._stored[known].astype(np.int64) - 1
        first = np.full(self.rows, places)
        np.minimum.at(first, of_row[known], place)
        group = np.arange(places)
        group[place] = first[of_row[known]]
        return group

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns of the file.

        Raises:
            BadInput: it cannot be read, or is of another build.
        """
        with open_file(self._folder / ITEMS_FILE, self._meta.build) as file:
            try:
                return file.read(columns=columns).select(columns)
            except (OSError, pa.ArrowException, KeyError) as error:
                raise damaged(self._folder, error) from error

    def places_of(self, key: str, keys: Int64Array) -> Int64Array:
        """Places of vectors' keys in the image vocabulary; none where they are of items."""
        return self._images.places(keys) if key == IMAGE else np.zeros(0, dtype=np.int64)


Sliced = tuple[Slices, npt.NDArray[Any]]


def _sliced(values: Any) -> Sliced:
    """A column of lists, or of keys where -1 is none, as slices of values."""
    if pa.types.is_list(values.type):
        return Slices.of(values), list_values(values)
    keys = np.asarray(values)
    there = keys >= 0
    return Slices(np.cumsum(there) - there, there.astype(np.int64)), keys[there]


class WindowItems:
    """The items that a window of rows refers to, of which its batches have some.

    Args:
        table: of all items.
        target: row of the table of each row, shape (R,).
        history: the same of each behaviour, shape (M,).

    Attributes:
        target, history: index of each among the window's items.
    """

    def __init__(self, table: ItemTable, target: Int64Array, history: Int64Array):
        self._table = table
        self._rows, index = distinct(np.concatenate([target, history]))
        self.target, self.history = index[: len(target)], index[len(target) :]
        self._flags = Flags(len(self._rows))
        self._keys = {name: _WindowKeys(table, name, self._rows) for name in table.keys}

    def batch(self, target: Int64Array, history: Int64Array) -> tuple[BatchItems, Int64Array, Int64Array]:
        """The items of a batch.

        Args:
            target: index among the window's items of each row, shape (B,).
            history: the same of each history entry, shape (N,).

        Returns:
            The items, and the index of each target and each history entry among them.
        """
        found, (of_target, of_history) = self._flags.choose(target, history)
        table, rows = self._table, self._rows[found]
        keys = {name: window.batch(found) for name, window in self._keys.items()}
        items = BatchItems(
            rows,
            {name: values.take(rows).astype(np.int64) for name, values in table.ids.items()},
            {name: values.take(rows) for name, values in table.numbers.items()},
            {name: _taken(lists, rows) for name, lists in table.lists.items()},
            {name: _taken(lists, rows) for name, lists in table.text.items()},
            {name: keys[key] for name, key in table.space_keys.items()},
        )
        return items, of_target, of_history


class _WindowKeys:
    """Keys of vectors of a window's items: each once, with its place in the vocabulary.

    Args:
        table: of all items.
        name: of the keys.
        rows: the window's items, shape (W,).
    """

    def __init__(self, table: ItemTable, name: str, rows: Int64Array):
        slices, keys = table.keys[name]
        entries, offsets = slices.entries(rows)
        self._unique, self._index = distinct(keys[entries])
        self._places = table.places_of(name, self._unique)
        self._slices = Slices(offsets[:-1], np.diff(offsets))
        self._flags = Flags(len(self._unique))

    def batch(self, items: Int64Array) -> VectorKeys:
        """Those of some of the window's items, shape (U,)."""
        entries, offsets = self._slices.entries(items)
        found, (index,) = self._flags.choose(self._index[entries])
        places = self._places[found] if len(self._places) else self._places
        return VectorKeys(self._unique[found], places, Jagged(index, offsets))


def _taken(lists: Sliced, rows: Int64Array) -> Jagged:
    slices, values = lists
    entries, offsets = slices.entries(rows)
    return Jagged(values[entries].astype(np.int64), offsets)
