"""The keys of a space by item, and the parts that items are in: what a head learns of, and what it is measured by.

Legend: I rows of the item table, n of whatever is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.batch import Int64Array
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import held_out_places
from crossmedia.features.slices import Slices

ITEM = "item_id"
NO_KEY = -1
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SpaceKeys:
    """The keys of one space by the rows of the item table: images, of which an item may have several, or items.

    Attributes:
        slices: which of the keys each row has, I rows.
        keys: of all rows.
    """

    slices: Slices
    keys: Int64Array

    @classmethod
    def of(cls, samples: Samples, space: str) -> SpaceKeys:
        """Those of a space.

        Raises:
            BadInput: the samples have no such space.
        """
        if space not in samples.spaces:
            there = ", ".join(samples.spaces) or "none"
            meant = did_you_mean(space, samples.spaces)
            raise BadInput(f"The samples have no space {space!r}; there are: {there}.{meant}")
        slices, keys = samples.items.keys[samples.items.space_keys[space]]
        return cls(slices, keys.astype(np.int64))

    def of_items(self, rows: Flags) -> Int64Array:
        """All keys of the items that are marked, shape (I,): each once, ascending."""
        return np.unique(self.keys[self.slices.entries(np.flatnonzero(rows))[0]])

    def first(self, rows: Int64Array) -> Int64Array:
        """The first key of each item, of any shape; -1 of one that has none, and of row -1."""
        return self._at(rows, np.zeros(rows.shape, dtype=np.int64))

    def drawn(self, rows: Int64Array, rng: np.random.Generator) -> Int64Array:
        """One key of each item, of any shape, all of an item's being alike; -1 of one that has none, and of row -1."""
        return self._at(rows, (rng.random(rows.shape) * self.slices.length[rows]).astype(np.int64))

    def _at(self, rows: Int64Array, number: Int64Array) -> Int64Array:
        there = (rows >= 0) & (self.slices.length[rows] > 0)
        return np.append(self.keys, NO_KEY)[np.where(there, self.slices.start[rows] + number, -1)]


@dataclass(frozen=True)
class ItemParts:
    """Which items a head learns of, and which it is measured by. Shape (I,) each; every item is in one of them.

    Attributes:
        warm: items of training rows and of their histories, without those that are held out.
        held_out: a tenth of these items, of which nothing is learned: they say when to stop. It is the tenth that
            ``--validate-on unseen-items`` takes, so that a model which is validated there meets vectors that were not
            aligned either.
        new: items that the training part does not have at all: they are what is tested.
    """

    warm: Flags
    held_out: Flags
    new: Flags

    @classmethod
    def of(cls, samples: Samples) -> ItemParts:
        """Those of samples, the same whichever way these are validated."""
        places = np.asarray(samples.items.read([ITEM])[ITEM]).astype(np.int64)  # as stored: none is hidden there
        held_out = held_out_places(samples)[places]
        return cls((places > 0) & ~held_out, held_out, places == 0)
