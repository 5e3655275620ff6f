"""Histories: behaviours sorted once by user and time, and for each impression the slice that ends before its second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Int64Array
from features.logs import Impressions
from features.schema import Rule, Schema
from features.tables import flags, keys, read_table, seconds
from imgserver.errors import BadInput


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


def read_behaviours(
    schema: Schema, columns: pa.Table, log: Impressions, user_keys: pa.Array, notes: dict[str, int]
) -> SortedBehaviours | None:
    """The behaviours of users who have impressions, sorted; None without any. What is left out is counted in ``notes``.

    Raises:
        BadInput: a file, a column or a value is wrong, or the times span too much to be seconds.
    """
    source = schema.behaviours
    if source is None:
        return None
    if source.path is None:
        user, item, at, action = _behaviours_from_log(schema.log.path, source.from_log, columns, log)
    else:
        table = read_table(source.path, [source.user, source.item, source.time, source.action])
        user, item, action = (keys(table, name) for name in (source.user, source.item, source.action))
        at = seconds(source.path, table, source.time)
    code = np.asarray(pc.fill_null(pc.index_in(user, value_set=user_keys), -1)).astype(np.int64)
    usable = (code >= 0) & np.asarray(pc.is_valid(item)) & np.asarray(pc.is_valid(action))
    notes["behaviours_of_users_without_impressions"] = int((code < 0).sum())
    chosen = np.flatnonzero(usable)
    order = chosen[np.lexsort((chosen, at[chosen], code[chosen]))]
    counts = np.bincount(code[order], minlength=len(user_keys))
    times = at[order]
    first_time = int(times.min()) if len(times) else 0
    span = (int(times.max()) - first_time if len(times) else 0) + 2
    if span * (len(user_keys) + 1) >= 2**62:
        raise BadInput(
            f"The times of {source.path or schema.log.path} span {span} seconds, too much for {len(user_keys)} users. "
            f"Are they milliseconds? Times are whole seconds."
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


def _behaviours_from_log(
    path: Path, rules: dict[str, Rule], columns: pa.Table, log: Impressions
) -> tuple[pa.Array, pa.Array, Int64Array, pa.Array]:
    """Rows of the log that a rule calls positive, each with the rule's name as its action, in the log's order."""
    rows, names = [], []
    for number, rule in enumerate(rules.values()):
        positive = np.flatnonzero(flags(path, columns, rule))
        rows.append(positive)
        names.append(np.full(len(positive), number))
    flat = np.concatenate(rows)
    order = np.argsort(flat, kind="stable")
    take = pa.array(flat[order])
    action = pa.array(list(rules), pa.string()).take(pa.array(np.concatenate(names)[order]))
    return log.user.take(take), log.item.take(take), log.time[flat[order]], action


def history_slices(
    schema: Schema, behaviours: SortedBehaviours | None, user: Int64Array, at: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Where each impression's history starts and ends among the sorted behaviours; strictly before its own second."""
    if behaviours is None or schema.behaviours is None:
        return np.zeros(len(at), dtype=np.int64), np.zeros(len(at), dtype=np.int64)
    query = user * behaviours.span + np.clip(at - behaviours.first_time, 0, behaviours.span - 1)
    end = np.searchsorted(behaviours.composite, query, side="left")
    start = np.maximum(behaviours.user_start[user], end - schema.behaviours.max_length)
    return start.astype(np.int64), end.astype(np.int64)


def covered(start: Int64Array, end: Int64Array, n: int) -> npt.NDArray[np.bool_]:
    """Which of ``n`` behaviours lie in any slice, shape (n,)."""
    steps = np.zeros(n + 1, dtype=np.int64)
    np.add.at(steps, start, 1)
    np.add.at(steps, end, -1)
    covered: npt.NDArray[np.bool_] = np.cumsum(steps[:-1]) > 0
    return covered
