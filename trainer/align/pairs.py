"""Positive pairs: two behaviours of one user, whose vectors should be near each other.

Legend: n behaviours, N pairs, G users and days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from crossmedia.arguments import check_whole, must
from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.batch import Int64Array
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.align.behaviours import Behaviours, FloatArray, Training
from crossmedia.trainer.align.keys import NO_KEY, ItemParts, SpaceKeys
from crossmedia.trainer.align.pair_options import PairOptions, Source

HOUR_S = 3600


@dataclass(frozen=True)
class Pairs:
    """Positive pairs, shape (N,) each.

    Attributes:
        users: place of the vocabulary of the user whose behaviours they are.
        left, right: keys of the space, never the same: of the earlier and of the later behaviour. Where an item has
            several images, each pair has one of them, drawn.
        weights: above 0.
        negatives: key of what the user passed over, -1 where there is none; all of them without ``hard_negatives``.
    """

    users: Int64Array
    left: Int64Array
    right: Int64Array
    weights: FloatArray
    negatives: Int64Array

    def __len__(self) -> int:
        return len(self.users)


def pairs_of(samples: Samples, options: PairOptions, space: str = "image") -> Pairs:
    """The pairs of the training part, in the order of users and of the later behaviour's time.

    They are of training rows and of the histories of these alone, and of no item that is held out (``ItemParts``), nor
    of an image that such an item shows too.

    Args:
        samples: whose training part is read; it has to fit into memory, some 100 bytes a row.
        options: which.
        space: whose keys they are.

    Raises:
        BadInput: an option does not fit, there is no such space or column, or no pair is found.
    """
    _check(options)
    keys, parts = SpaceKeys.of(samples, space), ItemParts.of(samples)
    categories = _categories(samples, options.category)
    training = Training.of(samples, options.weights)
    usable = parts.warm & (keys.slices.length > 0) & (categories >= 0)
    liked = training.liked.take(usable[training.liked.items])
    rng = np.random.default_rng(options.seed)
    earlier, later = _drawn(liked, categories, options, rng)
    left, right = keys.drawn(liked.items[earlier], rng), keys.drawn(liked.items[later], rng)
    passed = training.passed.take(usable[training.passed.items])
    negatives = np.full(len(later), NO_KEY)
    if options.hard_negatives:
        negatives = keys.drawn(_passed_beside(liked.take(later), passed, categories, rng), rng)
    never = keys.of_items(parts.held_out)
    kept = (left != right) & ~np.isin(left, never) & ~np.isin(right, never)
    negatives[np.isin(negatives, never) | (negatives == left) | (negatives == right)] = NO_KEY
    if not kept.any():
        raise BadInput(
            f"{samples.folder} has no pair: no user has two behaviours within {options.window_h:g} hours of items that "
            f"have vectors in {space!r}{options.category and f' and share their {options.category}'}. Allow a longer "
            f"window, or look at the kinds of behaviour that count."
        )
    weights = np.sqrt(liked.weights[earlier] * liked.weights[later])
    return Pairs(liked.users[later][kept], left[kept], right[kept], weights[kept], negatives[kept])


def _check(options: PairOptions) -> None:
    must(options.source in get_args(Source), "source", options.source, f"one of {', '.join(get_args(Source))}")
    check_whole("per_user_day", options.per_user_day)
    must(options.window_h > 0, "window_h", options.window_h, "above 0 hours")


def _categories(samples: Samples, name: str) -> Int64Array:
    """The category of each item, shape (I,); -1 where it is unknown, 0 of all where no category is asked for."""
    table = samples.items
    if not name:
        return np.zeros(table.rows, dtype=np.int64)
    there = [column for column in samples.item_ids if column != "item_id"]
    if name not in there:
        columns = ", ".join(there) or "none"
        raise BadInput(
            f"Items have no id column {name!r} that could be a category; there are: {columns}."
            f"{did_you_mean(name, there)}"
        )
    return np.where(table.ids[name] > 0, table.ids[name], -1).astype(np.int64)


def _drawn(
    liked: Behaviours, categories: Int64Array, options: PairOptions, rng: np.random.Generator
) -> tuple[Int64Array, Int64Array]:
    """The earlier and the later behaviour of each pair, before pairs of one image are left out, shape (N,) each."""
    category = categories[liked.items]
    order = np.lexsort((liked.items, liked.times, category, liked.users))
    before = np.zeros(len(liked), dtype=np.int64)  # how many could be the earlier one, of each behaviour
    before[order] = _within(liked.users[order], category[order], liked.times[order], options.window_h * HOUR_S)
    if options.source == "next":
        before = np.minimum(before, 1)
    place = np.empty(len(liked), dtype=np.int64)
    place[order] = np.arange(len(liked))
    days = liked.days
    new_group = (np.diff(liked.users, prepend=-1) != 0) | (np.diff(days, prepend=np.iinfo(np.int64).min // 2) != 0)
    starts = np.flatnonzero(new_group)
    ends = np.cumsum(before)
    possible = np.add.reduceat(before, starts) if len(starts) else before
    first = np.concatenate([[0], ends])[starts]
    chosen = first.repeat(np.minimum(possible, options.per_user_day)) + some_of_each(
        possible, options.per_user_day, rng
    )
    later = np.searchsorted(ends, chosen, side="right")
    back = ends[later] - chosen  # 1: the one before it of the same user and category
    return order[place[later] - back], later


def _within(users: Int64Array, category: Int64Array, times: Int64Array, window_s: float) -> Int64Array:
    """How many behaviours before each, of the same user and category, are at most so much older.

    Args:
        users: shape (n,), as the other two; they are sorted by all three, in this order.
        category: of each behaviour's item.
        times: seconds.
        window_s: seconds.
    """
    if not len(users):
        return np.zeros(0, dtype=np.int64)
    group = np.cumsum((np.diff(users, prepend=users[0]) != 0) | (np.diff(category, prepend=category[0]) != 0))
    span = int(times.max() - times.min()) + 1
    window = int(min(window_s, span))
    at = group * (span + window) + (times - times.min())
    before: Int64Array = np.arange(len(at)) - np.searchsorted(at, at - window, side="left")
    return before


def some_of_each(sizes: Int64Array, most: int, rng: np.random.Generator) -> Int64Array:
    """Numbers from 0 to size - 1 for each size: all of them, or ``most``, drawn without putting back; ascending.

    Floyd's way of drawing (Bentley and Floyd, CACM 1987) takes ``most`` steps, whatever the sizes.

    Args:
        sizes: shape (G,).
        most: of each.
        rng: draws.

    Returns:
        those of the first size, those of the second, …, shape (sum of min(size, most),).
    """
    counts = np.minimum(sizes, most)
    numbers: Int64Array = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    large = np.flatnonzero(sizes > most)
    if not len(large):
        return numbers
    drawn = np.full((len(large), most), -1, dtype=np.int64)
    for step in range(most):
        top = sizes[large] - most + step
        number = rng.integers(0, top + 1)
        there = (drawn[:, :step] == number[:, None]).any(axis=1)
        drawn[:, step] = np.where(there, top, number)
    drawn.sort(axis=1)
    numbers[np.repeat(sizes > most, counts)] = drawn.reshape(-1)
    return numbers


def _passed_beside(
    liked: Behaviours, passed: Behaviours, categories: Int64Array, rng: np.random.Generator
) -> Int64Array:
    """Of each behaviour an item that its user passed over on its day, of its category; row -1 where there is none."""
    every = np.stack(
        [
            np.concatenate([liked.users, passed.users]),
            np.concatenate([liked.days, passed.days]),
            np.concatenate([categories[liked.items], categories[passed.items]]),
        ]
    )
    _, group = np.unique(every, axis=1, return_inverse=True)
    of_liked, of_passed = group.reshape(-1)[: len(liked)], group.reshape(-1)[len(liked) :]
    order = np.argsort(of_passed, kind="stable")
    first = np.searchsorted(of_passed[order], of_liked, side="left")
    count = np.searchsorted(of_passed[order], of_liked, side="right") - first
    place = first + (rng.random(len(liked)) * count).astype(np.int64)
    return np.where(count > 0, np.append(passed.items[order], -1)[np.where(count > 0, place, -1)], -1)
