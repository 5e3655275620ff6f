"""A head on one server or several: each answers for the images that it owns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from crossmedia.errors import NotReady, VersionMismatch
from crossmedia.imgserver.client.client import ImageClient
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.replies import Gradient
from crossmedia.imgserver.client.results import FetchStats, Vectors
from crossmedia.imgserver.client.retries import seconds_left
from crossmedia.imgserver.client.security import ClientSecurity
from crossmedia.imgserver.client.transports import Transport

Reply = TypeVar("Reply")
# A head that was put may be pushed out by others of its run before it is asked for, but not for ever.
MOST_TRIES = 4


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
    """

    def __init__(
        self,
        servers: Sequence[str | Transport],
        run_id: str,
        timeout_s: float = 30.0,
        security: ClientSecurity | None = None,
    ):
        self.client = ImageClient(list(servers), timeout_s=timeout_s, dtype="float32", security=security)
        self.run_id, self.timeout_s = run_id, timeout_s
        self._held = ""  # the version that all servers were given last

    def __enter__(self) -> HeadServers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
        """
        infos = self.client.infos()
        if empty := sum(not info.version for info in infos):
            raise NotReady(
                f"{empty} of {len(infos)} image servers have no features yet. Run 'imgserver precompute' or 'imgserver "
                f"merge' on their stores; a server sees the result within a second."
            )
        found = {info.features() for info in infos}
        if len(found) > 1:
            raise VersionMismatch(f"The servers hold features of different backbones: {', '.join(sorted(found))}.")
        return found.pop()

    def features(self, image_ids: Ids, version: str) -> Vectors:
        """Features of images, fp32 values of what is stored; for starting a head, not for training."""
        return self.client.get(image_ids, self.timeout_s, version)

    def vectors(self, image_ids: Ids, version: str, head: Callable[[], bytes]) -> Vectors:
        """Vectors of a head.

        Args:
            image_ids: shape (n,), each once, none null.
            version: of the head.
            head: gives its weights, when a server has to be given them.

        Raises:
            CrossMediaError: as ``ImageClient.get``.
        """
        return self._with_head(version, head, lambda left: self.client.get(image_ids, left, version))

    def gradient(
        self,
        image_ids: Ids,
        version: str,
        d_vectors: npt.NDArray[np.float32],
        head: Callable[[], bytes],
        shapes: Mapping[str, Sequence[int]],
    ) -> list[Gradient]:
        """Parts whose sum is the gradient of the head's weights; always in the same order for the same servers.

        Args:
            image_ids: shape (n,), as in ``vectors``.
            version: of the head.
            d_vectors: shape (n, D), zeros where there was no vector.
            head: gives its weights, when a server has to be given them again.
            shapes: of the weights, by name.

        Raises:
            CrossMediaError: as ``ImageClient.head_gradient``.
        """
        return self._with_head(
            version, head, lambda left: self.client.head_gradient(version, image_ids, d_vectors, shapes, left)
        )

    @property
    def stats(self) -> FetchStats:
        """Running totals over the servers."""
        return self.client.stats

    @property
    def generation(self) -> int:
        """What the servers have told, summed; 0 before they were asked."""
        return self.client.generation or 0

    def _with_head(self, version: str, head: Callable[[], bytes], call: Callable[[float], Reply]) -> Reply:
        """Make a call for a head; give it to the servers first if they were not given it, and again if one lost it."""
        deadline = time.monotonic() + self.timeout_s
        for tries_left in range(MOST_TRIES, -1, -1):
            if self._held != version:
                self.client.put_head(self.run_id, version, head(), seconds_left(deadline, self.timeout_s))
                self._held = version
            try:
                return call(seconds_left(deadline, self.timeout_s))
            except VersionMismatch:
                self._held = ""
                if not tries_left:
                    raise
        raise AssertionError("This is a bug: the last try returns or raises.")
