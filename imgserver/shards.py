"""Virtual shards: 1,024 parts of all image ids, each owned by one server of a list by rendezvous hashing.

Every client finds the same owner from the same list, in whatever order it is written; when a server joins or leaves,
only the shards that it gains or held have another owner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

SHARDS = 1024


def shards_of(ids: Ids) -> npt.NDArray[np.int64]:
    """The virtual shard of each id, shape (n,): the low bits of splitmix64, so that no pattern of ids is uneven."""
    x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(SHARDS)).astype(np.int64)


def owners(servers: Sequence[str]) -> npt.NDArray[np.int64]:
    """The place in ``servers`` of each shard's owner, shape (1024,): the one whose hash with the shard is highest."""

    def weight(server: str, shard: int) -> bytes:
        return hashlib.blake2b(f"{server}/{shard}".encode(), digest_size=8).digest()

    return np.array(
        [max(range(len(servers)), key=lambda place: weight(servers[place], shard)) for shard in range(SHARDS)]
    )
