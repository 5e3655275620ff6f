"""Pairs in batches: the unique keys of each, how often images are drawn, and which candidates are no negatives.

Legend: N pairs, G pairs of a batch, B of them of this process, K unique keys of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array
from crossmedia.trainer import processes
from crossmedia.trainer.align.pairs import Pairs

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidates:
    """One side of the pairs of a batch, as what the pairs of this process are told from.

    Attributes:
        log_q: shape (G,), log of how often its image is drawn.
        rows: shape (n,), pairs of this process, of which a candidate is no negative.
        columns: shape (n,), these candidates. A pair's own partner is not among them.
    """

    log_q: Float32Array
    rows: Int64Array
    columns: Int64Array


@dataclass(frozen=True)
class PairBatch:
    """Some pairs, of which this process makes the vectors of every ``processes.world()``-th.

    Attributes:
        keys: shape (K,), what vectors are made of: each key of this process's pairs once.
        left: shape (B,), place of the left side of this process's pairs among them.
        right: shape (B,), the same of the right side.
        hard: shape (B,), the same of the hard negative; -1: there is none.
        own: shape (B,), which pairs of the batch are this process's.
        weights: shape (G,), what a pair counts.
        left_side: the left side of all pairs of the batch.
        right_side: the right side of all.
    """

    keys: Int64Array
    left: Int64Array
    right: Int64Array
    hard: Int64Array
    own: Int64Array
    weights: Float32Array
    left_side: Candidates
    right_side: Candidates


class PairBatches:
    """All pairs, cut into batches anew each epoch.

    Args:
        pairs: with N above 0.
        batch_size: pairs in a batch at most; the batches of an epoch are of one size, or one smaller.
        seed: draws the order.
    """

    def __init__(self, pairs: Pairs, batch_size: int, seed: int):
        self._pairs, self._seed = pairs, seed
        self.per_epoch = -(-len(pairs) // batch_size)
        both = np.concatenate([pairs.left, pairs.right])
        self.keys, place, counts = np.unique(both, return_inverse=True, return_counts=True)
        self._log_q = np.log(counts / len(both)).astype(np.float32)
        self._left, self._right = place[: len(pairs)], place[len(pairs) :]
        self._positives = Positives(np.tile(pairs.users, 2), place, len(self.keys))

    def epoch(self, epoch: int) -> Iterator[PairBatch]:
        """Each pair once, in an order drawn by seed and epoch."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._pairs))
        for rows in np.array_split(order, self.per_epoch):
            yield self._batch(rows)

    def _batch(self, rows: Int64Array) -> PairBatch:
        own = np.arange(processes.rank(), len(rows), processes.world())
        pairs, of_own = self._pairs, rows[own]
        left, right = self._left[rows], self._right[rows]
        hard = pairs.negatives[of_own]
        there = hard >= 0
        keys, place = np.unique(
            np.concatenate([pairs.left[of_own], pairs.right[of_own], hard[there]]), return_inverse=True
        )
        of_left, of_right, of_hard = np.split(place, [len(own), 2 * len(own)])
        hard[there] = of_hard
        users = pairs.users[of_own]
        return PairBatch(
            keys=keys,
            left=of_left,
            right=of_right,
            hard=hard,
            own=own,
            weights=pairs.weights[rows].astype(np.float32),
            left_side=Candidates(self._log_q[left], *self._positives.among(users, left, own)),
            right_side=Candidates(self._log_q[right], *self._positives.among(users, right, own)),
        )


class Positives:
    """What each user has among the pairs, on either side: no negative of any of the user's pairs.

    Args:
        users: shape (n,).
        images: shape (n,), places from 0 on, of the users.
        count: of places.
    """

    def __init__(self, users: Int64Array, images: Int64Array, count: int):
        self._users, user = np.unique(users, return_inverse=True)
        found = np.unique(user * count + images)
        self._images = found % count
        self._starts = np.searchsorted(found, np.arange(len(self._users) + 1) * count)
        self._place = np.full(count, -1, dtype=np.int64)  # of an image in the batch at hand

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self._users)

    def among(self, users: Int64Array, images: Int64Array, own: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Which of some images each of some users has: rows and columns of a matrix of users by images.

        Args:
            users: shape (B,).
            images: shape (G,).
            own: shape (B,), column of each user that does not count.
        """
        unique, of_user = np.unique(np.searchsorted(self._users, users), return_inverse=True)
        there, of_image = np.unique(images, return_inverse=True)
        self._place[there] = np.arange(len(there))
        owner, entry = _members(self._starts[unique], self._starts[unique + 1])
        place = self._place[self._images[entry]]
        self._place[there] = -1
        owner, place = owner[place >= 0], place[place >= 0]
        # Each user's image at hand, in each of its columns, in each of the user's rows.
        of_columns, begin, end = _grouped(of_image, len(there))
        entry, column = _members(begin[place], end[place])
        owner, column = owner[entry], of_columns[column]
        of_rows, begin, end = _grouped(of_user, len(unique))
        entry, row = _members(begin[owner], end[owner])
        row, column = of_rows[row], column[entry]
        others = own[row] != column
        return row[others], column[others]


def _members(starts: Int64Array, ends: Int64Array) -> tuple[Int64Array, Int64Array]:
    """All numbers of some ranges, one range after the other, and the range that each is of."""
    lengths = ends - starts
    owners = np.repeat(np.arange(len(starts)), lengths)
    return owners, np.arange(len(owners)) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


def _grouped(groups: Int64Array, count: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Places by their group, and where each of ``count`` groups begins and ends among them."""
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=count))
    return order, np.append(0, ends[:-1]), ends
