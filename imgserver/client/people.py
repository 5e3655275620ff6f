"""What a server has for people, in calls that it takes: small JPEGs of photos, and what numbers of a vector mean."""

from __future__ import annotations

import numpy as np

from crossmedia.concepts import ConceptCard
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.retries import Deadline, ask
from crossmedia.imgserver.client.server_info import Limits
from crossmedia.imgserver.client.servers import Servers
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import GET_CONCEPTS, GET_THUMBNAILS
from crossmedia.keys import NULL_IMAGE
from crossmedia.v1 import image_server_pb2 as pb


def thumbnails(servers: Servers, limits: Limits, ids: Ids, max_side: int, deadline: Deadline) -> list[bytes | None]:
    """What ``ImageClient.thumbnails`` does, within the limits that the servers told."""
    step = limits.max_thumbnails_per_call
    result: list[bytes | None] = [None] * len(ids)
    real = np.flatnonzero(ids != NULL_IMAGE)

    def draw(transport: Transport, rows: Ids) -> None:
        for start in range(0, len(rows), step):
            part = real[rows[start : start + step]]
            request = pb.GetThumbnailsRequest(image_ids=ids[part].astype("<i8").tobytes(), max_side=max_side)
            reply = ask(transport, GET_THUMBNAILS, request, deadline)
            jpegs = replies.thumbnails(reply, ids[part], max_side, transport.address)
            for row, jpeg in zip(part.tolist(), jpegs, strict=True):
                result[row] = jpeg

    servers.of_each(ids[real], draw)
    return result


def concepts(servers: Servers, version: str, deadline: Deadline) -> ConceptCard:
    """What ``ImageClient.concepts`` does; any server answers for all."""
    transport = servers.transports[0]
    reply = ask(transport, GET_CONCEPTS, pb.GetConceptsRequest(version=version), deadline)
    return replies.concepts(reply, version, transport.address)
