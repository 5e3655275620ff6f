"""How well vectors find what users like next among what nobody has seen: recall of cold pictures.

Legend: Q queries, H behaviours of a query (the last five), M keys of the pool, D numbers in a vector, R rows, I rows of
the item table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from crossmedia.arguments import check_whole, must
from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.columns import ITEM_ROW, label_columns
from crossmedia.features.layout import StoredRows
from crossmedia.features.reading.row_groups import HISTORY_ACTION, HISTORY_ROW
from crossmedia.features.reading.samples import Samples
from crossmedia.features.slices import Slices, column
from crossmedia.trainer.align.behaviours import FloatArray, Training
from crossmedia.trainer.align.keys import NO_KEY, Flags, ItemParts, SpaceKeys
from crossmedia.trainer.align.pair_options import WEIGHTS
from crossmedia.words import counted

LAST = 5
KINDS = {"test": "new", "validation": "held-out"}  # of the items that queries ask for
QUERIES_AT_ONCE = 256
ROUNDING = 1e-6  # of a cosine in float32


@dataclass(frozen=True)
class ColdQueries:
    """Queries, one of each positive row whose item is cold.

    Attributes:
        histories: shape (Q, H), keys of what the user liked last before the row, the latest at the end; -1 in front
            where there are fewer.
        targets: shape (Q,), index into the pool of the row's item.
        pool: shape (M,), ascending: the keys of all cold items.
        history_groups: shape (Q, H), the group of each behaviour's item, -1 where there is none.
        pool_groups: shape (M,), the group of each key's item. What is of a group of the query's history is no
            candidate, and no query has its target there.
    """

    histories: Int64Array
    targets: Int64Array
    pool: Int64Array
    history_groups: Int64Array
    pool_groups: Int64Array

    def __len__(self) -> int:
        return len(self.targets)


def cold_queries(
    samples: Samples,
    part: Literal["validation", "test"],
    space: str = "image",
    *,
    weights: Mapping[str, float] = WEIGHTS,
    groups: Int64Array | None = None,
) -> ColdQueries:
    """The queries of a part.

    Args:
        samples: which are read.
        part: ``test``: of test rows, and items that the training part does not have. ``validation``: of training and
            validation rows, and items that are held out of the pairs (``ItemParts``), which no query of the test has.
        space: whose keys they are. A picture that an item of the pairs shows too is not cold.
        weights: as of ``PairOptions``: behaviours that count 0 are in no query.
        groups: shape (I,), from 0 on, of items that are alike, as articles of one product: then an item is cold only
            if all of its group are. Each is its own group otherwise.

    Raises:
        BadInput: there are no histories, no such space, or no query.
    """
    if not samples.actions:
        raise BadInput(
            f"The samples in {samples.folder} have no histories, so that there is nothing to look for the next picture "
            f"by. Add [behaviours] to the schema and run 'features build' again."
        )
    keys, parts = SpaceKeys.of(samples, space), ItemParts.of(samples)
    if groups is None:
        groups = _own_groups(keys)
    must(len(groups) == len(parts.warm), "groups", len(groups), f"one for each of {len(parts.warm)} items")
    cold, known = (parts.new, ~parts.new) if part == "test" else (parts.held_out, parts.warm)
    cold = cold & (keys.slices.length > 0) & ~np.isin(groups, groups[known])
    pool = np.setdiff1d(keys.of_items(cold), keys.of_items(known))
    first = keys.first(np.arange(len(cold)))
    cold &= np.isin(first, pool)
    if not cold.any():
        raise _no_query(samples, part, _no_cold_item(parts, keys, part, space))
    kinds = Training.of(samples, weights).kinds
    splits = ("test",) if part == "test" else ("train", "validation")
    found = [_rows(stored, samples, cold, groups, kinds) for split in splits for stored in samples.stored(split)]
    targets, last = (np.concatenate(values) for values in zip(*found, strict=True))
    histories = keys.first(last)
    asked = (histories != NO_KEY).any(axis=1)
    if not asked.any():
        raise _no_query(samples, part, _nobody_asks(kinds, int(cold.sum()), len(targets), KINDS[part]))
    return ColdQueries(
        histories[asked],
        np.searchsorted(pool, first[targets[asked]]),
        pool,
        np.where(last >= 0, groups[last], -1)[asked],
        _groups_of(pool, keys, groups),
    )


def _no_query(samples: Samples, part: str, why: str) -> BadInput:
    return BadInput(f"{samples.folder} has no query of the {part} part, by which a head is judged: {why}")


def _no_cold_item(parts: ItemParts, keys: SpaceKeys, part: str, space: str) -> str:
    """Why no item is cold, and what to do."""
    of_part = parts.new if part == "test" else parts.held_out
    with_keys = int((of_part & (keys.slices.length > 0)).sum())
    if part == "test" and not of_part.any():
        return (
            "no item is new there. Hold items out when the samples are built (hold_out_items in [split]), or split by "
            "time."
        )
    if not of_part.any():
        return (
            f"a tenth of {counted(len(of_part), 'item')} is held out of the pairs, and none was drawn. Give more items."
        )
    if not with_keys:
        return f"of {counted(int(of_part.sum()), f'{KINDS[part]} item')} none has a key in the space {space!r}."
    return (
        f"of {counted(with_keys, f'{KINDS[part]} item')} none has a picture that is its own: items of the pairs, or of "
        f"one group with such, show it too. Give items pictures of their own, or more items."
    )


def _nobody_asks(kinds: FloatArray, cold: int, rows: int, kind: str) -> str:
    """Why no positive row of a cold item is a query, and what to do."""
    if not (kinds[1:] > 0).any():
        return "every kind of behaviour counts 0. Give one of them a weight (--weights click=1)."
    if not rows:
        return (
            f"no positive row is of one of the {counted(cold, f'{kind} item')}, and of a user who had nothing of it "
            f"before. Give more rows, or more items."
        )
    return (
        f"of {counted(rows, 'positive row')} of {kind} items none has a behaviour before it that counts and whose item "
        f"has a key. Give histories that begin earlier, or weights (--weights) to other kinds of behaviour."
    )


def _own_groups(keys: SpaceKeys) -> Int64Array:
    """A group for each item, shape (I,): items whose first key is the same are one; one without keys is alone."""
    first = keys.first(np.arange(len(keys.slices.length)))
    alone = first == NO_KEY
    _, groups = np.unique(np.where(alone, -1 - np.arange(len(first)), first), return_inverse=True)
    return groups.reshape(-1).astype(np.int64)


def _groups_of(pool: Int64Array, keys: SpaceKeys, groups: Int64Array) -> Int64Array:
    """The group of each key of the pool, that of the first item with it, shape (M,)."""
    rows = np.arange(len(groups))
    entries, offsets = keys.slices.entries(rows)
    every, place = np.unique(keys.keys[entries], return_index=True)
    owner = np.repeat(rows, np.diff(offsets))[place]
    return groups[owner[np.searchsorted(every, pool)]]


def _rows(
    stored: StoredRows, samples: Samples, cold: Flags, groups: Int64Array, kinds: FloatArray
) -> tuple[Int64Array, Int64Array]:
    """Of the positive rows of a row group whose item is cold, and its group new to the user: item, last items.

    Returns:
        targets: shape (R,), rows of the item table.
        last: shape (R, H), the same of what the user liked last; -1 in front where there are fewer.
    """
    label = label_columns(samples.labels)[samples.labels[0]]
    items = np.asarray(column(stored.table, ITEM_ROW)).astype(np.int64)
    rows = np.flatnonzero((np.asarray(column(stored.table, label)) > 0) & cold[items])
    liked = kinds[stored.behaviours[HISTORY_ACTION]] > 0
    behaviours = stored.behaviours[HISTORY_ROW][liked].astype(np.int64)
    before = np.concatenate([[0], np.cumsum(liked)])
    start, end = before[stored.slices.start[rows]], before[(stored.slices.start + stored.slices.length)[rows]]
    entries, offsets = Slices(start, end - start).entries(np.arange(len(rows)))
    owner = np.repeat(np.arange(len(rows)), np.diff(offsets))
    again = np.zeros(len(rows), dtype=np.bool_)
    again[owner[groups[behaviours[entries]] == groups[items[rows]][owner]]] = True
    place = end[:, None] - np.arange(LAST, 0, -1)
    last = np.append(behaviours, -1)[np.where(place >= start[:, None], place, -1)]
    return items[rows][~again], last[~again]


def recall(
    queries: ColdQueries, vectors: Callable[[Int64Array], FloatArray], at: Sequence[int] = (10, 100)
) -> dict[int, float]:
    """The share of queries whose target is among the first so many candidates, by cosine with the mean of the history.

    Candidates of one cosine, but for rounding, stand in any order: a target among them counts by the share of orders
    that it is found in. A key without a vector is one of zeros: such a candidate has cosine 0 with all, as all have to
    a query of zeros.

    Args:
        queries: what is asked.
        vectors: makes vectors of keys, shape (n,) to (n, D); zeros where there is none. It is called once for the pool
            and once for the histories, each key once.
        at: numbers of candidates.

    Returns:
        number of candidates -> share.

    Raises:
        BadInput: a number is below 1.
    """
    for number in at:
        check_whole("at", number)
    pool = _unit(np.asarray(vectors(queries.pool), dtype=np.float32))
    known, place = np.unique(queries.histories, return_inverse=True)
    of_known = np.zeros((len(known), pool.shape[1]), dtype=np.float32)
    of_known[known != NO_KEY] = vectors(known[known != NO_KEY])
    place = place.reshape(queries.histories.shape)
    hits = dict.fromkeys(at, 0.0)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        cosines = _unit(of_known[place[rows]].sum(axis=1)) @ pool.T
        for group in queries.history_groups[rows].T:
            cosines[group[:, None] == queries.pool_groups] = -np.inf
        target = np.take_along_axis(cosines, queries.targets[rows, None], 1)
        better = (cosines > target + ROUNDING).sum(axis=1)
        alike = (np.abs(cosines - target) <= ROUNDING).sum(axis=1)
        for number in at:
            hits[number] += float(np.clip((number - better) / alike, 0, 1).sum())
    return {number: found / len(queries) for number, found in hits.items()}


def _unit(values: FloatArray) -> FloatArray:
    """Each at length 1; zeros stay."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(length > 0, length, 1)).astype(np.float32, copy=False)


def groups_by_key(samples: Samples, digits: int) -> Int64Array:
    """Groups of items whose raw ids begin alike, as articles of one product do, shape (I,).

    Args:
        samples: whose items.
        digits: characters of the raw id that name the group.
    """
    check_whole("digits", digits)
    raw = samples.items.read(["raw_item_id"])["raw_item_id"].combine_chunks()
    found = pc.dictionary_encode(pc.utf8_slice_codeunits(raw, 0, digits))
    return np.asarray(found.indices).astype(np.int64)
