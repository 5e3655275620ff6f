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
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PairBatch:
    """Some pairs, of which this process makes the vectors of every ``processes.world()``-th.

    Attributes:
        keys: shape (K,), what vectors are made of: each key of this process's pairs once.
        left, right: shape (B,), place of each side of this process's pairs among them.
        hard: shape (B,), the same of the hard negative; -1: there is none.
        own: shape (B,), which pairs of the batch are this process's.
        weights: shape (G,), what a pair counts.
        log_q_left, log_q_right: shape (G,), log of how often an image is drawn.
        false_left, false_right: shape (B, G), whether a left or right image of the batch is no negative of a pair.
    """

    keys: Int64Array
    left: Int64Array
    right: Int64Array
    hard: Int64Array
    own: Int64Array
    weights: Float32Array
    log_q_left: Float32Array
    log_q_right: Float32Array
    false_left: Flags
    false_right: Flags


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
        false_left, false_right = self._positives.among(pairs.users[of_own], left, right)
        itself = np.arange(len(own)), own
        false_left[itself] = false_right[itself] = False
        return PairBatch(
            keys=keys,
            left=of_left,
            right=of_right,
            hard=hard,
            own=own,
            weights=pairs.weights[rows].astype(np.float32),
            log_q_left=self._log_q[left],
            log_q_right=self._log_q[right],
            false_left=false_left,
            false_right=false_right,
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

    def among(self, users: Int64Array, *sides: Int64Array) -> list[Flags]:
        """Of each user of some, shape (B,), and each image of some sides, shape (G,): whether it is a positive."""
        unique, of_user = np.unique(np.searchsorted(self._users, users), return_inverse=True)
        images, of_image = np.unique(np.concatenate(sides), return_inverse=True)
        self._place[images] = np.arange(len(images))
        lengths = self._starts[unique + 1] - self._starts[unique]
        owners = np.repeat(np.arange(len(unique)), lengths)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = self._place[self._images[self._starts[unique][owners] + within]]
        self._place[images] = -1
        table = np.zeros((len(unique), len(images)), dtype=np.bool_)
        table[owners[places >= 0], places[places >= 0]] = True
        return [table[:, side][of_user] for side in np.split(of_image, np.cumsum([len(side) for side in sides])[:-1])]
