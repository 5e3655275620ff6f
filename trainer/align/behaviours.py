"""What the users of samples did in the training part: each behaviour once, and what it counts.

Legend: n behaviours or rows, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.batch import Int64Array
from crossmedia.features.columns import ACTION, ITEM_ROW, label_columns
from crossmedia.features.hashing import Hashes, draw
from crossmedia.features.layout import StoredRows
from crossmedia.features.reading.row_groups import HISTORY_ACTION, HISTORY_ROW, HISTORY_TIME
from crossmedia.features.reading.samples import Samples
from crossmedia.features.slices import column
from crossmedia.trainer.align.keys import Flags
from crossmedia.trainer.align.pair_options import WEIGHTS

USER, DAY_S = "user_id", 86_400
MOST = 1e6  # a weight: sums of products of two are exact enough in fp32
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Behaviours:
    """Behaviours, or rows of the log: who, with which item, when, and what it counts. Shape (n,) each.

    Attributes:
        users: places of the vocabulary.
        items: rows of the item table.
        times: seconds.
        weights: 0: it does not say that the user liked the item.
    """

    users: Int64Array
    items: Int64Array
    times: Int64Array
    weights: FloatArray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def days(self) -> Int64Array:
        """Days since 1970 (UTC)."""
        return self.times // DAY_S

    @property
    def user_items(self) -> Hashes:
        """A number for each user and item."""
        return draw(0, self.users, self.items)

    @property
    def acts(self) -> Hashes:
        """A number for each user, item and second."""
        return draw(1, self.users, self.items, self.times)

    def take(self, chosen: Int64Array | Flags) -> Behaviours:
        """Some of them."""
        return Behaviours(self.users[chosen], self.items[chosen], self.times[chosen], self.weights[chosen])

    def strongest_a_day(self) -> Behaviours:
        """Of one user's with one item on one day the strongest alone; by user and time."""
        order = np.lexsort((self.times, -self.weights, self.items, self.days, self.users))
        found = self.take(order)
        same = np.zeros(len(found), dtype=np.bool_)
        same[1:] = (found.users[1:] == found.users[:-1]) & (found.items[1:] == found.items[:-1])
        same[1:] &= found.days[1:] == found.days[:-1]
        found = found.take(~same)
        return found.take(np.lexsort((found.items, found.times, found.users)))


@dataclass(frozen=True)
class Training:
    """The training part: what its users did, and what they passed over.

    The histories of training rows end before these rows, and so before a user's rows of validation and test, however
    rows are split. They tell all that a user did but the last: a positive row counts as well if its user's histories
    have nothing on its item from its second on.

    Attributes:
        liked: behaviours that count, by user and time; of one user's with one item on one day the strongest.
        passed: rows whose labels are all 0, of items that their user likes nowhere.
        kinds: what a behaviour of each kind counts, by the kind's place, place 0 included. One that ``weights`` does
            not name counts 1; but 0 where training rows say otherwise: where a log is its own history, behaviours are
            rows, and more than half of those of the kind have no label that is 1.
    """

    liked: Behaviours
    passed: Behaviours
    kinds: FloatArray

    @classmethod
    def of(cls, samples: Samples, weights: Mapping[str, float]) -> Training:
        """That of samples; rows and behaviours of items that are held out are among it.

        Args:
            samples: read once, the training part.
            weights: kind of behaviour, or label -> what it counts.

        Raises:
            BadInput: a weight is no number from 0 to a million, or of a kind that the samples do not know.
        """
        _check(samples, weights)
        rows, labels, done, actions = _read(samples)
        kinds = _kinds(samples, weights, rows.acts[labels.any(axis=1)], rows.acts, done.acts, actions)
        of_labels = np.array([weights.get(name, 1.0) for name in samples.labels], dtype=np.float32)
        rows = Behaviours(rows.users, rows.items, rows.times, (labels * of_labels).max(axis=1))
        done = Behaviours(done.users, done.items, done.times, kinds[actions])
        done = done.take(done.weights > 0)
        positive = rows.take(labels[:, 0] & (rows.weights > 0))
        liked = _joined(done, positive.take(~_told(positive, done))).strongest_a_day()
        passed = rows.take(np.flatnonzero(~labels.any(axis=1)))
        return cls(liked, passed.take(~np.isin(passed.user_items, liked.user_items)), kinds)


