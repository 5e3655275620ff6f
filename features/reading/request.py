"""A request as a batch: raw values of one user and of candidates, as a service has them, to what a model is given.

Legend: n candidates, which are the rows of the batch; m behaviours of the user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.batch import NO_ROW, Batch, BatchItems, Int64Array, Jagged, VectorKeys
from crossmedia.features.columns import ACTION, HISTORY, IMAGE, ITEM
from crossmedia.features.reading.known_items import ItemColumns, ItemValues, KnownItems
from crossmedia.features.reading.request_columns import columns_by_name, columns_of_one_length, has, latest
from crossmedia.features.reading.request_places import RequestPlaces
from crossmedia.features.reading.unmatched import Unmatched
from crossmedia.features.spec import BY_IMAGE
from crossmedia.features.times import Span, seconds
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.keys import Column, column_of, keys
from crossmedia.names import ImageNames

TIMES = "times that do not fit"  # beside names of columns
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestColumns:
    """Columns that a model knows.

    Attributes:
        ids, numbers, lists: of the user and of the impression.
        of_log: which of these are the impression's, which candidates may have each.
        item_ids, item_numbers, item_lists: of an item, as a candidate and as a behaviour.
        text: words of a candidate.
        spaces: name -> ``image`` or ``item``, what its vectors are keyed by.
        images: whether it knows images.
        max_history: behaviours that it takes at most; 0: none.
    """

    ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    max_history: int
    images: bool = False
    numbers: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    of_log: tuple[str, ...] = ()
    item_numbers: tuple[str, ...] = ()
    item_lists: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    spaces: Mapping[str, str] = field(default_factory=dict)

    @property
    def of_rows(self) -> list[str]:
        """What a user and an impression have."""
        return [*self.ids, *self.numbers, *self.lists]

    @property
    def of_item(self) -> list[str]:
        """What an item has, as a candidate and as a behaviour."""
        return [*self.item_ids, *self.item_numbers, *self.item_lists, *([IMAGE] if self.images else [])]

    @property
    def of_candidates(self) -> list[str]:
        """What a request may give of candidates."""
        return [*self.of_item, *self.text]

    @property
    def items(self) -> ItemColumns:
        """What a model is given of an item."""
        return ItemColumns(self.item_ids, self.item_numbers, self.item_lists, self.text, self.images, self.spaces)

    @property
    def behaviours(self) -> list[str]:
        """What a request may give of behaviours."""
        return [HISTORY + name for name in (*self.of_item, ACTION, "time")] if self.max_history else []

    @property
    def of_user(self) -> list[str]:
        """What a request may give of the user, or of the impression."""
        return [*self.of_rows, *self.behaviours]


class RequestReader:
    """Makes batches of requests; what requests lack is logged once, whichever of them lacks it.

    Attributes:
        unmatched: what requests gave and nothing matched.

    Args:
        columns: that the model knows.
        vocabulary: raw values to places, with the scales of numbers and how texts are read.
        names: of images, for requests that give them; None: requests give ids.
        item_names: name of a space that is keyed by item -> names of items; where there are none, keys are numbers.
        known: gives what items have that are named by their id alone; None: they have nothing.
    """

    def __init__(
        self,
        columns: RequestColumns,
        vocabulary: Vocabularies,
        names: ImageNames | None = None,
        item_names: Mapping[str, ImageNames] | None = None,
        known: Callable[[], KnownItems | None] = lambda: None,
    ):
        self.known = known
        self._columns, self._names, self._item_names = columns, names, item_names or {}
        self._said: set[str] = set()
        self.unmatched = Unmatched()
        self._places = RequestPlaces(vocabulary, self.unmatched)

    def batch(self, user: Mapping[str, Any], candidates: Mapping[str, Any] | pa.Table, now_s: float) -> Batch:
        """A row for each candidate, with what the user has in each; no labels.

        Args:
            user: raw values by column name: the user's, the impression's, and the behaviours, oldest first, as lists of
                one length.
            candidates: lists of one length by column name, or a frame of pandas, or a table of Arrow; what belongs to
                the impression may stand here, too, a value for each candidate.
            now_s: seconds, the time of the impression.

        Raises:
            BadInput: a column is unknown to the model or is no list, lists differ in length, or a value is no key,
                number, image id or time.
        """
        columns = self._columns
        person, shown = columns_by_name("user", user), columns_by_name("candidates", candidates)
        apart = [name for name in columns.of_log if name in shown]
        if twice := [name for name in apart if name in person]:
            raise BadInput(f"The request gives {twice[0]!r} of the user and of the candidates. Give it once.")
        of_candidates, of_behaviours = self._known(shown), self._known(person, HISTORY)
        self._check("user", person, columns.of_user, apart, HISTORY if of_behaviours else None)
        self._check("candidates", shown, columns.of_candidates, apart, "" if of_candidates else None)
        found, n = columns_of_one_length("candidates", shown, [*columns.of_candidates, *apart])
        given, length = columns_of_one_length("user", person, columns.behaviours)
        behaviours = {name: latest(column, columns.max_history) for name, column in given.items()}
        m = min(length, columns.max_history)

        now = int(seconds(column_of([now_s], "now_s", "the request"))[0])
        one = {name: column_of([person.get(name)], name, "the user") for name in columns.of_rows if name not in apart}
        row = one | {name: found[name] for name in apart}
        times = self._times(behaviours[HISTORY + "time"], now) if behaviours else np.zeros(0, dtype=np.int64)
        action = self._places.ids(ACTION, behaviours[HISTORY + ACTION]) if behaviours else times
        places = self._places
        parts = [self._values(found, of_candidates)]
        if behaviours:
            done = {name.removeprefix(HISTORY): column for name, column in behaviours.items()}
            parts.append(self._values(done, of_behaviours))
        return Batch(
            labels={},
            timestamp=np.full(n, now),
            ids={name: _each(places.ids(name, row[name]), n, apart=name in apart) for name in columns.ids},
            numbers={name: _each(places.numbers(name, row[name]), n, apart=name in apart) for name in columns.numbers},
            lists={name: _lists(places.lists(name, row[name]), n, apart=name in apart) for name in columns.lists},
            items=self._items(parts),
            target=np.arange(n),
            history=Jagged(np.tile(n + np.arange(m), n), np.arange(n + 1, dtype=np.int64) * m),
            action=np.tile(action, n),
            history_age_s=np.tile(np.maximum(now - times, 1), n),
        )

    def looks_up(self, candidates: Mapping[str, Any] | pa.Table) -> bool:
        """Whether what candidates have is looked up in the known items: they are named by their ids alone."""
        return self._known(columns_by_name("candidates", candidates)) is not None

    def _known(self, given: Collection[str], prefix: str = "") -> KnownItems | None:
        """What has the rest of the items of a request, where it gives their ids alone."""
        alone = [name for name in self._columns.of_candidates if prefix + name in given] == [ITEM]
        return self.known() if alone else None

    def encoded(self, raw: Mapping[str, Column]) -> ItemValues:
        """Raw values of items as a model takes them; an item of which no text is given has none."""
        columns, places = self._columns, self._places
        n = len(raw[ITEM].values)
        none = Jagged.of_lengths(np.zeros(0, dtype=np.int64), np.zeros(n, dtype=np.int64))
        found = {}
        if columns.images:
            hint = "; for names give Scorer.load the manifest, too"
            found[IMAGE] = places.keys(raw[IMAGE], self._names, hint)
        for name in columns.items.keyed:
            if name != IMAGE:
                hint = f"; for names of items give Scorer.load the manifest of the space {name}, too"
                found[name] = places.keys(raw[ITEM], self._item_names.get(name), hint, name)
        return ItemValues(
            {name: places.ids(name, raw[name]) for name in columns.item_ids},
            {name: places.numbers(name, raw[name]) for name in columns.item_numbers},
            {name: places.lists(name, raw[name]) for name in columns.item_lists},
            {name: places.text(name, raw[name]) if name in raw else none for name in columns.text},
            found,
        )

    def _values(self, raw: Mapping[str, Column], known: KnownItems | None) -> tuple[ItemValues, Int64Array]:
        """What items have, and their rows in the table of known items, where they are looked up there."""
        if known is None:
            return self.encoded(raw), np.full(len(raw[ITEM].values), NO_ROW)
        names = keys(raw[ITEM])
        values, rows = known.find(names.to_pylist())
        if (rows == NO_ROW).any():  # the model may know the id alone
            values.ids[ITEM][rows == NO_ROW] = self._places.encode(ITEM, names.filter(pa.array(rows == NO_ROW)))
        return values, rows

    def _items(self, parts: Sequence[tuple[ItemValues, Int64Array]]) -> BatchItems:
        """Candidates, and behind them what the behaviours were of."""
        values = ItemValues.joined([part for part, _ in parts])
        rows = np.concatenate([found for _, found in parts])
        return BatchItems(rows, values.ids, values.numbers, values.lists, values.text, self._vectors(values.keys))

    def _vectors(self, of_items: Mapping[str, Jagged]) -> dict[str, VectorKeys]:
        unique = {name: _unique(found) for name, found in of_items.items()}
        if IMAGE in unique:
            index = self._places.encode(IMAGE, pa.array(unique[IMAGE].unique).cast(pa.string()))
            unique[IMAGE] = replace(unique[IMAGE], unique_index=index)
        spaces = self._columns.spaces
        return {name: unique[IMAGE if key == BY_IMAGE else name] for name, key in spaces.items()}

    def _times(self, column: Column, now: int) -> Int64Array:
        """When behaviours were; one of an unknown time was now."""
        there = pc.invert(pc.is_null(column.values, nan_is_null=True))
        span, of_request = Span(), Span()
        given = span.read(replace(column, values=column.values.filter(there)))
        span.check_dates()
        if len(given) and TIMES not in self._said:
            of_request.read(column_of([now], "now_s", "the request"))
            future = span.last.time > now
            if future or (span | of_request).two_units():
                self._said.add(TIMES)
                log.warning(
                    "the behaviours of a request are of %s (hist_time), and its own time is %s (now_s): %s. Both are "
                    "in seconds; later requests of that kind are not logged",
                    span,
                    of_request,
                    "behaviours lie in the future" if future else "they seem to be in two units",
                )
        found = np.full(len(column.values), now, dtype=np.int64)
        found[np.asarray(there)] = given
        return found

    def _check(
        self, what: str, given: Mapping[str, Any], columns: Sequence[str], apart: Sequence[str], of_table: str | None
    ) -> None:
        """Refuse columns that nobody knows, and log which ones a request lacks, each in the first that does.

        Args:
            what: the user or the candidates.
            given: columns of the request.
            columns: that the model knows.
            apart: columns of the impression that are given of the candidates.
            of_table: what stands before the names of columns that are looked up; None: nothing is.
        """
        if unknown := [name for name in given if name not in columns and name not in apart]:
            raise BadInput(
                f"The {has(what)} a column {unknown[0]!r}; the model knows: {', '.join(columns)}."
                f"{did_you_mean(unknown[0], columns)}"
            )
        looked_up = [] if of_table is None else [of_table + name for name in self._columns.of_candidates]
        missing = [name for name in columns if name not in {*given, *apart, *looked_up}]
        if new := [name for name in missing if name not in self._said]:
            self._said.update(new)
            log.warning(
                "the %s of a request %s %s: unknown to the model here, and in later requests that lack it",
                what,
                "lacks" if what == "user" else "lack",
                ", ".join(map(repr, new)),
            )


def _each(values: Any, n: int, *, apart: bool) -> Any:
    """A value for each candidate, of one for all."""
    return values if apart else np.repeat(values, n)


def _lists(lists: Jagged, n: int, *, apart: bool) -> Jagged:
    return lists if apart else lists.take(np.zeros(n, dtype=np.int64))


def _unique(keys: Jagged) -> VectorKeys:
    unique, index = np.unique(keys.values, return_inverse=True)
    return VectorKeys(unique, np.zeros(0, dtype=np.int64), Jagged(index.reshape(-1).astype(np.int64), keys.offsets))
