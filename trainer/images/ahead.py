"""The one way vectors come to whoever trains: fetched in a thread for the batches to come, and sent where they train.

``fit`` takes it for the rows of its samples, ``crossmedia.torch.with_vectors`` for the batches of any loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from crossmedia.features.reading.prefetch import ahead
from crossmedia.trainer.images.spaces import Fetched, Keys, Spaces
from crossmedia.trainer.one_copy import Sent, sent

Work = TypeVar("Work")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Wanted(Generic[Made]):
    """What a batch needs.

    Attributes:
        keys: shape (K,), of its vectors, each once, by space.
        made: arrays that go to the device beside the vectors, in the same copy: see ``sent``.
    """

    keys: Keys
    made: Made


@dataclass(frozen=True)
class Ready(Generic[Work, Made]):
    """A batch whose turn it is; ``spaces(ready.keys, ready.fetched)`` makes its vectors.

    Attributes:
        of: the batch, as its source gave it.
        keys: as of ``Wanted``.
        made: likewise, of tensors on the device.
        fetched: what ``Spaces.fetch`` gave for the keys, on the device.
    """

    of: Work
    keys: Keys
    made: Made
    fetched: Fetched


def vectors_ahead(
    source: Iterable[Work],
    wanted: Callable[[Work], Wanted[Made]],
    spaces: Spaces,
    device: torch.device,
    depth: int = 2,
) -> Iterator[Ready[Work, Made]]:
    """Each batch of a source, with what its vectors need fetched ahead and copied to the device at once.

    Args:
        source: of batches; read in a thread.
        wanted: what a batch needs; called there.
        spaces: where the vectors come from.
        device: that trains.
        depth: batches that are under way, if a head that learns can use so many.

    Raises:
        Exception: as ``ahead``.
    """

    def prepared(batch: Work) -> tuple[Keys, Sent[_Arrays[Made]]]:
        needs = wanted(batch)
        return needs.keys, sent(_Arrays(needs.made, spaces.fetch(needs.keys)), device)

    for batch, (keys, under_way) in ahead(source, prepared, min(depth, spaces.depth)):
        arrays = under_way.arrived()
        yield Ready(batch, keys, arrays.made, arrays.fetched)


@dataclass(frozen=True)
class _Arrays(Generic[Made]):
    made: Made
    fetched: Fetched
