"""Items of the samples as a page names them: by their own ids, what they are of, and how much they have of concepts.

Legend: n items that are asked for, C concepts of all spaces together.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.columns import ITEM
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.report.opened import Opened
from crossmedia.trainer.tensors import Bag

MOST_ITEMS = 20_000  # that an item is compared with
NEAR = 5  # ids that are named where one is unknown
CATEGORIES = ("categ", "cate", "type", "class", "kind")  # in names of columns, the surest first
Places = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Category:
    """What an item is compared with.

    Attributes:
        column: of the items; empty: all items.
        value: of the column that they have in common.
        rows: of the item table, the item's own among them.
    """

    column: str
    value: str
    rows: Places


class Catalogue:
    """The items of the samples.

    Args:
        found: runs with their samples and vectors.
    """

    def __init__(self, found: Opened):
        self._found, self._samples, self._table = found, found.samples, found.samples.items

    @cached_property
    def names(self) -> list[str]:
        """The id of each row of the item table, as the log has it."""
        names: list[str] = self._table.read(["raw_item_id"])["raw_item_id"].to_pylist()
        return names

    def row(self, item: str) -> int:
        """The row of an item.

        Raises:
            BadInput: the samples have no such item.
        """
        place = pc.index(self._table.read(["raw_item_id"])["raw_item_id"], item).as_py()
        if place >= 0:
            return int(place)
        near = get_close_matches(item, self.names, n=NEAR, cutoff=0.6)
        raise BadInput(
            f"The samples in {self._samples.folder} have no item {item!r}. "
            + (f"Near ones: {', '.join(near)}." if near else "Give the id of an item, as the log has it.")
        )

    def columns(self, row: int) -> dict[str, str]:
        """What an item is, by the columns of ids and words that models see."""
        found = {}
        for name, places in self._table.ids.items():
            if name != ITEM and places[row]:
                found[name] = str(self._samples.vocabulary.values[name][int(places[row]) - 1].as_py())
        for name, (slices, tokens) in {**self._table.lists, **self._table.text}.items():
            words = self._samples.vocabulary.values[name]
            known = [words[int(place) - 1].as_py() for place in tokens[slices.entries(np.array([row]))[0]] if place]
            if known:
                found[name] = " ".join(map(str, known))
        return found

    def knows(self, row: int) -> bool:
        """Whether training has seen the item."""
        return bool(self._table.ids[ITEM][row] > 0)

    def photos(self, row: int) -> list[tuple[str, int]]:
        """Space and image id of each photo of an item."""
        space = self._found.image_space
        return [(space, image_id) for image_id in self._keys(space, np.array([row]))[0].tolist()] if space else []

    def category(self, row: int, column: str = "") -> Category:
        """The items that an item is compared with, drawn by seed where there are many.

        Args:
            row: of the item.
            column: of ids of items, which says the category; empty: the first whose name sounds like one.

        Raises:
            BadInput: items have no such column.
        """
        known = [name for name in self._table.ids if name != ITEM]
        if column and column not in known:
            there = ", ".join(known) or "none"
            raise BadInput(f"Items have no column {column!r} of ids; there are: {there}.{did_you_mean(column, known)}")
        sounding = [name for word in CATEGORIES for name in known if word in name.lower()]
        column = column or (sounding[0] if sounding else "")
        if column and (place := int(self._table.ids[column][row])):
            value = str(self._samples.vocabulary.values[column][place - 1].as_py())
            return Category(column, value, self._drawn(np.flatnonzero(self._table.ids[column] == place), row))
        return Category("", "", self._drawn(np.arange(self._table.rows), row))

    def everything(self, row: int) -> Places:
        """Rows of all items, drawn by seed where there are many, the item's own among them."""
        return self._drawn(np.arange(self._table.rows), row)

    def _drawn(self, rows: Places, own: int) -> Places:
        if len(rows) <= MOST_ITEMS:
            return rows
        drawn = np.random.default_rng(self._found.seed).choice(rows, MOST_ITEMS, replace=False)
        return np.union1d(drawn, [own])

    def amounts(self, rows: Places) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """How much items have of each concept, and whether they have a vector in its space, shape (n, C) each."""
        amounts, there = [], []
        for space in self._found.runs.lineage.versions:
            keys, owners = self._keys(space, rows)
            unique, index = np.unique(keys, return_inverse=True)
            vectors = self._found.spaces({space: unique})[space]
            bag = Bag(torch.from_numpy(index.reshape(-1)), torch.from_numpy(owners))
            mean, known = mean_vectors(vectors, bag, len(rows))
            amounts.append(mean.numpy())
            there.append(np.repeat(known.numpy()[:, None], mean.shape[1], axis=1))
        return np.concatenate(amounts, axis=1), np.concatenate(there, axis=1)

    def _keys(self, space: str, rows: Places) -> tuple[Places, Places]:
        """Keys of the vectors of some items in a space, and which of the items each is of."""
        slices, keys = self._table.keys[self._table.space_keys[space]]
        entries, offsets = slices.entries(rows)
        return keys[entries].astype(np.int64), np.repeat(np.arange(len(rows)), np.diff(offsets))
