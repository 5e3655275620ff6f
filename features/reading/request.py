"""A request as a batch: raw values of one user and of candidates, as a service has them, to what a model is given.

Legend: n candidates, which are the rows of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import NULL_IMAGE, Batch, BatchImages, Int64Array, Jagged
from crossmedia.features.columns import ACTION, HISTORY, IMAGE
from crossmedia.features.reading.unmatched import Unmatched
from crossmedia.features.times import Span, seconds
from crossmedia.features.vocabulary import Vocabularies, tokenize
from crossmedia.forms import near_in_words, other_spellings
from crossmedia.keys import Column, column_of, image_ids, keys, texts
from crossmedia.names import ImageNames

MOST_ACTIONS = 20  # that a message lists
TIMES = "times that do not fit"  # beside names of columns
UNNAMED = "names of images that the manifest lacks"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestColumns:
    """Columns that a model knows.

    Attributes:
        user: ids of the user.
        item: ids of an item.
        text: words of an item.
        images: whether it knows images.
        max_history: behaviours that it takes at most; 0: none.
    """

    user: tuple[str, ...]
    item: tuple[str, ...]
    text: tuple[str, ...]
    images: bool
    max_history: int

    @property
    def of_item(self) -> list[str]:
        """What an item has, as a candidate and as a behaviour."""
        return [*self.item, *([IMAGE] if self.images else [])]

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
        """What a request may give of the user."""
        return [*self.user, *self.behaviours]


class RequestReader:
    """Makes batches of requests; what requests lack is logged once, whichever of them lacks it.

    Attributes:
        unmatched: what requests gave and nothing matched.

    Args:
        columns: that the model knows.
        vocabulary: raw values to places; kept as dictionaries, some 100 bytes a value.
        names: of images, for requests that give them; None: requests give ids.
    """

    def __init__(self, columns: RequestColumns, vocabulary: Vocabularies, names: ImageNames | None = None):
        self._columns, self._names = columns, names
        self._said: set[str] = set()
        self.unmatched = Unmatched()
        self._places = {
            name: {value: place for place, value in enumerate(values.to_pylist(), 1)}
            for name, values in vocabulary.values.items()
        }

    def batch(self, user: Mapping[str, Any], candidates: Mapping[str, Any] | pa.Table, now_s: float) -> Batch:
        """A row for each candidate, with the user's ids and behaviours in each; no labels.

        Args:
            user: raw values by column name: the user's ids, and the behaviours, oldest first, as lists of one length.
            candidates: lists of one length by column name, or a frame of pandas, or a table of Arrow.
            now_s: seconds, the time of the impression.

        Raises:
            BadInput: a column is unknown to the model or is no list, lists differ in length, or a value is no key,
                image id or time.
        """
        columns = self._columns
        person, shown = _columns("user", user), _columns("candidates", candidates)
        self._check("user", person, columns.of_user)
        self._check("candidates", shown, columns.of_candidates)
        found, n = _lists("candidates", shown, columns.of_candidates)
        given, length = _lists("user", person, columns.behaviours)
        behaviours = {name: _latest(column, columns.max_history) for name, column in given.items()}
        offsets = np.arange(n + 1, dtype=np.int64) * min(length, columns.max_history)

        now = int(seconds(column_of([now_s], "now_s", "the request"))[0])
        history, times, seen = self._history(behaviours, now)
        ids = {
            name: np.repeat(self._ids_of(name, keys(column_of([person.get(name)], name, "the user"))), n)
            for name in columns.user
        }
        ids |= {name: self._ids_of(name, keys(found[name])) for name in columns.item}
        return Batch(
            labels={},
            timestamp=np.full(n, now),
            ids=ids,
            history={name: Jagged(np.tile(places, n), offsets) for name, places in history.items()},
            history_age_s=np.tile(np.maximum(now - times, 1), n),
            text={name: self._text(name, texts(found[name])) for name in columns.text},
            images=self._images(self._image_ids(found[IMAGE]), seen, offsets) if columns.images else None,
        )

    def _history(
        self, behaviours: Mapping[str, Column], now: int
    ) -> tuple[dict[str, Int64Array], Int64Array, Int64Array]:
        """Places of the behaviours by column, their times, and the ids of their images."""
        none = np.zeros(0, dtype=np.int64)
        if not behaviours:
            return {}, none, none
        names = (*self._columns.item, ACTION)
        places = {name: self._ids_of(name, keys(behaviours[HISTORY + name])) for name in names}
        images = self._image_ids(behaviours[HISTORY + IMAGE]) if self._columns.images else none
        return places, self._times(behaviours[HISTORY + "time"], now), images

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

    def _check(self, what: str, given: Mapping[str, Any], columns: Sequence[str]) -> None:
        """Refuse columns that nobody knows, and log which ones a request lacks, each in the first that does."""
        if unknown := [name for name in given if name not in columns]:
            raise BadInput(f"The {_has(what)} a column {unknown[0]!r}; the model knows: {', '.join(columns)}.")
        missing = [name for name in columns if name not in given]
        if new := [name for name in missing if name not in self._said]:
            self._said.update(new)
            log.warning(
                "the %s of a request %s %s: unknown to the model here, and in later requests that lack it",
                what,
                "lacks" if what == "user" else "lack",
                ", ".join(map(repr, new)),
            )

    def _image_ids(self, images: Column) -> Int64Array:
        """Image ids of what a request gives, where it may give names."""
        if self._names is None:
            return image_ids(images, "; for names give Scorer.load the manifest, too")
        names = keys(images)
        found = self._names.find(names)
        absent = names.filter(pc.and_(pc.is_valid(names), pa.array(found == NULL_IMAGE)))
        if len(absent):
            near = near_in_words(self._names.near(absent), len(absent))
            self.unmatched.add(UNNAMED, absent.to_pylist(), len(names), f"They count as no image.{near}".rstrip("."))
        return found

    def _encode(self, column: str, found: pa.Array) -> Int64Array:
        places = self._places[column]
        return np.array([places.get(key, 0) for key in found.to_pylist()], dtype=np.int64)

    def _ids_of(self, column: str, found: pa.Array) -> Int64Array:
        """Places of ids or actions; those that are most likely another one, written in another way, are counted."""
        encoded, places = self._encode(column, found), self._places[column]
        if encoded.all():
            return encoded
        unknown = [found[row].as_py() for row in np.flatnonzero(encoded == 0).tolist() if found[row].is_valid]
        if column == ACTION:
            known = ", ".join(map(ascii, sorted(places)[:MOST_ACTIONS]))
            self.unmatched.add(
                "actions that are in no training row", unknown, len(found), f"The model knows {known}, and no others"
            )
            return encoded
        other = {word: form for word in unknown for form in other_spellings(word) if form in places}
        if other:
            words, first = [word for word in unknown if word in other], next(iter(other))
            known = f"The model knows {other[first]!a}, and not {first!a}: write ids as the log did"
            self.unmatched.add(f"values of {column} in another spelling", words, len(found), known)
        return encoded

    def _text(self, column: str, found: pa.Array) -> Jagged:
        words = tokenize(found)
        return Jagged(self._encode(column, words.values), np.asarray(words.offsets).astype(np.int64))

    def _images(self, target: Int64Array, shown: Int64Array, offsets: Int64Array) -> BatchImages:
        every = np.concatenate([target, shown])
        unique, index = np.unique(every, return_inverse=True)
        null = int(len(unique) > 0 and unique[0] == NULL_IMAGE)
        unique, index = unique[null:], index.reshape(-1) - null
        n = len(target)
        history = Jagged(np.tile(index[n:], n), offsets)
        return BatchImages(unique, self._encode(IMAGE, pa.array(unique).cast(pa.string())), index[:n], history)


def _columns(what: str, given: Any) -> dict[str, Any]:
    """What a request gives, by the names of columns."""
    if what != "user" and isinstance(given, pa.Table | pa.RecordBatch):
        return dict(zip(given.column_names, given.columns, strict=True))
    frame = hasattr(given, "columns")  # of pandas, which is like a mapping
    if isinstance(given, Mapping) or (hasattr(given, "keys") and not (what == "user" and frame)):
        return {name: given[name] for name in given.keys()}  # noqa: SIM118  # a frame iterates over rows otherwise
    taken = "a dict of values and lists" if what == "user" else "a dict of lists, a pandas DataFrame or an Arrow table"
    raise BadInput(f"The {_is(what)} {_kind(given)}; give columns by name: {taken}.")


def _lists(what: str, given: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Column], int]:
    """Columns of one length, nulls where one is not given, and that length."""
    found = {name: _list(what, name, given[name]) for name in names if name in given}
    lengths = {name: len(column.values) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise BadInput(f"The {_has(what)} lists of several lengths: {lengths}; all must have one.")
    length = next(iter(lengths.values()), 0)
    return {name: found.get(name) or Column(pa.nulls(length), name, f"the {what}") for name in names}, length


def _list(what: str, name: str, values: Any) -> Column:
    """A column of several values; text would be taken for a list of letters."""
    several = isinstance(values, Sequence | pa.Array | pa.ChunkedArray) or getattr(values, "ndim", 0) == 1
    if not several or isinstance(values, str | bytes):
        each = "behaviour" if what == "user" else "candidate"
        raise BadInput(f"The column {name!r} of the {what} is {_kind(values)}; give a list, a value for each {each}.")
    return column_of(values, name, f"the {what}")


def _latest(column: Column, most: int) -> Column:
    """The last values of a column, ``most`` of them."""
    first = max(0, len(column.values) - most)
    return replace(column, values=column.values[first:], first_row=first)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _is(what: str) -> str:
    return "user is" if what == "user" else f"{what} are"


def _has(what: str) -> str:
    return "user has" if what == "user" else f"{what} have"
