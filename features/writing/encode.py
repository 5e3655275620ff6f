"""Turn raw values into places: vocabularies of the training rows, and samples as Arrow columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.batch import NULL_IMAGE, Int64Array
from crossmedia.features.columns import HISTORY_COLUMNS, label_columns
from crossmedia.features.schema import Schema
from crossmedia.features.slices import Chosen, Slices, gathered
from crossmedia.features.splits import TRAIN
from crossmedia.features.vocabulary import Vocabularies, extend
from crossmedia.features.writing.attributes import Attributes
from crossmedia.features.writing.counting import Counts, ValueCounts
from crossmedia.features.writing.histories import covered
from crossmedia.features.writing.parts import Part


class TrainingCounts:
    """Counts of the values in training rows and their histories, part by part.

    Values that occur in histories only count 0.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.user, self.item, self.action = ValueCounts(), ValueCounts(), ValueCounts()

    def add(self, part: Part) -> None:
        """Count the training rows of a part."""
        train = part.split == TRAIN
        self.rows += int(train.sum())
        self.user.add(part.user.filter(pa.array(train)))
        self.item.add(part.item.filter(pa.array(train)))
        if part.behaviours is not None:
            seen = pa.array(covered(part.start[train], part.end[train], len(part.behaviours.time)))
            met = pc.unique(part.behaviours.item.filter(seen))
            self.item.add(met, np.zeros(len(met), dtype=np.int64))
            self.action.add(part.behaviours.action.filter(seen))


def build_vocabularies(
    schema: Schema,
    found: TrainingCounts,
    items: Attributes | None,
    users: Attributes | None,
    old: Vocabularies | None,
) -> Vocabularies:
    """Vocabularies of what was counted; the places of ``old`` stay, and new values are appended."""
    counts: dict[str, ValueCounts] = {"user_id": found.user, "item_id": found.item}
    if users is not None:
        keys, weights = found.user.ordered()
        rows = users.rows(keys)
        for name, column in users.ids.items():
            counts[name] = _of_attribute(column, rows, weights)
    if items is not None:
        keys, weights = found.item.ordered()
        rows = items.rows(keys)
        for name, column in items.ids.items():
            counts[name] = _of_attribute(column, rows, weights)
        for name, tokens in items.text.items():
            lists = tokens.take(pa.array(rows[rows >= 0]))
            counts[name] = ValueCounts()
            counts[name].add(pc.list_flatten(lists), weights[rows >= 0][np.asarray(pc.list_parent_indices(lists))])
        if items.image is not None:
            images = pa.array(items.image, mask=items.image == NULL_IMAGE).cast(pa.string())
            counts["image_id"] = _of_attribute(images, rows, weights)
    if schema.behaviours is not None:
        counts["action"] = found.action
    result = Vocabularies({}, {})
    for name, counted in counts.items():
        values, weights = counted.ordered()
        if name == "image_id":  # by number, so that a batch finds the places of its images by a binary search
            order = np.argsort(np.asarray(values.cast(pa.int64())))
            values, weights = values.take(pa.array(order)), weights[order]
        before = old.values[name] if old is not None and name in old.values else values[:0]
        result.values[name], result.counts[name] = extend(before, values, weights)
        result.counts[name][0] = max(0, found.rows - int(weights.sum())) if name not in schema.texts else 0
    return result


def _of_attribute(column: pa.Array, rows: Int64Array, weights: Counts) -> ValueCounts:
    """Counts of an attribute, from those of the keys that have it."""
    counts = ValueCounts()
    counts.add(column.take(pa.array(rows[rows >= 0])), weights[rows >= 0])
    return counts


