"""A head to the servers, and its gradient back: one call to each server that owns some of the images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.client import ImageClient
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.replies import Gradient
from crossmedia.imgserver.client.retries import Deadline, ask
from crossmedia.imgserver.client.servers import at_once
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import GET_HEAD_GRADIENT, PUT_HEAD
from crossmedia.v1 import image_server_pb2 as pb


@dataclass(frozen=True)
class HeadState:
    """A head as it is now.

    Attributes:
        version: of these weights, ``Head.version``.
        weights: what ``Head.to_bytes`` gives.
    """

    version: str
    weights: bytes


def put_head(client: ImageClient, run_id: str, head: HeadState, deadline: Deadline) -> None:
    """Have the servers hold a head, so that vectors and gradients of its version can be asked for.

    Args:
        client: of the servers.
        run_id: the run that it belongs to; the server keeps the latest few of each.
        head: as it is now.
        deadline: retries included.

    Raises:
        InvalidRequest, BadInput: the server refuses it.
        VersionMismatch: the server has no features of that backbone.
        ServerFault: the server says that it holds another.
        ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
    """
    request = pb.PutHeadRequest(run_id=run_id, version=head.version, head=head.weights, owner=pb.HEAD_OWNER_TRAINER)

    def put(transport: Transport) -> None:
        replies.held(ask(transport, PUT_HEAD, request, deadline), head.version, transport.address)

    at_once([partial(put, transport) for transport in client.servers.transports])
    client.count(head_bytes_sent=len(head.weights) * len(client.servers))


def head_gradient(
    client: ImageClient, head: HeadState, image_ids: Ids, d_vectors: npt.NDArray[np.float32], deadline: Deadline
) -> list[Gradient]:
    """The gradient of a head's weights for gradients of its vectors.

    Args:
        client: of the servers.
        head: that was put.
        image_ids: shape (n,), as they were asked for.
        d_vectors: shape (n, D); zeros where there was no vector.
        deadline: retries included.

    Returns:
        parts whose sum it is, name of a weight -> its gradient: one part, unless the ids took several calls; in the
        same order for the same servers.

    Raises:
        VersionMismatch: the server does not hold the head (any more): put it again.
        InvalidRequest: a gradient is not finite.
        ServerFault: what came is no gradient of such weights.
        ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.
    """
    step = client.described(deadline).limits.ids_per_call(8 + 4 * d_vectors.shape[1])

    def of_server(transport: Transport, rows: Ids) -> list[Gradient]:
        gradients = []
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            request = pb.GetHeadGradientRequest(
                version=head.version,
                image_ids=image_ids[part].astype("<i8").tobytes(),
                d_vectors=np.ascontiguousarray(d_vectors[part], dtype="<f4").tobytes(),
            )
            reply = ask(transport, GET_HEAD_GRADIENT, request, deadline)
            gradients.append(replies.gradient(reply, head.version, head.weights, transport.address))
            sent = len(request.image_ids) + len(request.d_vectors)
            client.count(bytes_sent=sent, head_bytes_received=len(reply.gradient))
        return gradients

    return [one for _, gradients in client.servers.of_each(image_ids, of_server) for one in gradients]
