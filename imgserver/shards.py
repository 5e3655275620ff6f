"""Virtual shards: 1,024 parts of all image ids, each owned by one server of a list by rendezvous hashing.

Every client finds the same owner from the same list, in whatever order it is written; when a server joins or leaves,
only the shards that it gains or held have another owner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crossmedia.errors import BadInput, WrongShard

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


class Ownership:
    """What one server of a list owns, and who owns the rest.

    Args:
        servers: addresses, in any order.
        me: this server's among them; or one that is not (any more), which owns nothing.

    Attributes:
        servers: sorted.
        me: as given.
        owner: the place in ``servers`` of each virtual shard's owner, shape (1024,).
        mine: which virtual shards this server owns, shape (1024,).

    Raises:
        BadInput: no servers, one twice, or no name of this one.
    """

    def __init__(self, servers: Sequence[str], me: str):
        if not servers or len(set(servers)) < len(servers) or not all(servers):
            raise BadInput(f"A list of servers names each once; got {', '.join(servers) or 'none'}.")
        if not me:
            raise BadInput(f"Which of {', '.join(servers)} is meant? Give --me, as it stands in the list.")
        self.servers, self.me = sorted(servers), me
        self.owner = owners(self.servers)
        self.mine: npt.NDArray[np.bool_] = np.array([server == me for server in self.servers])[self.owner]

    def check(self, ids: Ids) -> None:
        """Refuse images that this server does not own.

        Args:
            ids: shape (n,).

        Raises:
            WrongShard: there is one among them.
        """
        shards = shards_of(ids)
        mine = self.mine[shards]
        if mine.all():
            return
        first = int(np.argmin(mine))
        raise WrongShard(
            f"Image {ids[first]} is in virtual shard {shards[first]}, which {self.servers[self.owner[shards[first]]]} "
            f"owns; this server is {self.me}, and {len(ids) - int(mine.sum())} of {len(ids)} ids are not its own. Give "
            f"clients the whole list, --server {','.join(self.servers)}; after a change of it start the run again."
        )


def ownership_of(servers: tuple[str, ...] | None, me: str, *, leaving: bool = False) -> Ownership | None:
    """What ``me`` owns; None without servers.

    Args:
        servers: of ``--servers``.
        me: of ``--me``.
        leaving: whether ``me`` may be none of them.

    Raises:
        BadInput: one of the two is missing or wrong.
    """
    if not servers:
        if me:
            raise BadInput(f"--me {me} says nothing without --servers, the list that it is one of.")
        return None
    ownership = Ownership(servers, me)
    if not leaving and me not in servers:
        raise BadInput(f"--me {me} is none of --servers {','.join(servers)}. Write it as it stands in the list.")
    return ownership