class Encoder:
    """Turns the attributes of items and users into places once, and parts of the log into Arrow columns.

    Args:
        schema: names of columns.
        vocabulary: places.
        items, users: attributes; None without any.
    """

    def __init__(self, schema: Schema, vocabulary: Vocabularies, items: Attributes | None, users: Attributes | None):
        self.schema, self.vocabulary, self.items, self.users = schema, vocabulary, items, users
        self.item_places = _by_row(vocabulary, items)
        self.user_places = _by_row(vocabulary, users)
        self.tokens = {name: self._token_places(name, t) for name, t in items.text.items()} if items else {}
        self.image = np.append(items.image, NULL_IMAGE) if items is not None and items.image is not None else None

    def _token_places(self, name: str, tokens: pa.ListArray) -> pa.ListArray:
        places = pa.array(self.vocabulary.encode(name, tokens.flatten()).astype(np.int32))
        lists = pa.ListArray.from_arrays(tokens.offsets, places)
        return pa.concat_arrays([lists, pa.array([[]], pa.list_(pa.int32()))])  # the last row: no such item

    def history(self, part: Part) -> dict[str, npt.NDArray[Any]]:
        """Columns of the sorted behaviours, each of their length."""
        if part.behaviours is None:
            return {}
        item = part.behaviours.item
        columns: dict[str, npt.NDArray[Any]] = {
            "hist_item_id": self.vocabulary.encode("item_id", item).astype(np.int32)
        }
        if self.items is not None:
            rows = self.items.rows(item)
            for name, places in self.item_places.items():
                columns[f"hist_{name}"] = places[rows].astype(np.int32)
            if self.image is not None:
                columns["hist_image_id"] = self.image[rows]
        columns["hist_action"] = self.vocabulary.encode("action", part.behaviours.action).astype(np.int32)
        columns["hist_time"] = part.behaviours.time
        return columns


class EncodedPart:
    """A part with the places of all that it holds; makes columns of some of its rows.

    Args:
        encoder: knows the places.
        part: of the log.
    """

    def __init__(self, encoder: Encoder, part: Part):
        self._encoder, self.part, self._history = encoder, part, encoder.history(part)
        self.user = encoder.vocabulary.encode("user_id", part.user)
        self.item = encoder.vocabulary.encode("item_id", part.item)
        self.user_rows = encoder.users.rows(part.user) if encoder.users else None
        self.item_rows = encoder.items.rows(part.item) if encoder.items else None

    def columns(self, rows: Int64Array) -> dict[str, Any]:
        """Samples of the rows ``rows`` of the part, without their histories."""
        encoder, part = self._encoder, self.part
        columns: dict[str, Any] = {}
        for name, column in label_columns(encoder.schema.labels).items():
            columns[column] = part.labels[name][rows].astype(np.int8)
        columns["timestamp"] = part.time[rows]
        columns["user_id"] = self.user[rows]
        columns["raw_user_id"] = part.user.take(pa.array(rows))
        if self.user_rows is not None:
            columns |= {name: places[self.user_rows[rows]] for name, places in encoder.user_places.items()}
        columns["item_id"] = self.item[rows]
        columns["raw_item_id"] = part.item.take(pa.array(rows))
        if self.item_rows is not None:
            at = self.item_rows[rows]
            columns |= {name: places[at] for name, places in encoder.item_places.items()}
            if encoder.image is not None:
                columns["image_id"] = encoder.image[at]
            for name, lists in encoder.tokens.items():
                columns[name] = lists.take(pa.array(np.where(at < 0, len(lists) - 1, at)))
        if encoder.schema.split.hold_out_items:
            columns["held_out"] = part.held_out[rows].astype(np.int8)
        return columns

    def inline(self, rows: Int64Array) -> dict[str, Any]:
        """Histories of the rows, each complete in list columns."""
        start, end = self.part.start[rows], self.part.end[rows]
        entries, offsets = Slices(start, end - start).entries(slice(None))
        return self._lists(offsets, entries)

    def by_user(self, rows: Int64Array) -> tuple[dict[str, Any], dict[str, Any]]:
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


def _by_row(vocabulary: Vocabularies, table: Attributes | None) -> dict[str, Int64Array]:
    """Places of each id column by row of a table; the last entry is 0, which row -1 (no such key) finds."""
    if table is None:
        return {}
    return {name: np.append(vocabulary.encode(name, column), 0) for name, column in table.ids.items()}
