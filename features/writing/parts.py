"""Prepare one partition of the log to be counted and encoded: split, histories, negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.batch import Int64Array
from crossmedia.features.spec import DEFAULT_HISTORY, LEAVE_ONE_OUT, POSITIVE, Schema
from crossmedia.features.splits import TEST, by_time, by_user_tail, leave_one_out
from crossmedia.features.writing.attributes import ID, LIST, NUMBER
from crossmedia.features.writing.histories import SortedBehaviours, behaviours_in_log, history_slices, sort_behaviours
from crossmedia.features.writing.hold_out import DROPPED, HoldOut
from crossmedia.features.writing.logs import LABEL
from crossmedia.features.writing.negatives import NONE, Candidates, PositiveRows, Positives, draw_negatives
from crossmedia.features.writing.on_sale import LogItems


@dataclass(frozen=True)
class Part:
    """Samples before they are encoded, n of them, user by user, negatives behind their positive.

    Users stand in the order of their first rows in the log, and the rows of each in the order of the log.

    Attributes:
        user_keys: of the users, in the order of their numbers.
        user_code: number of the user in the part, ascending, shape (n,).
        item: keys, shape (n,).
        time: seconds, shape (n,).
        labels: label name -> shape (n,).
        split: ``TRAIN``, ``VALIDATION`` or ``TEST``, shape (n,).
        held_out: whether the item is held out entirely, shape (n,).
        start, end: the history among ``behaviours``, shape (n,) each.
        behaviours: sorted; None without any.
        context: what else the log says of its rows, see ``stream_log``.
        context_row: which of these rows each sample is of, shape (n,).
        notes: kind -> count of what was found on the way.
        several, at_once: users with two rows or more in the log, and those of them whose rows all have one time.
    """

    user_keys: pa.Array
    user_code: Int64Array
    item: pa.Array
    time: Int64Array
    labels: dict[str, npt.NDArray[np.bool_]]
    split: Int64Array
    held_out: npt.NDArray[np.bool_]
    start: Int64Array
    end: Int64Array
    behaviours: SortedBehaviours | None
    context: pa.Table
    context_row: Int64Array
    notes: dict[str, int]
    several: int
    at_once: int

    @property
    def user(self) -> pa.Array:
        """The user of each sample, shape (n,)."""
        return self.user_keys.take(pa.array(self.user_code))

    def __len__(self) -> int:
        return len(self.time)


def make_part(
    schema: Schema,
    log: pa.Table,
    behaviours: pa.Table | None,
    boundaries: tuple[int, int] | None,
    items: LogItems,
    hold_out: HoldOut,
) -> Part:
    """Split a partition's rows, find their histories, and draw negatives where the schema asks for them.

    Args:
        schema: what to do.
        log: what ``stream_log`` yields, all rows of some users.
        behaviours: what ``stream_behaviours`` yields of these users; None when there is no such log or no row.
        boundaries: of the ``time`` split.
        items: all of the log: what negatives are drawn from.
        hold_out: which items are held out.
    """
    notes: dict[str, int] = {}
    user = log["user"].combine_chunks()
    user_keys = pc.unique(user)
    time = np.asarray(log["time"]).astype(np.int64)
    code = np.asarray(pc.index_in(user, value_set=user_keys)).astype(np.int64)
    split = _split_of(schema, code, time, boundaries)
    shown = _Shown(PositiveRows(np.asarray(log["row"]), code, time), log["item"].combine_chunks(), split)
    out = hold_out(shown.item)
    found = _sorted_behaviours(schema, log, behaviours, user_keys, hold_out, notes)
    length = schema.behaviours.max_length if schema.behaviours else DEFAULT_HISTORY
    start, end = history_slices(found, length, code, time)

    rows = np.flatnonzero(~out | (split == TEST))
    if dropped := len(time) - len(rows):
        notes[DROPPED] = dropped
    rows = rows[np.argsort(code[rows], kind="stable")]
    labels = {name: np.asarray(log[LABEL + name]) for name in schema.log.labels}
    if schema.negatives is not None:
        rows, item, labels = _with_negatives(schema, shown, rows, items, hold_out, notes)
    else:
        item = shown.item.take(pa.array(rows))
        labels = {name: values[rows] for name, values in labels.items()}
    return Part(
        user_keys,
        code[rows],
        item,
        time[rows],
        labels,
        split[rows],
        hold_out(item),
        start[rows],
        end[rows],
        found,
        log.select([name for kind in (ID, NUMBER, LIST) for name in log.column_names if name.startswith(kind)]),
        rows,
        notes,
        *_in_one_second(code, time, len(user_keys)),
    )


def _in_one_second(user: Int64Array, time: Int64Array, users: int) -> tuple[int, int]:
    """How many users have two rows or more, and how many of those have them all at one time."""
    several = np.bincount(user, minlength=users) > 1
    first, last = np.full(users, np.iinfo(np.int64).max), np.full(users, np.iinfo(np.int64).min)
    np.minimum.at(first, user, time)
    np.maximum.at(last, user, time)
    return int(several.sum()), int((several & (first == last)).sum())


def _split_of(schema: Schema, user: Int64Array, time: Int64Array, boundaries: tuple[int, int] | None) -> Int64Array:
    if boundaries is not None:
        return by_time(time, boundaries)
    if schema.split.method == LEAVE_ONE_OUT:
        return leave_one_out(user, time)
    return by_user_tail(schema.split, user, time)


def _sorted_behaviours(
    schema: Schema,
    log: pa.Table,
    behaviours: pa.Table | None,
    user_keys: pa.Array,
    hold_out: HoldOut,
    notes: dict[str, int],
) -> SortedBehaviours | None:
    """Behaviours of the users of a part, of a log of their own or of the impressions; None: the schema has none."""
    if schema.behaviours is None:
        return None
    if schema.behaviours.path is None:
        behaviours = behaviours_in_log(schema, log)
    if behaviours is None:
        behaviours = pa.table({n: pa.array([], pa.string()) for n in ("user", "item", "action")} | {"time": []})
    return sort_behaviours(schema, behaviours, user_keys, hold_out, notes)


@dataclass(frozen=True)
class _Shown:
    """Rows of a partition, in the order of the log, with the key of the item and the split of each."""

    rows: PositiveRows
    item: pa.Array
    split: Int64Array


def _with_negatives(
    schema: Schema, shown: _Shown, rows: Int64Array, items: LogItems, hold_out: HoldOut, notes: dict[str, int]
) -> tuple[Int64Array, pa.Array, dict[str, npt.NDArray[np.bool_]]]:
    """Rows, items and labels with the negatives behind each positive; an item held out is drawn for test rows only."""
    assert schema.negatives is not None
    item = np.asarray(pc.index_in(shown.item, value_set=items.keys)).astype(np.int64)
    positives = Positives(shown.rows.user, item, len(items.keys))
    out = hold_out(items.keys)
    drawn = np.full((len(rows), schema.negatives.per_positive), NONE, dtype=np.int64)
    tested = shown.split[rows] == TEST
    for here, codes in ((tested, np.arange(len(items.keys))), (~tested, np.flatnonzero(~out))):
        candidates = Candidates(codes, items.on_sale)
        drawn[here] = draw_negatives(schema.negatives, shown.rows.take(rows[here]), candidates, positives)
    if short := int((drawn == NONE).sum()):
        notes["negatives_that_a_user_has_no_item_left_for"] = short
    every = np.concatenate([item[rows][:, None], drawn], axis=1)
    there = every != NONE
    label = np.zeros(every.shape, dtype=np.bool_)
    label[:, 0] = True
    return (
        np.repeat(rows, there.sum(axis=1)),
        items.keys.take(pa.array(every[there])),
        {POSITIVE: label[there]},
    )
