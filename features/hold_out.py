"""Which items are held out: by their keys, and what belongs together as a whole or not at all.

A twin gives an item away: two colours of one shirt that share a photo, two editions of one game. Where only one of them
is held out, a model has seen the picture of the other, with its clicks, in training.

Legend: n items, L links, each of an item to something that it shares with others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crossmedia.features.batch import Int64Array, Jagged
from crossmedia.features.hashing import draw, hash_strings

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Links:
    """What items have, of which those of a group share something.

    Attributes:
        item: index of an item, shape (L,).
        value: what it has, any whole number, shape (L,).
    """

    item: Int64Array
    value: Int64Array

    @classmethod
    def of_images(cls, images: Jagged) -> Links:
        """Of items to their images, n rows of image ids."""
        return cls(np.repeat(np.arange(len(images)), images.lengths), images.values)

    @classmethod
    def of_codes(cls, codes: Int64Array) -> Links:
        """Of items to their group by a column, shape (n,); a negative one is none."""
        item = np.flatnonzero(codes >= 0)
        return cls(item, codes[item])


def together(n: int, links: list[Links]) -> Int64Array:
    """The group of each item, shape (n,): items that share a value of a kind are in one, also through others.

    A group is a connected component, called by its first item. Every item takes the least name among those of its
    values, and then the name of that item, until nothing changes: each round halves the way at least.

    Args:
        n: how many items.
        links: one of each kind; values of two kinds are never the same.
    """
    group = np.arange(n)
    kinds = [(each.item, np.unique(each.value, return_inverse=True)[1]) for each in links if len(each.item)]
    while True:
        before = group.copy()
        for item, value in kinds:
            least = np.full(int(value.max()) + 1, n)
            np.minimum.at(least, value, group[item])
            np.minimum.at(group, item, least[value])
        group = group[group]
        if np.array_equal(group, before):
            return group


def drawn(share: float, seed: int, keys: pa.Array, group: Int64Array) -> Flags:
    """Which items are drawn, whole groups of them, by hashes of their keys, shape (n,).

    A group is drawn as that of its items whose hash is least would be: an item alone is drawn by its own key, in every
    log and whatever other items there are.

    Args:
        share: about as many of the items.
        seed: of the draw.
        keys: of the items, shape (n,).
        group: of each, as ``together`` gives it, shape (n,).
    """
    hashes = hash_strings(keys)
    least = np.full(len(keys), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(least, group, hashes)
    chosen: Flags = draw(seed, least[group].view(np.int64)) < np.uint64(share * 2**64)
    return chosen
