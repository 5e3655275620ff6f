"""What the pages ask of the image server: photos, lists, and what is nearest, by any version that it holds.

Legend: n images, D numbers in a vector, k neighbours.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crossmedia.errors import NotReady
from crossmedia.imgserver.client import HeldVersions, ImageClient, Neighbours, ServerInfo, Status
from crossmedia.imgserver.client.retries import Deadline
from crossmedia.imgserver.client.security import ClientSecurity

TIMEOUT_S, AWAY_S = 15.0, 1.0  # of a call, and of one whose server is away: nobody waits longer before an empty page
FRESH_S = 1.0  # for so long what a server says of itself is not asked for again
MOST_HELD, HELD_BYTES = 50_000, 32 << 20  # images whose vectors are held of a version, and bytes as they travel
HELD_VERSIONS = 3
DRAWN_TOGETHER, PLACES = 16, 64  # images of one place in the list, at least; places, at most: each is a call
PRODUCTS_BYTES = 32 << 20

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """Vectors of images of a version, all of them or some that were drawn.

    Attributes:
        ids: shape (n,), ascending.
        unit: shape (n, D), float16, of length 1.
        of: images that have a vector of the version.
    """

    ids: Ids
    unit: npt.NDArray[np.float16]
    of: int


class PagesClient(ImageClient):
    """A client for people who wait for a page: a server that is away is soon given up."""

    def deadline(self, timeout_s: float | None = None) -> Deadline:
        """That of any client, but for a server that is away."""
        return replace(super().deadline(timeout_s), away_s=AWAY_S)


class Looks:
    """Asks the image server.

    Args:
        server: its address.
        security: TLS and token; None takes what the environment says.
    """

    def __init__(self, server: str, security: ClientSecurity | None = None):
        self.server = server
        self.security = security or ClientSecurity.from_environment()
        self.client = PagesClient(server, timeout_s=TIMEOUT_S, security=self.security)
        self._of_version: dict[str, ImageClient] = {}
        self._drawn: OrderedDict[tuple[str, int, int, int], Drawn] = OrderedDict()
        self._info: tuple[float, ServerInfo] | None = None
        self._lock, self._drawing = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Give up the connections."""
        for client in (self.client, *self._of_version.values()):
            client.close()

    def info(self) -> ServerInfo:
        """What the server says of itself, now or a second ago."""
        known = self._info
        if known is None or time.monotonic() - known[0] > FRESH_S:
            known = self._info = time.monotonic(), self.client.info()
        return known[1]

    def versions(self) -> HeldVersions:
        """All that the store holds."""
        return self.client.versions()

    def words(self, text: str, k: int) -> Neighbours:
        """The images nearest to words."""
        return self.client.search([text], k=k)

    def is_indexed(self, version: str) -> bool:
        """Whether the server's similarity index is of a version, so that neighbours are among all images."""
        similarity = self.info().similarity
        return bool(similarity.images) and similarity.version == version and len(self.client.servers) == 1

    def nearest(self, ids: Ids, k: int, version: str) -> Neighbours:
        """The neighbours of images by any version: of all images where it is indexed, else of those that are drawn.

        Args:
            ids: shape (n,).
            k: of each.
            version: whose vectors are compared.

        Raises:
            NotReady: the version has no vectors.
        """
        if self.is_indexed(version):
            return self._client_of(version).search(ids, k=k)
        drawn = self.drawn(version)
        mine = self.client.get(ids, version=version)
        queries = _unit(mine.values.astype(np.float32))
        near, cosines = np.full((len(ids), k), -1, np.int64), np.zeros((len(ids), k), np.float32)
        most = min(k, len(drawn.ids) - 1)
        block = max(1, PRODUCTS_BYTES // (4 * len(drawn.ids)))
        for at in range(0, len(ids), block):
            products = _products(queries[at : at + block], drawn.unit)
            products[drawn.ids[None, :] == ids[at : at + block, None]] = -2.0  # not its own neighbour
            best = np.argpartition(-products, most - 1, axis=1)[:, :most] if most else np.zeros((len(products), 0), int)
            scores = np.take_along_axis(products, best, axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")
            near[at : at + block, :most] = drawn.ids[np.take_along_axis(best, order, axis=1)]
            cosines[at : at + block, :most] = np.take_along_axis(scores, order, axis=1)
        near[~mine.ok], cosines[~mine.ok] = -1, 0
        return Neighbours(near, cosines, mine.status, version, len(drawn.ids))

    def _client_of(self, version: str) -> ImageClient:
        with self._lock:
            if version not in self._of_version:
                self._of_version[version] = PagesClient(
                    self.server, version=version, timeout_s=TIMEOUT_S, security=self.security
                )
            return self._of_version[version]

    def drawn(self, version: str, most: int = 0, seed: int = 0) -> Drawn:
        """Vectors of a version: of all images if they are few, else of some that the seed draws; kept for a while.

        Args:
            version: whose.
            most: images, at most; 0: as many as are held.
            seed: that draws.

        Raises:
            NotReady: the version has no vectors.
        """
        dim = next((held.dim for held in self.versions().held if held.name == version), self.info().dim)
        most = most or max(1, min(MOST_HELD, HELD_BYTES // (2 * max(1, dim))))
        key = (version, self.info().generation, most, seed)
        with self._drawing:  # two pages that want the same wait for one of them
            if key not in self._drawn:
                self._drawn[key] = self._fetched(version, most, seed)
            self._drawn.move_to_end(key)
            while len(self._drawn) > HELD_VERSIONS:
                self._drawn.popitem(last=False)
            return self._drawn[key]

    def _fetched(self, version: str, most: int, seed: int) -> Drawn:
        ids, of = self.sample(version, most, seed)
        found = self.client.get(ids, version=version)
        if not found.ok.any():
            raise NotReady(f"The server has no vectors of {version}.")
        unit = _unit(found.values[found.ok].astype(np.float32)).astype(np.float16)
        return Drawn(ids[found.ok], unit, of)

    def sample(self, version: str, most: int, seed: int) -> tuple[Ids, int]:
        """Images that have a vector of a version, ascending: all, or some that the seed draws; and of how many.

        Args:
            version: whose.
            most: images, at most.
            seed: that draws.
        """
        ok = [int(Status.OK)]
        of = self.client.images(0, 0, statuses=ok, version=version).total
        step = self.info().limits.max_ids_per_call if of <= most else max(DRAWN_TOGETHER, -(-most // PLACES))
        starts = np.arange(0, of, step)
        if of > most:
            drawn = np.random.default_rng(seed).permutation(starts)
            together = np.cumsum(np.minimum(step, of - drawn))  # the last page may be a short one
            starts = np.sort(drawn[: 1 + np.searchsorted(together, most)])
        pages = [self.client.images(int(start), step, statuses=ok, version=version).image_ids for start in starts]
        return np.concatenate([np.zeros(0, np.int64), *pages])[: most if of > most else None], of


def _products(queries: npt.NDArray[np.float32], unit: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Cosines of queries, shape (q, D), and vectors, shape (n, D): shape (q, n); these are widened by blocks."""
    found = np.empty((len(queries), len(unit)), np.float32)
    rows = max(1, PRODUCTS_BYTES // (4 * unit.shape[1]))
    for at in range(0, len(unit), rows):
        found[:, at : at + rows] = queries @ unit[at : at + rows].astype(np.float32).T
    return found


def _unit(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Vectors at length 1, shape (n, D); a vector of zeros stays."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
