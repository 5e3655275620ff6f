"""Count how often each place of each vocabulary occurs in the training rows, wherever a model would look it up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array
from crossmedia.features.columns import ACTION, IMAGE, ITEM_ROW
from crossmedia.features.layout import SplitFiles
from crossmedia.features.reading.item_table import ItemTable, Sliced
from crossmedia.features.reading.row_groups import HISTORY_ACTION, HISTORY_ROW, RowColumns
from crossmedia.features.slices import column, list_values


def count_occurrences(
    files: SplitFiles, columns: RowColumns, sizes: dict[str, int], items: ItemTable
) -> dict[str, Int64Array]:
    """Occurrences over all rows of ``files``: of targets, of tokens, and of behaviours in each history.

    Args:
        files: of a split; read a row group at a time.
        columns: what rows have.
        sizes: vocabulary name -> places, place 0 included.
        items: what items have.

    Returns:
        vocabulary name -> shape (size,).
    """
    counts = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}

    def add(name: str, places: npt.NDArray[np.integer], weights: Int64Array | None = None) -> None:
        counts[name] += np.bincount(places, weights, minlength=len(counts[name])).astype(np.int64)

    shown, seen = np.zeros(items.rows, dtype=np.int64), np.zeros(items.rows, dtype=np.int64)
    for group in range(files.row_groups):
        stored = files.read(group, [*columns.ids, *columns.lists, ITEM_ROW], columns.of_behaviours[:2])
        for name in columns.ids:
            add(name, np.asarray(column(stored.table, name)))
        for name in columns.lists:
            add(name, list_values(column(stored.table, name)))
        shown += np.bincount(np.asarray(column(stored.table, ITEM_ROW)), minlength=items.rows)
        if columns.histories:
            # A behaviour that is stored once is in the history of many rows.
            behaviours = stored.behaviours[HISTORY_ROW]
            uses = stored.slices.uses(len(behaviours))
            seen += np.bincount(behaviours, uses, minlength=items.rows).astype(np.int64)
            add(ACTION, stored.behaviours[HISTORY_ACTION], uses)
    for name, places in items.ids.items():
        add(name, places, shown + seen)
    for name, lists in items.lists.items():
        add(name, lists[1], _weights(lists, shown + seen))
    for name, tokens in items.text.items():
        add(name, tokens[1], _weights(tokens, shown))
    if IMAGE in items.keys:
        slices, keys = items.keys[IMAGE]
        add(IMAGE, items.places_of(IMAGE, keys), _weights(items.keys[IMAGE], shown + seen))
        counts[IMAGE][0] += int((shown + seen)[slices.length == 0].sum())
    return counts


def _weights(lists: Sliced, weights: Int64Array) -> Int64Array:
    """What each value of a column of lists counts, if each row counts ``weights``."""
    return np.repeat(weights, lists[0].length)
