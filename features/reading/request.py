"""A request as a batch: raw values of one user and of candidates, as a service has them, to what a model is given.

Legend: n candidates, which are the rows of the batch; m behaviours of the user.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import NO_ROW, Batch, BatchItems, Int64Array, Jagged, VectorKeys, join
from crossmedia.features.columns import ACTION, HISTORY, IMAGE, ITEM
from crossmedia.features.reading.request_columns import columns_by_name, columns_of_one_length, has, latest
from crossmedia.features.reading.request_places import RequestPlaces
from crossmedia.features.reading.unmatched import Unmatched
from crossmedia.features.spec import BY_IMAGE
from crossmedia.features.times import Span, seconds
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.keys import Column, column_of
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
    """

    def __init__(
        self,
        columns: RequestColumns,
        vocabulary: Vocabularies,
        names: ImageNames | None = None,
        item_names: Mapping[str, ImageNames] | None = None,
    ):
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
        self._check("user", person, columns.of_user, apart)
        self._check("candidates", shown, columns.of_candidates, apart)
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
        return Batch(
            labels={},
            timestamp=np.full(n, now),
            ids={name: _each(places.ids(name, row[name]), n, apart=name in apart) for name in columns.ids},
            numbers={name: _each(places.numbers(name, row[name]), n, apart=name in apart) for name in columns.numbers},
            lists={name: _lists(places.lists(name, row[name]), n, apart=name in apart) for name in columns.lists},
            items=self._items(found, behaviours, n, m),
            target=np.arange(n),
            history=Jagged(np.tile(n + np.arange(m), n), np.arange(n + 1, dtype=np.int64) * m),
            action=np.tile(action, n),
            history_age_s=np.tile(np.maximum(now - times, 1), n),
        )

    def _items(self, found: Mapping[str, Column], behaviours: Mapping[str, Column], n: int, m: int) -> BatchItems:
        """Candidates, and behind them what the behaviours were of."""
        columns, places = self._columns, self._places
        both = {name: [found[name], *_of(behaviours, name)] for name in columns.of_item}
        text = {name: places.text(name, found[name]) for name in columns.text}
        none = Jagged.of_lengths(np.zeros(0, dtype=np.int64), np.zeros(m, dtype=np.int64))
        return BatchItems(
            rows=np.full(n + m, NO_ROW),
            ids={name: np.concatenate([places.ids(name, c) for c in both[name]]) for name in columns.item_ids},
            numbers={
                name: np.concatenate([places.numbers(name, c) for c in both[name]]) for name in columns.item_numbers
            },
            lists={name: join([places.lists(name, c) for c in both[name]]) for name in columns.item_lists},
            text={name: join([found, none]) for name, found in text.items()},  # a behaviour's is not looked at
            vectors=self._vectors(both),
        )

    def _vectors(self, both: Mapping[str, Sequence[Column]]) -> dict[str, VectorKeys]:
        vectors, of_images = {}, None
        if self._columns.images:
            hint = "; for names give Scorer.load the manifest, too"
            cells = [self._places.keys(c, self._names, hint) for c in both[IMAGE]]
            of_images = _unique(join(cells))
            index = self._places.encode(IMAGE, pa.array(of_images.unique).cast(pa.string()))
            of_images = replace(of_images, unique_index=index)
        for name, key in self._columns.spaces.items():
            if key == BY_IMAGE:
                assert of_images is not None
                vectors[name] = of_images
                continue
            hint = f"; for names of items give Scorer.load the manifest of the space {name}, too"
            names = self._item_names.get(name)
            vectors[name] = _unique(join([self._places.keys(c, names, hint, name) for c in both[ITEM]]))
        return vectors

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

    def _check(self, what: str, given: Mapping[str, Any], columns: Sequence[str], apart: Sequence[str]) -> None:
        """Refuse columns that nobody knows, and log which ones a request lacks, each in the first that does."""
        if unknown := [name for name in given if name not in columns and name not in apart]:
            raise BadInput(f"The {has(what)} a column {unknown[0]!r}; the model knows: {', '.join(columns)}.")
        missing = [name for name in columns if name not in given and name not in apart]
        if new := [name for name in missing if name not in self._said]:
            self._said.update(new)
            log.warning(
                "the %s of a request %s %s: unknown to the model here, and in later requests that lack it",
                what,
                "lacks" if what == "user" else "lack",
                ", ".join(map(repr, new)),
            )


def _of(behaviours: Mapping[str, Column], name: str) -> list[Column]:
    return [behaviours[HISTORY + name]] if behaviours else []


def _each(values: Any, n: int, *, apart: bool) -> Any:
    """A value for each candidate, of one for all."""
    return values if apart else np.repeat(values, n)


def _lists(lists: Jagged, n: int, *, apart: bool) -> Jagged:
    return lists if apart else lists.take(np.zeros(n, dtype=np.int64))


def _unique(keys: Jagged) -> VectorKeys:
    unique, index = np.unique(keys.values, return_inverse=True)
    return VectorKeys(unique, np.zeros(0, dtype=np.int64), Jagged(index.reshape(-1).astype(np.int64), keys.offsets))
