"""What samples know of images: the category of the item that shows one, how often it was shown, how often clicked.

Legend: n images that are asked for, I rows of the item table, E photos of all items.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crossmedia.features.columns import IMAGE, ITEM, label_column
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.browse.map import Values

MOST_WORDS = 2_000  # of a column of words that is a category; a title has more
SHOWN, RATE = "times shown in training", "positive of those"
Ids = npt.NDArray[np.int64]


class ItemColumns:
    """Columns by which a map of images is coloured.

    Args:
        samples: that show them.
    """

    def __init__(self, samples: Samples):
        self._samples = samples

    @cached_property
    def _photos(self) -> tuple[Ids, Ids]:
        """Image ids, ascending, shape (E,), and the first row of the item table that has each, shape (E,)."""
        items = self._samples.items
        if IMAGE not in items.keys:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        slices, keys = items.keys[IMAGE]
        chosen, offsets = slices.entries(np.arange(items.rows))
        images, first = np.unique(keys[chosen].astype(np.int64), return_index=True)
        return images, np.repeat(np.arange(items.rows), np.diff(offsets))[first]

    @cached_property
    def _clicks(self) -> tuple[Ids, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of the training rows: image ids, ascending, how often each was shown, and the share of positive rows."""
        column = label_column(self._samples.labels, "")
        table = self._samples.frame("train", ["image_id", column])
        table = pa.table({"image": table["image_id"], "positive": np.asarray(table[column].combine_chunks()) > 0})
        table = table.append_column("one", pa.array(np.ones(len(table), np.int64)))
        table = table.append_column("clicks", table["positive"].cast(pa.int64()))
        of = table.group_by("image").aggregate([("one", "sum"), ("clicks", "sum")]).sort_by("image")
        images, shown, clicks = (of[name].to_numpy() for name in ("image", "one_sum", "clicks_sum"))
        return images, shown.astype(np.float64), clicks / np.maximum(shown, 1)

    def __call__(self, ids: Ids) -> dict[str, Values]:
        """What is known of images, by column: a word each, empty where none is; or a number each, nan there.

        Args:
            ids: shape (n,).
        """
        images, rows = self._photos
        place, there = _places(images, ids)
        found: dict[str, Values] = {}
        items, vocabulary = self._samples.items, self._samples.vocabulary.values
        of = rows[place] if len(rows) else place
        # Colours tell few values apart: the column with the fewest stands first, and one of a single value last.
        sizes = {name: len(vocabulary[name]) for name in items.ids if name not in (ITEM, IMAGE)}
        for name in sorted(sizes, key=lambda name: (sizes[name] < 2, sizes[name])):
            found[name] = _words(vocabulary[name], np.where(there, items.ids[name][of], 0))
        for name, (slices, tokens) in {**items.lists, **items.text}.items():
            if len(vocabulary[name]) > MOST_WORDS or not len(rows):
                continue
            chosen, offsets = slices.entries(of)
            values = np.append(tokens[chosen].astype(np.int64), 0)
            empty = np.diff(offsets) == 0
            found[f"first of {name}"] = _words(vocabulary[name], np.where(there & ~empty, values[offsets[:-1]], 0))
        if self._samples.image_vocabulary_size:
            images, shown, rate = self._clicks
            place, there = _places(images, ids)
            for name, numbers in ((SHOWN, shown), (RATE, rate)):
                found[name] = np.where(there, numbers[place], np.nan) if len(numbers) else np.full(len(ids), np.nan)
        return found


def _places(sorted_ids: Ids, ids: Ids) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Where ids, shape (n,), stand among others, ascending; and whether they do."""
    place = np.minimum(np.searchsorted(sorted_ids, ids), max(len(sorted_ids) - 1, 0))
    return place, sorted_ids[place] == ids if len(sorted_ids) else np.zeros(len(ids), np.bool_)


def _words(vocabulary: pa.Array, places: Ids) -> list[str]:
    """Words of places, shape (n,); empty of place 0, which is unknown."""
    known = pa.array(np.maximum(places - 1, 0))
    words = vocabulary.take(known).to_pylist() if len(vocabulary) else [""] * len(places)
    return [str(word) if place else "" for word, place in zip(words, places.tolist(), strict=True)]
