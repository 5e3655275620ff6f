"""Turn parts of the log into places and rows of the item table, as Arrow columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crossmedia.features.batch import Int64Array, Jagged
from crossmedia.features.columns import ACTION, HISTORY, HISTORY_COLUMNS, ITEM_ROW, label_columns
from crossmedia.features.numbers import Float64Array
from crossmedia.features.slices import Chosen, gathered
from crossmedia.features.spec import Schema
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.features.writing.attributes import ID, LIST, NUMBER, Attributes, as_floats
from crossmedia.features.writing.histories import covered
from crossmedia.features.writing.item_table import ItemTable, as_arrow
from crossmedia.features.writing.parts import Part
from crossmedia.features.writing.words import WordLists


class Encoder:
    """What is needed to encode parts of the log.

    Args:
        schema: names of columns.
        vocabulary: places, and scales of numbers.
        items: what rows of the samples point at.
        users: attributes; None without any.
    """

    def __init__(self, schema: Schema, vocabulary: Vocabularies, items: ItemTable, users: Attributes | None):
        self.schema, self.vocabulary, self.items, self.users = schema, vocabulary, items, users
        self.user_columns = {} if users is None else _without(self, users)

    def number(self, name: str, values: Float64Array) -> npt.NDArray[Any]:
        """A column of numbers as a model takes it."""
        scale = self.vocabulary.encoding.numbers[name]
        return scale.places(values).astype(np.int32) if scale.in_buckets else scale.scale(values)


def _without(encoder: Encoder, users: Attributes) -> dict[str, Any]:
    """Encoded attributes by row of the user table; the last row is that of a user who is not in it."""
    vocabulary = encoder.vocabulary
    columns: dict[str, Any] = {
        name: np.append(vocabulary.encode(name, found), 0).astype(np.int32) for name, found in users.ids.items()
    }
    columns |= {name: encoder.number(name, np.append(values, np.nan)) for name, values in users.numbers.items()}
    for name, lists in users.lists.items():
        places = lists.places(name, vocabulary)
        columns[name] = as_arrow(Jagged(places.values, np.append(places.offsets, places.offsets[-1])), np.int32)
    return columns


class EncodedPart:
    """A part with the places of all that it holds; makes columns of some of its rows.

    Args:
        encoder: knows the places.
        part: of the log.

    Attributes:
        item_row: row of the item table, shape (n,).
        ids: id column of users and impressions -> places, shape (n,).
    """

    def __init__(self, encoder: Encoder, part: Part):
        self._encoder, self.part = encoder, part
        vocabulary, users = encoder.vocabulary, encoder.users
        self.item_row = encoder.items.rows(part.item)
        self.ids: dict[str, npt.NDArray[Any]] = {
            "user_id": vocabulary.encode("user_id", part.user_keys).astype(np.int32)[part.user_code]
        }
        self._others: dict[str, Any] = {}
        if users is not None:
            rows = users.rows(part.user_keys)[part.user_code]
            self._put({name: _taken(column, rows) for name, column in encoder.user_columns.items()})
        self._put(self._context())
        self._history = self._behaviours()

    def _put(self, columns: dict[str, Any]) -> None:
        for name, values in columns.items():
            places = isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer)
            (self.ids if places else self._others)[name] = values

    def _context(self) -> dict[str, Any]:
        """What the log says of the impressions."""
        encoder, found = self._encoder, self.part.context.take(pa.array(self.part.context_row))
        of, vocabulary = encoder.schema.log.columns, encoder.vocabulary
        columns: dict[str, Any] = {
            name: vocabulary.encode(name, found[ID + name].combine_chunks()).astype(np.int32) for name in of.ids
        }
        columns |= {name: encoder.number(name, as_floats(found[NUMBER + name])) for name in of.numbers}
        for name in of.lists:
            lists = WordLists.of(found[LIST + name].chunks)
            columns[name] = as_arrow(lists.places(name, vocabulary), np.int32)
        return columns

    def _behaviours(self) -> dict[str, npt.NDArray[Any]]:
        """Columns of the sorted behaviours, each of their length."""
        found = self.part.behaviours
        if found is None:
            return {}
        rows = self._encoder.items.rows(found.item)  # -1: in no history, and not written
        action = self._encoder.vocabulary.encode(ACTION, found.action).astype(np.int32)
        return {HISTORY + ITEM_ROW: rows, HISTORY + ACTION: action, HISTORY + "time": found.time}

    def columns(self, rows: Int64Array) -> dict[str, Any]:
        """Samples of the rows ``rows`` of the part, without their histories."""
        part = self.part
        columns: dict[str, Any] = {}
        for name, column in label_columns(self._encoder.schema.labels).items():
            columns[column] = part.labels[name][rows].astype(np.int8)
        columns["timestamp"] = part.time[rows]
        columns["raw_user_id"] = part.user_keys.take(pa.array(part.user_code[rows]))
        columns |= {name: _taken(values, rows) for name, values in (self.ids | self._others).items()}
        columns[ITEM_ROW] = self.item_row[rows]
        return columns

    def histories(self, rows: Int64Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """Histories of the rows, with each user's behaviours once.

        Args:
            rows: ascending, so that the rows of a user follow each other.

        Returns:
            ``HISTORY_COLUMNS`` of the rows; and list columns, one row a user, of the behaviours that the rows need.
        """
        assert self.part.behaviours is not None
        start, end, code = self.part.start[rows], self.part.end[rows], self.part.user_code[rows]
        # Users are in order, among rows and among behaviours: only this range is looked at.
        low, high = int(start.min()), int(end.max())
        needed = covered(start - low, end - low, high - low)
        place = np.concatenate([[0], np.cumsum(needed)])  # of each behaviour among the needed ones
        users, number = np.unique(code, return_inverse=True)
        bounds = np.append(users, users[-1] + 1)
        offsets = place[np.clip(self.part.behaviours.user_start[bounds] - low, 0, high - low)]
        first = place[start - low] - offsets[number]
        found = (number, first, first + end - start)
        of_rows = {name: values.astype(np.int32) for name, values in zip(HISTORY_COLUMNS, found, strict=True)}
        return of_rows, self._lists(offsets, low + np.flatnonzero(needed))

    def _lists(self, offsets: Int64Array, entries: Chosen) -> dict[str, pa.ListArray]:
        ends = pa.array(offsets.astype(np.int32))
        return {
            name: pa.ListArray.from_arrays(ends, pa.array(gathered(values, entries)))
            for name, values in self._history.items()
        }


def _taken(values: Any, rows: Int64Array) -> Any:
    """Some rows of a numpy or an Arrow column; -1 is the last one."""
    if isinstance(values, np.ndarray):
        return values[rows]
    return values.take(pa.array(np.where(rows < 0, len(values) - 1, rows)))
