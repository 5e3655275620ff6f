"""Stream the logs that a schema names, and check them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from crossmedia.features.cells import full_id_keys, id_keys
from crossmedia.features.rules import ALL, Rule
from crossmedia.features.spec import Schema
from crossmedia.features.times import Span
from crossmedia.features.writing.attributes import readers
from crossmedia.features.writing.notes import Notes
from crossmedia.features.writing.tables import TableRows, TableSource

LABEL, DID = "label:", "did:"


def log_source(schema: Schema) -> TableSource:
    """The log's file or folder.

    Raises:
        BadInput: it is missing, or lacks a column.
    """
    log = schema.log
    rules = [*log.labels.values(), *(schema.behaviours.from_log.values() if schema.behaviours else ())]
    texts = [log.user, log.item, *log.columns.ids, *log.columns.lists]
    numbers = [*(rule.column for rule in rules if rule.column), *log.columns.numbers]
    return TableSource(log.path, texts, [log.time], numbers)


def stream_log(schema: Schema, source: TableSource, span: Span) -> Iterator[pa.Table]:
    """Impressions, some at a time; ``span`` records their times.

    Yields:
        ``row`` (its number in the log), ``user`` and ``item`` (keys), ``time`` (seconds), ``label:<name>`` and
        ``did:<action>`` (whether a rule holds), and the columns of the impression as ``readers`` give them.

    Raises:
        BadInput: a value is wrong; the message names file, column and row.
    """
    log, first = schema.log, 0
    for rows in source.batches():
        columns = {
            "row": np.arange(first, first + len(rows)),
            "user": full_id_keys(rows.column(log.user)),
            "item": full_id_keys(rows.column(log.item)),
            "time": span.read(rows.column(log.time)),
        }
        columns |= {LABEL + name: _holds(rule, rows) for name, rule in log.labels.items()}
        if schema.behaviours:
            columns |= {DID + name: _holds(rule, rows) for name, rule in schema.behaviours.from_log.items()}
        columns |= {name: read(rows.column(of)) for name, (of, read) in readers(log.columns).items()}
        first += len(rows)
        yield pa.table(columns)
    span.check()


def _holds(rule: Rule, rows: TableRows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.ones(len(rows), dtype=np.bool_) if rule.operator == ALL else rule.holds(rows.column(rule.column))


def behaviour_source(schema: Schema) -> TableSource | None:
    """The separate file or folder of behaviours; None when they come from the log, or there are none.

    Raises:
        BadInput: it is missing, or lacks a column.
    """
    found = schema.behaviours
    if found is None or found.path is None:
        return None
    return TableSource(found.path, [found.user, found.item, found.action], [found.time])


def stream_behaviours(schema: Schema, source: TableSource, span: Span, notes: Notes) -> Iterator[pa.Table]:
    """Behaviours of a separate log, some at a time: ``user``, ``item``, ``action`` (keys), ``time`` (seconds).

    Rows without a user, item or action are left out, and counted in ``notes``; ``span`` is told all times.

    Raises:
        BadInput: a value is wrong; the message names file, column and row.
    """
    found = schema.behaviours
    assert found is not None
    for rows in source.batches():
        columns = {name: id_keys(rows.column(getattr(found, name))) for name in ("user", "item", "action")}
        table = pa.table({**columns, "time": span.read(rows.column(found.time))}).drop_null()
        notes.add("behaviours_without_user_item_or_action", len(rows) - len(table))
        yield table
    span.check()
