"""A head on one server or several: each answers for the images that it owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from crossmedia.arguments import must
from crossmedia.errors import NotReady, VersionMismatch
from crossmedia.imgserver.client.client import ImageClient
from crossmedia.imgserver.client.head_replies import Gradient, gradient, held
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.results import FetchStats, Vectors
from crossmedia.imgserver.client.retries import Answer, Deadline, ask
from crossmedia.imgserver.client.security import ClientSecurity
from crossmedia.imgserver.client.servers import at_once
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import GET_HEAD_GRADIENT, PUT_HEAD
from crossmedia.v1 import image_server_pb2 as pb

# A head that was put may be pushed out by others of its run before it is asked for, but not for ever.
MOST_TRIES = 4


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
        held(ask(transport, PUT_HEAD, request, deadline), head.version, transport.address)

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
            gradients.append(gradient(reply, head.version, head.weights, transport.address))
            sent = len(request.image_ids) + len(request.d_vectors)
            client.count(bytes_sent=sent, head_bytes_received=len(reply.gradient))
        return gradients

    return [one for _, gradients in client.servers.of_each(image_ids, of_server) for one in gradients]


class HeadServers:
    """Vectors and gradients of a head that this process owns, through the servers that hold the features.

    A server that does not hold the head, because it is new there or because the server was restarted, is given it, and
    asked again. All calls are pure functions of the head's version and the ids, so a server that went away in the
    middle is simply asked once more when it is back.

    Args:
        servers: addresses of daemons, or transports; each answers for the images that it owns. With several, never one
            name for them all: it has to be known which server owns what.
        run_id: names the run to the servers.
        timeout_s: seconds that a call may take in all, retries included.
        security: TLS and token of connections to addresses; None takes what the environment says.

    Raises:
        BadInput: no server, or one twice.

    Attributes:
        client: asks the servers for the rest: ``client.get(ids, version=servers.backbone())`` gives features.

    Example:
        >>> import torch
        >>> from crossmedia import HeadServers, ImageHead
        >>> from crossmedia.imgserver.head import Head, HeadSpec
        >>> with HeadServers(["localhost:7070"], run_id="mine") as servers:
        ...     images = ImageHead(servers, Head(HeadSpec("learned", (1280, 64, 12))), servers.backbone())
        ...     vectors = images(torch.tensor([1, 2, -1]))
        >>> vectors.values.shape, vectors.ok.tolist()
        (torch.Size([3, 12]), [True, True, False])
    """

    def __init__(
        self,
        servers: str | Sequence[str | Transport],
        run_id: str,
        timeout_s: float = 30.0,
        security: ClientSecurity | None = None,
    ):
        must(isinstance(servers, str | Sequence), "servers", servers, "addresses or transports, as a list")
        must(isinstance(run_id, str), "run_id", run_id, "a str")
        every = [servers] if isinstance(servers, str) else list(servers)
        self.client = ImageClient(every, timeout_s=timeout_s, dtype="float32", security=security)
        self.run_id = run_id
        self._held = ""  # the version that all servers were given last

    def __enter__(self) -> HeadServers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self.client.close()

    def backbone(self) -> str:
        """The backbone whose features the servers hold; the same on all of them.

        Raises:
            VersionMismatch: they hold none, or features of different ones.
            NotReady: a server has none.
            WrongShard: they know another list of servers than was given here.

        Example:
            >>> from crossmedia import HeadServers, ImageClient
            >>> with HeadServers(["localhost:7070"], "mine") as servers, ImageClient("localhost:7070") as client:
            ...     servers.backbone() == client.info().backbone
            True
        """
        infos = self.client.infos()
        if empty := sum(not info.version for info in infos):
            raise NotReady(
                f"{empty} of {len(infos)} image servers have no features yet. Run 'imgserver precompute' or 'imgserver "
                f"merge' on their stores; a server sees the result within a second."
            )
        found = {info.feature_version() for info in infos}
        if len(found) > 1:
            raise VersionMismatch(f"The servers hold features of different backbones: {', '.join(sorted(found))}.")
        return found.pop()

    @property
    def stats(self) -> FetchStats:
        """Running totals over the servers."""
        return self.client.stats

    @property
    def generation(self) -> int:
        """What the servers have told, summed; 0 before they were asked."""
        return self.client.generation or 0

    def vectors(self, image_ids: Ids, version: str, weights: bytes) -> Vectors:
        """Vectors of a head, fp32.

        Args:
            image_ids: shape (n,), each once, none null.
            version: of the head, ``Head.version``.
            weights: what ``Head.to_bytes`` gives; sent when a server has to be given them.

        Raises:
            InvalidRequest, BadInput: the server refuses the head.
            CrossMediaError: as ``ImageClient.get``.

        Example:
            >>> from crossmedia import HeadServers
            >>> from crossmedia.imgserver.head import Head, HeadSpec
            >>> with HeadServers(["localhost:7070"], run_id="mine") as servers:
            ...     head = Head(HeadSpec("mine", (1280, 64, 12)))
            ...     version = head.version(servers.backbone())
            ...     servers.vectors([1, 2, 3], version, head.to_bytes()).values.shape
            (3, 12)
        """
        return self._with(
            HeadState(version, weights), lambda deadline: self.client.get(image_ids, deadline.left(), version)
        )

    def gradient(
        self, image_ids: Ids, version: str, weights: bytes, d_vectors: npt.NDArray[np.float32]
    ) -> list[Gradient]:
        """Parts whose sum is the gradient of the head's weights; always in the same order for the same servers.

        Args:
            image_ids: shape (n,), as in ``vectors``.
            version: likewise.
            weights: likewise.
            d_vectors: shape (n, D), zeros where there was no vector.

        Returns:
            name of a weight -> its gradient; one part, unless the ids took several calls.

        Raises:
            InvalidRequest: a gradient is not finite.
            ServerFault: what came is no gradient of such weights.
            CrossMediaError: as ``ImageClient.get``.

        Example:
            >>> import numpy as np
            >>> from crossmedia import HeadServers
            >>> from crossmedia.imgserver.head import Head, HeadSpec
            >>> with HeadServers(["localhost:7070"], run_id="mine") as servers:
            ...     head, ids = Head(HeadSpec("mine", (1280, 12))), np.array([1, 2, 3])
            ...     version, weights = head.version(servers.backbone()), head.to_bytes()
            ...     ones = np.ones((3, 12), np.float32)
            ...     (part,) = servers.gradient(ids, version, weights, ones)
            >>> sorted(part) == sorted(name for name, _ in head.named_parameters())
            True
        """
        head = HeadState(version, weights)
        return self._with(head, lambda deadline: head_gradient(self.client, head, image_ids, d_vectors, deadline))

    def _with(self, head: HeadState, call: Callable[[Deadline], Answer]) -> Answer:
        """Make a call for a head; give it to the servers first if they were not given it, and again if one lost it."""
        deadline = self.client.deadline()
        for tries_left in range(MOST_TRIES, -1, -1):
            if self._held != head.version:
                put_head(self.client, self.run_id, head, deadline)
                self._held = head.version
            try:
                return call(deadline)
            except VersionMismatch:
                self._held = ""
                if not tries_left:
                    raise
        raise AssertionError("This is a bug: the last try returns or raises.")
