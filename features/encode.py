"""From raw values to places: the vocabularies of the training rows, and samples as Arrow columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import NULL_IMAGE, Int64Array
from features.histories import SortedBehaviours
from features.logs import Attributes, Impressions
from features.schema import Schema
from features.vocabulary import Vocabularies, build_vocabulary


def build_vocabularies(
    schema: Schema,
    log: Impressions,
    items: Attributes | None,
    users: Attributes | None,
    behaviours: SortedBehaviours | None,
    train: npt.NDArray[np.bool_],
    seen: npt.NDArray[np.bool_],
) -> Vocabularies:
    """Vocabularies of what occurs in training rows and their histories; counts are of the training rows."""
    user, item = log.user.filter(pa.array(train)), log.item.filter(pa.array(train))
    met = [item] + ([behaviours.item.filter(pa.array(seen))] if behaviours else [])
    values = {"user_id": build_vocabulary([user]), "item_id": build_vocabulary(met)}
    occurring = {"user_id": user, "item_id": item}
    if users is not None:
        rows = users.rows(user)
        for name, column in users.ids.items():
            occurring[name] = column.take(pa.array(rows, mask=rows < 0))
            values[name] = build_vocabulary([occurring[name]])
    if items is not None:
        rows = items.rows(item)
        met_rows = np.unique(np.concatenate([items.rows(part) for part in met]))
        met_rows = met_rows[met_rows >= 0]
        for name, column in items.ids.items():
            occurring[name] = column.take(pa.array(rows, mask=rows < 0))
            values[name] = build_vocabulary([column.take(pa.array(met_rows))])
        for name, tokens in items.text.items():
            occurring[name] = pc.list_flatten(tokens.take(pa.array(rows[rows >= 0])))
            values[name] = build_vocabulary([pc.list_flatten(tokens.take(pa.array(met_rows)))])
        if items.image is not None:
            images = items.image[met_rows]
            # Ascending, so that a batch finds the places of its images by a binary search.
            values["image_id"] = pa.array(np.unique(images[images != NULL_IMAGE])).cast(pa.string())
            shown = np.where(rows >= 0, items.image[rows], NULL_IMAGE)
            occurring["image_id"] = pa.array(shown, mask=shown == NULL_IMAGE).cast(pa.string())
    if behaviours is not None:
        occurring["action"] = behaviours.action.filter(pa.array(seen))
        values["action"] = build_vocabulary([occurring["action"]])
    result = Vocabularies(values, {})
    for name, column in occurring.items():
        result.counts[name] = np.bincount(result.encode(name, column), minlength=result.size(name))
    return result


class Encoder:
    """Turns impressions and behaviours into places, once, and rows of samples into Arrow columns."""

    def __init__(
        self,
        schema: Schema,
        vocabulary: Vocabularies,
        items: Attributes | None,
        users: Attributes | None,
        behaviours: SortedBehaviours | None,
    ):
        self.labels = list(schema.log.labels)
        self.vocabulary, self.items, self.users, self.behaviours = vocabulary, items, users, behaviours
        self.item_places = (
            {name: _with_unknown(vocabulary.encode(name, c)) for name, c in items.ids.items()} if items else {}
        )
        self.user_places = (
            {name: _with_unknown(vocabulary.encode(name, c)) for name, c in users.ids.items()} if users else {}
        )
        self.tokens = {name: self._token_places(name, t) for name, t in items.text.items()} if items else {}
        self.image = np.append(items.image, NULL_IMAGE) if items is not None and items.image is not None else None
        self.history = self._history() if behaviours else {}

    def _token_places(self, name: str, tokens: pa.ListArray) -> pa.ListArray:
        places = pa.array(self.vocabulary.encode(name, tokens.flatten()).astype(np.int32))
        lists = pa.ListArray.from_arrays(tokens.offsets, places)
        return pa.concat_arrays([lists, pa.array([[]], pa.list_(pa.int32()))])  # the last row: no such item

    def _history(self) -> dict[str, npt.NDArray[Any]]:
        assert self.behaviours is not None
        item = self.behaviours.item
        columns: dict[str, npt.NDArray[Any]] = {
            "hist_item_id": self.vocabulary.encode("item_id", item).astype(np.int32)
        }
        if self.items is not None:
            rows = self.items.rows(item)
            for name, places in self.item_places.items():
                columns[f"hist_{name}"] = places[rows].astype(np.int32)
            if self.image is not None:
                columns["hist_image_id"] = self.image[rows]
        columns["hist_action"] = self.vocabulary.encode("action", self.behaviours.action).astype(np.int32)
        columns["hist_time"] = self.behaviours.time
        return columns

    def table(self, log: Impressions, rows: Int64Array, start: Int64Array, end: Int64Array) -> pa.Table:
        """Samples of the impressions ``rows``."""
        take = pa.array(rows)
        user, item = log.user.take(take), log.item.take(take)
        columns: dict[str, Any] = {}
        for number, name in enumerate(self.labels):
            columns["label" if number == 0 else f"label_{name}"] = log.labels[name][rows].astype(np.int8)
        columns["timestamp"] = log.time[rows]
        columns["user_id"] = self.vocabulary.encode("user_id", user)
        if self.users is not None:
            at = self.users.rows(user)
            columns |= {name: places[at] for name, places in self.user_places.items()}
        columns["item_id"] = self.vocabulary.encode("item_id", item)
        columns["raw_item_id"] = item
        if self.items is not None:
            at = self.items.rows(item)
            columns |= {name: places[at] for name, places in self.item_places.items()}
            if self.image is not None:
                columns["image_id"] = self.image[at]
            for name, lists in self.tokens.items():
                columns[name] = lists.take(pa.array(np.where(at < 0, len(lists) - 1, at)))
        if self.behaviours is not None:
            lengths = end[rows] - start[rows]
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            flat = np.repeat(start[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
            for name, values in self.history.items():
                lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values[flat]))
                columns[name] = lists
        return pa.table(columns)


def _with_unknown(places: Int64Array) -> Int64Array:
    """Places by row of a table, with a last entry 0 that row -1 (no such key) finds."""
    return np.append(places, 0)
