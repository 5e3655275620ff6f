"""Names of the columns of samples, on which who writes and who reads them have to agree."""

from __future__ import annotations

from collections.abc import Sequence

ITEM, ACTION, IMAGE = "item_id", "action", "image_id"
HISTORY = "hist_"  # before the name of what a behaviour has
HISTORY_COLUMNS = ("history_user", "history_start", "history_end")  # of a row: which behaviours are its history
ITEM_ROW = "item_row"  # of a row, and of a behaviour: the row of the item table
GROUP = "hold_out_group"  # of an item: those of one number are held out together


def label_columns(labels: Sequence[str]) -> dict[str, str]:
    """Label name -> its column: ``label`` of the first, ``label_<name>`` of the others."""
    return {name: f"label_{name}" if number else "label" for number, name in enumerate(labels)}


def label_column(labels: Sequence[str], label: str) -> str:
    """The column of a label; of the first one when it is empty."""
    return label_columns(labels).get(label or labels[0], f"label_{label}")


def key_column(space: str) -> str:
    """The column of the item table with the items' keys in a space that is keyed by item."""
    return f"key_{space}"
