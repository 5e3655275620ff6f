"""Queries to the similarity index, in calls that the server takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.arguments import must
from crossmedia.errors import InvalidRequest, VersionMismatch
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.arguments import check_queries
from crossmedia.imgserver.client.ids import Ids, as_ids
from crossmedia.imgserver.client.putting import as_utf_8, parts
from crossmedia.imgserver.client.results import Neighbours
from crossmedia.imgserver.client.retries import Deadline, ask
from crossmedia.imgserver.client.server_info import Limits
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import SEARCH
from crossmedia.v1 import image_server_pb2 as pb

Queries = Sequence[int] | npt.NDArray[Any] | Sequence[bytes] | Sequence[str]


@dataclass(frozen=True)
class Query:
    """What a search asks for.

    Attributes:
        queries: image ids, photos as bytes, or words as text.
        k: neighbours of each.
        version: whose vectors are to be compared; empty: whatever the similarity index has.
    """

    queries: Queries
    k: int
    version: str

    def __post_init__(self) -> None:
        check_queries(self.queries)
        must(isinstance(self.k, Integral) and not isinstance(self.k, bool), "k", self.k, "a whole number")

    @property
    def by_id(self) -> bool:
        """Whether the queries are images by id, and bring nothing themselves."""
        return not (len(self.queries) and isinstance(self.queries[0], bytes | str))

    def requests(self, limits: Limits) -> Iterator[tuple[pb.SearchRequest, int, Ids | None]]:
        """Requests that a server takes, how many queries each holds, and their ids, if they are images by id."""
        most = max(1, limits.max_queries_per_search)  # a server without Search says 0, and then what is wrong
        if not self.by_id:
            words = isinstance(self.queries[0], str)
            brought = [as_utf_8(query) if isinstance(query, str) else bytes(query) for query in self.queries]
            for run in parts([len(data) for data in brought], most, limits.message_bytes):
                given = brought[run]
                texts = [data.decode() for data in given] if words else ()
                yield pb.SearchRequest(photos=() if words else given, texts=texts, k=self.k), len(given), None
            return
        ids = as_ids(self.queries)
        for start in range(0, len(ids), most):
            block = ids[start : start + most]
            yield pb.SearchRequest(image_ids=block.astype("<i8").tobytes(), k=self.k), len(block), block


def search(transport: Transport, limits: Limits, query: Query, deadline: Deadline) -> Neighbours:
    """What ``ImageClient.search`` does, within the limits that the server told."""
    k, version, images = query.k, query.version, 0
    if k < 1:
        raise InvalidRequest(f"k is {k}; ask for 1 neighbour or more.")
    if 0 < limits.max_neighbours < k:
        raise InvalidRequest(f"k is {k}; the server gives at most {limits.max_neighbours} neighbours of a query.")
    ids, cosines, status = [np.zeros((0, k), np.int64)], [np.zeros((0, k), np.float32)], [np.zeros(0, np.uint8)]
    for request, rows, own in query.requests(limits):
        request.version = version
        reply = ask(transport, SEARCH, request, deadline)
        if version and reply.version != version:
            raise VersionMismatch(
                f"The similarity index changed from {version} to {reply.version} between two calls. Search again."
            )
        near, alike, answered = replies.neighbours(reply, rows, k, own, transport.address)
        ids.append(near)
        cosines.append(alike)
        status.append(answered)
        version, images = reply.version, reply.images
    return Neighbours(np.concatenate(ids), np.concatenate(cosines), np.concatenate(status), version, images)


def best_of(parts: Sequence[Neighbours]) -> Neighbours:
    """The nearest of all, from what servers that each own a part found for the same queries.

    Raises:
        VersionMismatch: they compared vectors of different versions.
    """
    if len(parts) == 1:
        return parts[0]
    if len(versions := {part.version for part in parts}) > 1:
        raise VersionMismatch(f"The servers searched different versions: {', '.join(sorted(versions))}.")
    k = parts[0].image_ids.shape[1]
    ids = np.concatenate([part.image_ids for part in parts], axis=1)
    cosines = np.concatenate([part.cosines for part in parts], axis=1)
    best = np.argsort(np.where(ids < 0, 2.0, -cosines), axis=1, kind="stable")[:, :k]
    return Neighbours(
        np.take_along_axis(ids, best, axis=1),
        np.take_along_axis(cosines, best, axis=1),
        parts[0].status,
        parts[0].version,
        sum(part.images for part in parts),
    )
