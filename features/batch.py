"""Batches of samples: numpy arrays, where lists of uneven length are values and offsets.

Legend: B rows of the batch, N all history entries of the batch together, U items of the batch, each once, K unique keys
of vectors in a space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from crossmedia.keys import NULL_IMAGE

__all__ = [
    "NULL_IMAGE",
    "Batch",
    "BatchItems",
    "Float32Array",
    "Int64Array",
    "Jagged",
    "VectorKeys",
    "concatenate",
    "join",
]

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Number = TypeVar("Number", np.int64, np.float32)
NO_ROW = -1  # of an item that stands in no item table


@dataclass(frozen=True)
class Jagged:
    """Rows of uneven length, without padding: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        values: shape (N,), all entries, row after row.
        offsets: shape (B + 1,), int64, starts at 0 and ends at N.
    """

    values: Int64Array
    offsets: Int64Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of_lengths(cls, values: Int64Array, lengths: Int64Array) -> Jagged:
        """Rows of so many entries each."""
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)

    @property
    def lengths(self) -> Int64Array:
        """Number of entries of each row, shape (B,)."""
        return np.diff(self.offsets)

    def entries(self, rows: Int64Array) -> Int64Array:
        """Positions of the entries of some rows, row after row."""
        lengths = self.lengths[rows]
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.offsets[rows] - before, lengths) + np.arange(lengths.sum())

    def take(self, rows: Int64Array) -> Jagged:
        """Some rows, in the order of ``rows``."""
        return Jagged.of_lengths(self.values[self.entries(rows)], self.lengths[rows])


@dataclass(frozen=True)
class VectorKeys:
    """The vectors that a batch's items refer to in one space, each once.

    Attributes:
        unique: shape (K,), keys, ascending: image ids, or keys of items.
        unique_index: shape (K,), the key's place in the image vocabulary (0 when it is not in there): the sparse
            ``image_id`` feature, so that an id-only baseline knows the same image ids as a model with vectors. Empty in
            a space that is keyed by item.
        of_items: U rows of indices into ``unique``, in the order of the item's images; an item without any has none.
    """

    unique: Int64Array
    unique_index: Int64Array
    of_items: Jagged

    def take(self, items: Int64Array) -> VectorKeys:
        """Those of some items."""
        chosen = self.of_items.take(items)
        used = np.zeros(len(self.unique), dtype=np.bool_)
        used[chosen.values] = True
        place = np.cumsum(used) - 1
        index = self.unique_index[used] if len(self.unique_index) else self.unique_index
        return VectorKeys(self.unique[used], index, Jagged(place[chosen.values], chosen.offsets))


@dataclass(frozen=True)
class BatchItems:
    """The items that a batch shows or has in its histories, each once.

    Attributes:
        rows: shape (U,), int64, rows of the samples' item table, ascending; -1 in a request.
        ids: id column (``item_id`` first) -> shape (U,), int64, places in the vocabulary.
        numbers: column -> shape (U,), float32, as a model takes them; nan is missing.
        lists: column -> U rows of places.
        text: column -> U rows of places of tokens (0: unknown token).
        vectors: space -> keys of the items' vectors.
    """

    rows: Int64Array
    ids: dict[str, Int64Array]
    numbers: dict[str, Float32Array]
    lists: dict[str, Jagged]
    text: dict[str, Jagged]
    vectors: dict[str, VectorKeys]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, items: Int64Array) -> BatchItems:
        """Some of the items, in the order of ``items``, with the vectors of these alone."""
        return BatchItems(
            self.rows[items],
            {name: values[items] for name, values in self.ids.items()},
            {name: values[items] for name, values in self.numbers.items()},
            {name: values.take(items) for name, values in self.lists.items()},
            {name: values.take(items) for name, values in self.text.items()},
            {name: keys.take(items) for name, keys in self.vectors.items()},
        )


@dataclass(frozen=True)
class Batch:
    """One batch of samples. What an item has stands once, in ``items``; rows and histories point there.

    Ids are places in the vocabulary (0: unknown or null).

    Attributes:
        labels: label name -> shape (B,), float32, 0 or 1; the first name is the label that is trained.
        timestamp: shape (B,), int64, seconds.
        ids: id column of the user (``user_id`` first) or of the impression -> shape (B,), int64.
        numbers: number column of these -> shape (B,), float32, as a model takes them; nan is missing.
        lists: list column of these -> B rows of places.
        items: what the batch shows.
        target: shape (B,), int64, the item of each row, an index into ``items``.
        history: B rows of indices into ``items``, oldest first.
        action: shape (N,), int64, what each behaviour was: a place in the vocabulary of actions.
        history_age_s: shape (N,), int64, seconds between the behaviour and the impression, always >= 1.
    """

    labels: dict[str, Float32Array]
    timestamp: Int64Array
    ids: dict[str, Int64Array]
    numbers: dict[str, Float32Array]
    lists: dict[str, Jagged]
    items: BatchItems
    target: Int64Array
    history: Jagged
    action: Int64Array
    history_age_s: Int64Array

    def __len__(self) -> int:
        return len(self.timestamp)

    def take(self, rows: Int64Array) -> Batch:
        """Some rows, in the order of ``rows``, without the items that none of them refers to."""
        entries, lengths = self.history.entries(rows), self.history.lengths[rows]
        target, history = self.target[rows], self.history.values[entries]
        used = np.zeros(len(self.items), dtype=np.bool_)
        used[target], used[history] = True, True
        place = np.cumsum(used) - 1
        return Batch(
            labels={name: values[rows] for name, values in self.labels.items()},
            timestamp=self.timestamp[rows],
            ids={name: values[rows] for name, values in self.ids.items()},
            numbers={name: values[rows] for name, values in self.numbers.items()},
            lists={name: values.take(rows) for name, values in self.lists.items()},
            items=self.items.take(np.flatnonzero(used)),
            target=place[target],
            history=Jagged.of_lengths(place[history], lengths),
            action=self.action[entries],
            history_age_s=self.history_age_s[entries],
        )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of several of the same samples, in order; one alone is returned as it is."""
    if len(batches) == 1:
        return batches[0]
    items, place = _joined_items([batch.items for batch in batches])
    starts = np.cumsum([0, *(len(batch.items) for batch in batches)])
    pairs = [(place[start:], batch) for start, batch in zip(starts[:-1], batches, strict=True)]
    return Batch(
        labels=_joined([batch.labels for batch in batches]),
        timestamp=np.concatenate([batch.timestamp for batch in batches]),
        ids=_joined([batch.ids for batch in batches]),
        numbers=_joined([batch.numbers for batch in batches]),
        lists=_joined_lists([batch.lists for batch in batches]),
        items=items,
        target=np.concatenate([to[batch.target] for to, batch in pairs]),
        history=join([Jagged(to[batch.history.values], batch.history.offsets) for to, batch in pairs]),
        action=np.concatenate([batch.action for batch in batches]),
        history_age_s=np.concatenate([batch.history_age_s for batch in batches]),
    )


