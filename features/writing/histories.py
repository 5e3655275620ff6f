"""Make histories: sort behaviours once by user and time; each impression gets the slice that ends before its second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.spec import Schema
from crossmedia.features.writing.hold_out import HoldOut
from crossmedia.features.writing.logs import DID

HISTORY_LESS = "behaviours_of_users_without_impressions"
HELD_OUT = "behaviours_of_items_that_are_held_out"


@dataclass(frozen=True)
class SortedBehaviours:
    """Sorted by user and time, ties in the order of the log; ``user_start`` has one more entry than there are users."""

    item: pa.Array
    time: Int64Array
    action: pa.Array
    user_start: Int64Array
    composite: Int64Array
    span: int
    first_time: int


def behaviours_in_log(schema: Schema, log: pa.Table) -> pa.Table:
    """Rows of the log that a rule calls positive, each with the rule's name as its action, in the log's order."""
    assert schema.behaviours is not None
    rows, names = [], []
    for number, name in enumerate(schema.behaviours.from_log):
        positive = np.flatnonzero(np.asarray(log[DID + name]))
        rows.append(positive)
        names.append(np.full(len(positive), number))
    flat = np.concatenate(rows)
    order = np.argsort(flat, kind="stable")
    found = log.select(["user", "item", "time"]).take(pa.array(flat[order]))
    action = pa.array(list(schema.behaviours.from_log), pa.string()).take(pa.array(np.concatenate(names)[order]))
    return found.append_column("action", action)


def sort_behaviours(
    schema: Schema, found: pa.Table, user_keys: pa.Array, hold_out: HoldOut, notes: dict[str, int]
) -> SortedBehaviours:
    """Behaviours of the users ``user_keys``, sorted. ``notes`` counts what is left out.

    Args:
        schema: names the log.
        found: columns ``user, item, time, action``.
        user_keys: users who have impressions, in the order of their codes.
        hold_out: which items are held out.
        notes: kind -> count.

    Raises:
        BadInput: the times span too much to be seconds.
    """
    found = found.combine_chunks()
    user, item, action = (found[name].combine_chunks() for name in ("user", "item", "action"))
    at = np.asarray(found["time"]).astype(np.int64)
    code = np.asarray(pc.fill_null(pc.index_in(user, value_set=user_keys), -1)).astype(np.int64)
    out = hold_out(item)
    _note(notes, HISTORY_LESS, int((code < 0).sum()))
    _note(notes, HELD_OUT, int(out.sum()))
    chosen = np.flatnonzero((code >= 0) & ~out)
    order = chosen[np.lexsort((chosen, at[chosen], code[chosen]))]
    counts = np.bincount(code[order], minlength=len(user_keys))
    times = at[order]
    first_time = int(times.min()) if len(times) else 0
    span = (int(times.max()) - first_time if len(times) else 0) + 2
    if span * (len(user_keys) + 1) >= 2**62:
        raise BadInput(
            f"The times of {(schema.behaviours and schema.behaviours.path) or schema.log.path} span {span} seconds, "
            f"too much for {len(user_keys)} users. Are they milliseconds? Times are whole seconds."
        )
    take = pa.array(order)
    return SortedBehaviours(
        item.take(take),
        times,
        action.take(take),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        code[order] * span + (times - first_time),
        span,
        first_time,
    )


def _note(notes: dict[str, int], kind: str, count: int) -> None:
    notes[kind] = notes.get(kind, 0) + count


def history_slices(
    behaviours: SortedBehaviours | None, max_length: int, user: Int64Array, at: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Where each impression's history starts and ends among the sorted behaviours; strictly before its own second."""
    if behaviours is None:
        return np.zeros(len(at), dtype=np.int64), np.zeros(len(at), dtype=np.int64)
    query = user * behaviours.span + np.clip(at - behaviours.first_time, 0, behaviours.span - 1)
    end = np.searchsorted(behaviours.composite, query, side="left")
    start = np.maximum(behaviours.user_start[user], end - max_length)
    return start.astype(np.int64), end.astype(np.int64)


def covered(start: Int64Array, end: Int64Array, n: int) -> npt.NDArray[np.bool_]:
    """Which of ``n`` behaviours lie in any slice, shape (n,)."""
    steps = np.zeros(n + 1, dtype=np.int64)
    np.add.at(steps, start, 1)
    np.add.at(steps, end, -1)
    covered: npt.NDArray[np.bool_] = np.cumsum(steps[:-1]) > 0
    return covered
