"""Names of the columns that samples have of their own; a schema's column of such a name would overwrite one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossmedia.features.schema import Schema

HISTORY_COLUMNS = ("history_user", "history_start", "history_end")  # of the layout by_user


def taken(schema: Schema, *, by_user: bool) -> list[str]:
    """Id and text columns of a schema whose names belong to other columns of its samples, or to their vocabularies.

    Args:
        schema: names of columns.
        by_user: whether the layout is ``by_user``.
    """
    own = {"label", *(f"label_{name}" for name in schema.labels[1:]), "timestamp", "raw_user_id", "raw_item_id"}
    if schema.items is not None and schema.items.image:
        own.add("image_id")
    if schema.split.hold_out_items:
        own.add("held_out")
    if by_user:
        own.update(HISTORY_COLUMNS)
    names = [*schema.user_ids, *schema.item_ids, *schema.texts]
    if schema.behaviours is None:
        return [name for name in names if name in own]
    own |= {"action", *(f"hist_{name}" for name in (*schema.item_ids, "action", "time", "image_id"))}
    # hist_time is when a behaviour was, so that an item's own column cannot be called time.
    return [name for name in names if name in own or (name == "time" and name in schema.item_ids)]
