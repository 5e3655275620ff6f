"""Check that tables name each other's users and items, so that nobody trains on tables that do not match."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.spec import Schema
from crossmedia.features.splits import SPLITS
from crossmedia.features.times import Span
from crossmedia.features.writing.attributes import Attributes
from crossmedia.features.writing.histories import HELD_OUT, HISTORY_LESS, SortedBehaviours
from crossmedia.features.writing.hold_out import DROPPED
from crossmedia.features.writing.notes import Notes, first_of
from crossmedia.features.writing.report import Totals
from crossmedia.forms import near_in_words, nearly
from crossmedia.words import counted


def check_known(schema: Schema, keys: pa.Array, table: Attributes | None, who: str, notes: Notes) -> None:
    """Check that a table of attributes has a row for at least one of the log's ``keys``; note the keys without a row.

    Args:
        schema: with the paths.
        keys: distinct, of the log.
        table: of the attributes; None without any.
        who: ``item`` or ``user``.
        notes: to add to.

    Raises:
        BadInput: it has no row for any of them.
    """
    of = schema.items if who == "item" else schema.users
    if table is None or of is None or of.path is None:
        return
    absent = keys.filter(pa.array(table.rows(keys) < 0))
    near = nearly(absent, table.key)
    if len(absent) == len(keys):
        mine, theirs = getattr(schema.log, who), getattr(of, who)
        what = near_in_words(near, len(absent)) or f" Check that {mine!r} and {theirs!r} hold the same ids."
        raise BadInput(
            f"Not one {who} of {schema.log.path} is in {of.path} (the first here is {keys[0].as_py()!r}, there "
            f"{table.key[0].as_py()!r}).{what}"
        )
    notes.add(f"{who}s_without_a_row_in_the_{who}_table", len(absent), first_of(absent))
    notes.add_near(f"{who}s_that_the_{who}_table_has", near)


def check_times(schema: Schema, log: Span, behaviours: Span) -> None:
    """Check that the log and the behaviours use the same unit of time.

    Raises:
        BadInput: they do not.
    """
    if schema.behaviours is not None and (log | behaviours).two_units():
        raise BadInput(
            f"The times of {schema.log.path} are {log}, and those of {schema.behaviours.path} are {behaviours}: one of "
            f"them is not in seconds since 1970. Bring both to one unit."
        )


def note_items(schema: Schema, behaviours: SortedBehaviours | None, known: pa.Array, notes: Notes) -> None:
    """Note the behaviours of a separate log whose items are unknown.

    Args:
        schema: says where behaviours come from.
        behaviours: of one part of the users.
        known: keys of the items of the log and of the item table.
        notes: to add to.
    """
    if behaviours is None or schema.behaviours is None or schema.behaviours.path is None:
        return
    unknown = behaviours.item.filter(pc.is_null(pc.index_in(behaviours.item, value_set=known)))
    kind = "behaviours_of_items_that_are_not_in_the_log"
    if schema.items is not None and schema.items.path is not None:
        kind += "_nor_in_the_item_table"
    notes.add(kind, len(unknown), first_of(unknown))
    notes.add_near("behaviours_of_items_that_are_known", nearly(unknown, known))


def check_splits(schema: Schema, totals: Totals, log_rows: int) -> None:
    """Check that each split has rows.

    Args:
        schema: with the shares.
        totals: over all parts.
        log_rows: how many rows the log has.

    Raises:
        BadInput: one has none.
    """
    empty = [name for name, rows in zip(SPLITS, totals.rows, strict=True) if not rows]
    if not empty:
        return
    if dropped := totals.notes.counts.get(DROPPED, 0):
        raise BadInput(
            f"hold_out_items = {schema.split.hold_out_items} leaves no row for {empty[0]}: {dropped:,} of "
            f"{counted(log_rows, 'row')} of {schema.log.path} are of items that are held out, which only the test part "
            f"has. Hold out a smaller share."
        )
    raise BadInput(
        f"The split leaves no row for {empty[0]}: {schema.log.path} has {counted(log_rows, 'row')}. Use more data."
    )


def check_histories(schema: Schema, totals: Totals, behaviours: int, times: tuple[Span, Span]) -> None:
    """Check that behaviours of a separate log are in the history of at least one impression.

    Args:
        schema: with the paths.
        totals: over all parts.
        behaviours: how many were read.
        times: of the log, and of the behaviours.

    Raises:
        BadInput: they are in none.
    """
    if schema.behaviours is None or schema.behaviours.path is None or totals.history:
        return
    path, log = schema.behaviours.path, schema.log.path
    if totals.notes.counts.get(HISTORY_LESS, 0) == behaviours:
        raise BadInput(
            f"Not one user of {path} has a row in {log}. Check that {schema.behaviours.user!r} and {schema.log.user!r} "
            f"hold the same ids."
        )
    if out := totals.notes.counts.get(HELD_OUT, 0):
        raise BadInput(
            f"hold_out_items = {schema.split.hold_out_items} leaves every history empty: {out:,} of {behaviours:,} "
            f"behaviours in {path} are with items that are held out, which are in no history. Hold out a smaller share."
        )
    raise BadInput(
        f"Not one row of {path} is earlier than an impression of its user, so every history is empty. The times of "
        f"{log} are {times[0]}, those of {path} are {times[1]}."
    )