def _read(samples: Samples) -> tuple[Behaviours, Flags, Behaviours, Int64Array]:
    """Rows and their labels, shape (n, L), behaviours and their kinds; all weights are 1."""
    columns = list(label_columns(samples.labels).values())
    rows: list[list[npt.NDArray[np.int64]]] = []
    done: list[list[npt.NDArray[np.int64]]] = []
    for stored in samples.stored("train"):
        found = [_column(stored, name) for name in (USER, ITEM_ROW, "timestamp", *columns)]
        rows.append(found)
        if samples.actions:
            behaviours = (stored.behaviours[name] for name in (HISTORY_ROW, HISTORY_TIME, HISTORY_ACTION))
            done.append([_owners(stored, found[0]), *(values.astype(np.int64) for values in behaviours)])
    users, items, times, *labels = (np.concatenate(values) for values in zip(*rows, strict=True))
    of_rows = Behaviours(users, items, times, np.ones(len(users), dtype=np.float32))
    if not done:
        nothing = np.zeros(0, dtype=np.int64)
        return of_rows, np.stack(labels, 1) > 0, of_rows.take(nothing), nothing
    # A user whose rows are in several row groups has the same behaviours in each.
    whole = np.stack([np.concatenate(values) for values in zip(*done, strict=True)])
    whole = whole[:, np.unique(draw(2, *whole), return_index=True)[1]]
    users, items, times, actions = whole
    return of_rows, np.stack(labels, 1) > 0, Behaviours(users, items, times, np.ones(len(users), np.float32)), actions


def _column(stored: StoredRows, name: str) -> Int64Array:
    return np.asarray(column(stored.table, name)).astype(np.int64)


def _owners(stored: StoredRows, users: Int64Array) -> Int64Array:
    """The user of each stored behaviour: behaviours of a user lie together, and each is in a history of theirs."""
    some = np.flatnonzero(stored.slices.length > 0)
    by_start = some[np.argsort(stored.slices.start[some], kind="stable")]
    behaviours = np.arange(len(stored.behaviours[HISTORY_ROW]))
    last = np.searchsorted(stored.slices.start[by_start], behaviours, side="right") - 1
    return users[by_start][last]


def _check(samples: Samples, weights: Mapping[str, float]) -> None:
    names = list(samples.labels) + (samples.vocabulary.values[ACTION].to_pylist() if samples.actions else [])
    for name, weight in weights.items():
        if not 0 <= weight <= MOST:
            raise BadInput(f"The weight of {name!r} is {weight}; it must be a number from 0 to {MOST:,.0f}.")
        if name not in names and name not in WEIGHTS:
            raise BadInput(
                f"There is a weight for {name!r}, which is no kind of behaviour and no label of the samples in "
                f"{samples.folder}; these are: {', '.join(names)}.{did_you_mean(name, names)}"
            )


def _kinds(
    samples: Samples,
    weights: Mapping[str, float],
    liked: Hashes,
    rows: Hashes,
    acts: Hashes,
    actions: Int64Array,
) -> FloatArray:
    """See ``Training.kinds``."""
    names = ["", *samples.vocabulary.values[ACTION].to_pylist()] if samples.actions else [""]
    found = np.array([weights.get(name, 1.0) for name in names], dtype=np.float32)
    are_rows = np.bincount(actions[np.isin(acts, rows)], minlength=len(names))
    are_liked = np.bincount(actions[np.isin(acts, liked)], minlength=len(names))
    disliked = ~np.isin(names, list(weights)) & (2 * are_liked < are_rows)
    return np.where(disliked, np.float32(0), found)


def _told(rows: Behaviours, done: Behaviours) -> Flags:
    """Whether behaviours tell of each row already: one of its user with its item, in its second or later."""
    keys, index = np.unique(np.concatenate([done.user_items, rows.user_items]), return_inverse=True)
    last = np.full(len(keys), np.iinfo(np.int64).min)
    np.maximum.at(last, index[: len(done)], done.times)
    told: Flags = last[index[len(done) :]] >= rows.times
    return told


def _joined(first: Behaviours, second: Behaviours) -> Behaviours:
    return Behaviours(
        np.concatenate([first.users, second.users]),
        np.concatenate([first.items, second.items]),
        np.concatenate([first.times, second.times]),
        np.concatenate([first.weights, second.weights]),
    )
