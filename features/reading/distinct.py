"""Find the images that a batch refers to, each once, by flags over the images of a row group, without sorting.

Legend: R rows, M behaviours and U images of the row group; B rows, N history entries and K images of a batch.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from crossmedia.features.batch import NULL_IMAGE, BatchImages, Int64Array, Jagged
from crossmedia.features.slices import Chosen, gathered


class ImageVocabulary:
    """A vocabulary of image ids: the place of each id.

    Args:
        ids: image ids, place 1 first; in any order, for a vocabulary that was extended is not ascending.
    """

    def __init__(self, ids: Int64Array):
        order = np.argsort(ids, kind="stable")
        self._ids, self._places = ids[order], order + 1

    def places(self, ids: Int64Array) -> Int64Array:
        """The place of each id, shape (n,); 0 if the vocabulary has no such id."""
        at = np.searchsorted(self._ids, ids)
        known = at < len(self._ids)
        known[known] = self._ids[at[known]] == ids[known]
        places = np.zeros(len(ids), dtype=np.int64)
        places[known] = self._places[at[known]]
        return places


def distinct(images: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Image ids, each once and ascending without the null image, and the index of each image among them.

    Args:
        images: shape (n,); ``NULL_IMAGE`` or an id from 0 on.

    Returns:
        ids: shape (U,).
        index: shape (n,); U stands for the null image.
    """
    top = int(images.max(initial=NULL_IMAGE))
    if top < 4 * len(images) + (1 << 20):  # ids that a manifest gave are dense: a table by id is the fastest
        there = np.zeros(top + 2, dtype=np.bool_)  # the last entry is that of the null image, -1
        there[images] = True
        ids = np.flatnonzero(there[:-1])
        table = np.empty(top + 2, dtype=np.int64)
        table[ids] = np.arange(len(ids))
        table[NULL_IMAGE] = len(ids)
        return ids, table.take(images, mode="wrap")
    encoded = pa.array(images).dictionary_encode()
    found, codes = np.asarray(encoded.dictionary), np.asarray(encoded.indices)
    order = np.argsort(found)
    null = int(found[order[0]] == NULL_IMAGE)
    index = np.empty(len(found), dtype=np.int64)
    index[order] = np.arange(len(found)) - null
    if null:
        index[order[0]] = len(found) - 1
    return found[order[null:]], index.take(codes)


class GroupImages:
    """The images of a row group.

    Args:
        target: image of each row, shape (R,).
        history: image of each behaviour that the row group stores, shape (M,).
        vocabulary: places of image ids.
    """

    def __init__(self, target: Int64Array, history: Int64Array, vocabulary: ImageVocabulary):
        self.ids, index = distinct(np.concatenate([target, history]))
        self.places = vocabulary.places(self.ids)
        self.target, self.history = index[: len(target)], index[len(target) :]
        # One entry an image and a last one for the null image; used again by every batch.
        self._there = np.zeros(len(self.ids) + 1, dtype=np.bool_)
        self._position = np.full(len(self.ids) + 1, NULL_IMAGE, dtype=np.int64)

    def batch(self, rows: Chosen, entries: Chosen, offsets: Int64Array) -> BatchImages:
        """Images of a batch.

        Args:
            rows: which rows of the group it has.
            entries: which of the group's behaviours, row after row.
            offsets: shape (B + 1,), of the rows among ``entries``.
        """
        target, history = gathered(self.target, rows), gathered(self.history, entries)
        self._there[target] = True
        self._there[history] = True
        found = np.flatnonzero(self._there[:-1])
        self._there[found] = False
        self._position[found] = np.arange(len(found))
        position = self._position
        return BatchImages(
            self.ids[found], self.places[found], position.take(target), Jagged(position.take(history), offsets)
        )
