"""Count what training rows hold, and make vocabularies and scales of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.columns import ACTION, IMAGE, ITEM
from crossmedia.features.distinct import distinct
from crossmedia.features.encoding import Encoding
from crossmedia.features.numbers import Float64Array, NumberScale, same_scale
from crossmedia.features.spec import Columns, Schema
from crossmedia.features.splits import TRAIN
from crossmedia.features.vocabulary import IDS, LISTS, NUMBERS, TEXT, Vocabularies, extend
from crossmedia.features.writing.attributes import ID, LIST, NUMBER, Attributes, as_floats, note_empty, note_fractions
from crossmedia.features.writing.counting import Counts, NumberCounts, ValueCounts
from crossmedia.features.writing.histories import covered
from crossmedia.features.writing.notes import Notes
from crossmedia.features.writing.parts import Part


class TrainingCounts:
    """Counts of the values in training rows and their histories, part by part.

    Values that occur in histories only count 0.

    Args:
        columns: of the impressions.

    Attributes:
        rows: training rows.
        user, item, action: counts of keys.
        values: id or list column of the impressions -> counts.
        numbers: number column of these -> counts.
        shown: items of the rows and histories of all splits.
    """

    def __init__(self, columns: Columns) -> None:
        self.rows = 0
        self.user, self.item, self.action, self.shown = (ValueCounts() for _ in range(4))
        self.values = {name: ValueCounts() for name in (*columns.ids, *columns.lists)}
        self.numbers = {name: NumberCounts() for name in columns.numbers}
        self._columns = columns

    def add(self, part: Part) -> None:
        """Count the training rows of a part."""
        train = part.split == TRAIN
        self.rows += int(train.sum())
        self.user.add(part.user.filter(pa.array(train)))
        self.item.add(part.item.filter(pa.array(train)))
        shown = pc.unique(part.item)
        self.shown.add(shown, np.zeros(len(shown), dtype=np.int64))
        if part.behaviours is not None:
            seen = pa.array(covered(part.start[train], part.end[train], len(part.behaviours.time)))
            self._add_items(self.item, part.behaviours.item.filter(seen))
            self.action.add(part.behaviours.action.filter(seen))
            seen = pa.array(covered(part.start, part.end, len(part.behaviours.time)))
            self._add_items(self.shown, part.behaviours.item.filter(seen))
        self._add_context(part, np.flatnonzero(train))

    @staticmethod
    def _add_items(counts: ValueCounts, items: pa.Array) -> None:
        met = pc.unique(items)
        counts.add(met, np.zeros(len(met), dtype=np.int64))

    def _add_context(self, part: Part, rows: Int64Array) -> None:
        context = part.context.take(pa.array(part.context_row[rows]))
        for name in self._columns.ids:
            self.values[name].add(context[ID + name].combine_chunks())
        for name in self._columns.lists:
            self.values[name].add(pc.list_flatten(context[LIST + name].combine_chunks()))
        for name in self._columns.numbers:
            self.numbers[name].add(as_floats(context[NUMBER + name]))

    def note(self, notes: Notes) -> None:
        """Note ids of impressions that seem to be numbers, and columns of these in which nothing stands."""
        empty = [name for name, counts in self.values.items() if not len(counts.ordered()[0])]
        empty += [name for name, counts in self.numbers.items() if not len(counts.values)]
        note_empty("rows_of_training", self.rows, empty, notes)
        for name in self._columns.ids:
            note_fractions(name, self.values[name].ordered()[0], notes)


def build_vocabularies(
    schema: Schema,
    found: TrainingCounts,
    encoding: Encoding,
    tables: tuple[Attributes | None, Attributes | None],
    old: Vocabularies | None,
) -> Vocabularies:
    """Vocabularies and scales of what was counted; the places of ``old`` stay, and new values are appended.

    Args:
        schema: names of columns.
        found: what training rows hold.
        encoding: how lists and texts are read.
        tables: attributes of items, and of users.
        old: to continue.

    Raises:
        BadInput: ``old`` read a column in another way.
    """
    if old is not None:
        for columns in (schema.log.columns, schema.of_items, schema.of_users):
            check_continues(columns, encoding, old)
    making = _Making(found.rows, old, Vocabularies({}, {}, encoding))
    making.add("user_id", found.user)
    making.add(ITEM, found.item)
    items, users = tables
    if items is not None:
        making.add_table(items, schema.of_items, found.item)
    if users is not None:
        making.add_table(users, schema.of_users, found.user)
    for name, values in found.values.items():
        making.add(name, values, several=name in schema.log.columns.lists)
    for name, how in schema.log.columns.numbers.items():
        making.add_numbers(name, how, found.numbers[name])
    if schema.behaviours is not None:
        making.add(ACTION, found.action)
    return making.result


def check_continues(columns: Columns, encoding: Encoding, old: Vocabularies) -> None:
    """Refuse columns that the samples to continue read in another way: what a model learned of them would be void.

    Args:
        columns: of a table.
        encoding: how its lists and texts are read now.
        old: of the samples to continue.

    Raises:
        BadInput: a column was of another kind, or its words were found in another way.
    """
    kinds = dict.fromkeys(columns.ids, IDS) | dict.fromkeys(columns.numbers, NUMBERS)
    kinds |= dict.fromkeys(columns.lists, LISTS) | dict.fromkeys(columns.text, TEXT)
    for name, kind in kinds.items():
        before, then, now = old.kind(name), old.encoding.tokens.get(name), encoding.tokens.get(name)
        if before and before != kind:
            raise BadInput(
                f"The column {name!r} is among {kind} here, and among {before} in the samples that are extended. "
                f"Samples that continue others read a column as they do: put it among {before}, or build without "
                f"--extend."
            )
        if before and then != now:
            raise BadInput(
                f"The words of {name!r} are found by {now!r} here, and by {then!r} in the samples that are extended. "
                f"Samples that continue others read texts as they do: write the tokens of theirs, or build without "
                f"--extend."
            )


class _Making:
    """Vocabularies in the making."""

    def __init__(self, rows: int, old: Vocabularies | None, result: Vocabularies):
        self._rows, self._old, self.result = rows, old, result

    def add_table(self, table: Attributes, columns: Columns, keys: ValueCounts) -> None:
        """Attributes, which count as often as their keys."""
        found, weights = keys.ordered()
        rows = table.rows(found)
        rows, weights = rows[rows >= 0], weights[rows >= 0]
        for name, column in table.ids.items():
            counts = ValueCounts()
            counts.add(column.take(pa.array(rows)), weights)
            self.add(name, counts)
        for name, lists in table.lists.items():
            self.add(name, lists.count(rows, weights), several=True)
        for name, values in table.numbers.items():
            numbers = NumberCounts()
            numbers.add(values[rows], weights)
            self.add_numbers(name, columns.numbers[name], numbers)
        if table.images is not None:
            self._add_images(table, rows, weights)

    def _add_images(self, table: Attributes, rows: Int64Array, weights: Counts) -> None:
        """Images by number, so that a batch finds the places of its own by a binary search."""
        assert table.images is not None
        chosen = table.images.take(rows)
        ids, index = distinct(chosen.values)
        counts = np.bincount(index, np.repeat(weights, chosen.lengths), len(ids)).astype(np.int64)
        shown = int(weights[chosen.lengths > 0].sum())
        self._put(IMAGE, pa.array(ids).cast(pa.string()), counts, self._rows - shown)

    def add(self, name: str, counts: ValueCounts, *, several: bool = False) -> None:
        """A column of keys, one or several a row."""
        values, weights = counts.ordered()
        self._put(name, values, weights, 0 if several else self._rows - int(weights.sum()))

    def add_numbers(self, name: str, how: str, numbers: NumberCounts) -> None:
        """A column of numbers; a vocabulary of its buckets, if it has any."""
        before = self._old.encoding.numbers.get(name) if self._old is not None else None
        counted = numbers.counts > 0
        scale = same_scale(name, before, how) if before else NumberScale.fit(how, *_some(numbers, counted))
        self.result.encoding.numbers[name] = scale
        if scale.in_buckets:
            names = pa.array(scale.bucket_names, pa.string())
            places = scale.places(numbers.values)
            counts = np.bincount(places, numbers.counts, len(names) + 1).astype(np.int64)
            self.result.values[name], self.result.counts[name] = names, counts
            counts[0] = max(0, self._rows - int(counts.sum()))

    def _put(self, name: str, values: pa.Array, weights: Counts, without: int) -> None:
        old = self._old
        before = old.values[name] if old is not None and name in old.values else values[:0]
        self.result.values[name], self.result.counts[name] = extend(before, values, weights)
        self.result.counts[name][0] = max(0, without)


def _some(numbers: NumberCounts, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[Float64Array, Counts]:
    return numbers.values[chosen], numbers.counts[chosen]
