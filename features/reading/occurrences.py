"""Count how often each place of each vocabulary occurs in the training rows, wherever a model would look it up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array
from crossmedia.features.columns import HISTORY, IMAGE
from crossmedia.features.layout import SplitFiles
from crossmedia.features.reading.distinct import ImageVocabulary, distinct
from crossmedia.features.reading.row_groups import Columns
from crossmedia.features.slices import column, list_values


def count_occurrences(
    files: SplitFiles, columns: Columns, sizes: dict[str, int], vocabulary: ImageVocabulary
) -> dict[str, Int64Array]:
    """Occurrences over all rows of ``files``: of targets, of tokens, and of behaviours in each history.

    Args:
        files: of a split; read a row group at a time.
        columns: what there is.
        sizes: vocabulary name -> places, place 0 included.
        vocabulary: places of image ids.

    Returns:
        vocabulary name -> shape (size,).
    """
    counts = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}

    def add(name: str, places: npt.NDArray[np.integer], weights: Int64Array | None = None) -> None:
        counts[name] += np.bincount(places, weights, minlength=len(counts[name])).astype(np.int64)

    images = ["image_id"] if columns.images else []
    of_behaviours = [HISTORY + name for name in (*columns.history, *images)] if columns.history else []
    for group in range(files.row_groups):
        stored = files.read(group, [*columns.ids, *columns.text, *images], of_behaviours)
        for name in columns.ids:
            add(name, np.asarray(column(stored.table, name)))
        for name in columns.text:
            add(name, list_values(column(stored.table, name)))
        # A behaviour that is stored once is in the history of many rows.
        behaviours = len(stored.behaviours[of_behaviours[0]]) if of_behaviours else 0
        uses = stored.slices.uses(behaviours)
        for name in columns.history:
            add(name, stored.behaviours[HISTORY + name], uses)
        if columns.images:
            target = np.asarray(column(stored.table, "image_id"))
            seen = stored.behaviours.get(HISTORY + IMAGE, np.zeros(0, dtype=np.int64))
            ids, index = distinct(np.concatenate([target, seen]))
            times = np.bincount(index, np.concatenate([np.ones(len(target)), uses]), minlength=len(ids) + 1)
            # The null image, counted last, has place 0, as an image that the vocabulary does not know.
            add("image_id", np.append(vocabulary.places(ids), 0), times.astype(np.int64))
    return counts
