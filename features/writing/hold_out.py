"""Which items of a log are held out entirely, by what the schema says and what the items share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.hold_out import Flags, Links, drawn, together
from crossmedia.features.spec import Split
from crossmedia.features.writing.attributes import Attributes
from crossmedia.features.writing.notes import Notes

TOO_MUCH = 0.5  # of what is to be held out, in one group: whether it is drawn decides how much is held out


DROPPED = "rows_dropped_because_their_item_is_held_out"  # of training and validation


class HoldOut:
    """The items that are held out entirely: a share of them, drawn by their keys, twins together.

    Args:
        split: how much, by which seed.
        items: what items have; None: they share nothing.
        notes: told of a group that is too large to be drawn.
    """

    def __init__(self, split: Split, items: Attributes | None, notes: Notes):
        self._split = split
        self._known, self._out = pa.array([], pa.string()), np.zeros(0, dtype=np.bool_)
        if items is None or not split.hold_out_items:
            return
        links = [Links.of_images(items.images)] if items.images is not None else []
        if items.group is not None:
            links.append(Links.of_codes(codes(items.group)))
        group = together(len(items.key), links)
        sizes = np.bincount(group, minlength=1)
        twins = np.flatnonzero(sizes[group] > 1)
        if not len(twins):
            return
        self._known = items.key.take(pa.array(twins))
        self._out = drawn(split.hold_out_items, split.hold_out_seed, items.key, group)[twins]
        kind = "items_that_share_photos_or_a_group_and_are_held_out_together_or_not_at_all"
        if (largest := int(sizes.max())) > TOO_MUCH * split.hold_out_items * len(group):
            notes.add(kind, largest, items.key[int(sizes.argmax())].as_py())
            notes.remedy[kind] = (
                "so many in one group decide alone how much is held out: a photo that stands for a missing one belongs "
                "into no cell, and hold_out_by names a column with many values"
            )

    def __call__(self, keys: pa.Array) -> Flags:
        """Whether each item is held out, shape (n,)."""
        if not self._split.hold_out_items:
            return np.zeros(len(keys), dtype=np.bool_)
        out = drawn(self._split.hold_out_items, self._split.hold_out_seed, keys, np.arange(len(keys)))
        if len(self._known):
            twin = np.asarray(pc.fill_null(pc.index_in(keys, value_set=self._known), -1))
            out = np.where(twin >= 0, self._out[twin], out)
        return out


def codes(group: pa.Array) -> np.ndarray:
    """A number for each value of a column of keys, shape (n,); -1 where the cell is empty."""
    return np.asarray(pc.fill_null(group.dictionary_encode().indices, -1)).astype(np.int64)
