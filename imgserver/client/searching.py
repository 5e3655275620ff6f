"""Queries to the similarity index, in calls that the server takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import InvalidRequest, VersionMismatch
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.ids import Ids, as_ids
from crossmedia.imgserver.client.putting import parts
from crossmedia.imgserver.client.results import Neighbours, ServerInfo
from crossmedia.imgserver.client.retries import until_answered
from crossmedia.imgserver.client.transports import Transport
from crossmedia.v1 import image_server_pb2 as pb

Queries = Sequence[int] | npt.NDArray[Any] | Sequence[bytes]


def search(
    transport: Transport,
    limits: ServerInfo,
    version: str,
    queries: Queries,
    k: int,
    deadline: float,
    timeout_s: float,
) -> Neighbours:
    """What ``ImageClient.search`` does, within the limits that the server told."""
    if k < 1:
        raise InvalidRequest(f"k is {k}; ask for 1 neighbour or more.")
    if 0 < limits.max_neighbours < k:
        raise InvalidRequest(f"k is {k}; the server gives at most {limits.max_neighbours} neighbours of an image.")
    ids, cosines, status = [np.zeros((0, k), np.int64)], [np.zeros((0, k), np.float32)], [np.zeros(0, np.uint8)]
    images = 0
    for request, rows, own in _requests(limits, queries):
        request.version, request.k = version, k
        reply = until_answered(partial(transport.search, request), deadline, timeout_s)
        if version and reply.version != version:
            raise VersionMismatch(
                f"The index changed from {version} to {reply.version} between two calls. Search again."
            )
        near, alike, answered = replies.neighbours(reply, rows, k, own, transport.address)
        ids.append(near)
        cosines.append(alike)
        status.append(answered)
        version, images = reply.version, reply.images
    return Neighbours(np.concatenate(ids), np.concatenate(cosines), np.concatenate(status), version, images)


def best_of(parts: Sequence[Neighbours]) -> Neighbours:
    """The nearest of all, from what servers that each own a part found to the same queries.

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


def _requests(limits: ServerInfo, queries: Queries) -> Iterator[tuple[pb.SearchRequest, int, Ids | None]]:
    """Requests, how many queries each holds, and their ids, if they are no photos."""
    most = max(1, limits.max_queries_per_search)  # a server without Search says 0, and then what is wrong
    if len(queries) and isinstance(queries[0], bytes):
        photos = [bytes(photo) for photo in queries]
        for run in parts([len(photo) for photo in photos], most, limits.message_bytes):
            yield pb.SearchRequest(photos=photos[run]), len(photos[run]), None
        return
    ids = as_ids(queries)
    for start in range(0, len(ids), most):
        block = ids[start : start + most]
        yield pb.SearchRequest(image_ids=block.astype("<i8").tobytes()), len(block), block