def _joined(parts: Sequence[Mapping[str, npt.NDArray[Number]]]) -> dict[str, npt.NDArray[Number]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _joined_lists(parts: Sequence[Mapping[str, Jagged]]) -> dict[str, Jagged]:
    return {name: join([part[name] for part in parts]) for name in parts[0]}


def join(parts: Sequence[Jagged]) -> Jagged:
    """The rows of several, in order."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Jagged.of_lengths(np.concatenate([part.values for part in parts]), lengths)


def _joined_items(parts: Sequence[BatchItems]) -> tuple[BatchItems, Int64Array]:
    """The items of several batches, each once; and where each is among them, part after part."""
    every = BatchItems(
        np.concatenate([part.rows for part in parts]),
        _joined([part.ids for part in parts]),
        _joined([part.numbers for part in parts]),
        _joined_lists([part.lists for part in parts]),
        _joined_lists([part.text for part in parts]),
        {name: _joined_keys([part.vectors[name] for part in parts]) for name in parts[0].vectors},
    )
    # Items of requests have no row that would tell whether two are one: each stays.
    own = np.where(every.rows == NO_ROW, -1 - np.arange(len(every)), every.rows)
    _, first, place = np.unique(own, return_index=True, return_inverse=True)
    return every.take(first), place.reshape(-1)


def _joined_keys(parts: Sequence[VectorKeys]) -> VectorKeys:
    unique, first, index = np.unique(
        np.concatenate([part.unique for part in parts]), return_index=True, return_inverse=True
    )
    starts = np.cumsum([0, *(len(part.unique) for part in parts)])
    moved = [
        Jagged(index.reshape(-1)[start:][part.of_items.values], part.of_items.offsets)
        for start, part in zip(starts[:-1], parts, strict=True)
    ]
    places = np.concatenate([part.unique_index for part in parts])
    return VectorKeys(unique, places[first] if len(places) else places, join(moved))
