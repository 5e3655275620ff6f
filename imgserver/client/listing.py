"""What the store of a server holds, for people who look: images by status, page by page, and versions.

Legend: n images of a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.arguments import check_whole
from crossmedia.errors import VersionMismatch
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.arguments import check_version
from crossmedia.imgserver.client.connected import Connected
from crossmedia.imgserver.client.failures import broken, printable
from crossmedia.imgserver.client.ids import as_ids
from crossmedia.imgserver.client.replies import MAX_NAME, MAX_NAMES
from crossmedia.imgserver.client.results import KNOWN_STATUS
from crossmedia.imgserver.client.retries import Deadline, ask
from crossmedia.imgserver.client.servers import at_once
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import ACTIVATE_VERSION, LIST_IMAGES, LIST_VERSIONS
from crossmedia.v1 import image_server_pb2 as pb

MOST_START, MOST_LIMIT = 2**63 - 1, 2**32 - 1  # a list has no more places than there are ids; the field of a limit
NEVER = 0  # the status of an image of the catalogue that nobody has embedded yet


@dataclass(frozen=True)
class ListedImages:
    """A page of the images of a catalogue and its store, or what is known of some.

    Attributes:
        image_ids: shape (n,), int64.
        status: shape (n,), uint8, a ``Status`` each; 0: nobody has embedded the image yet.
        names: of each, as a manifest calls it, or its id.
        reasons: why each has no vector; empty where it has one, or why is not known.
        total: images of the whole list.
        counts: status -> images of version and catalogue, whatever was asked for.
        version: that the statuses belong to.

    Example:
        >>> from crossmedia import ImageClient
        >>> with ImageClient("localhost:7070") as client:
        ...     page = client.images(limit=2)
        >>> len(page), page.status.tolist(), page.reasons
        (2, [1, 1], ('', ''))
    """

    image_ids: npt.NDArray[np.int64]
    status: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    reasons: tuple[str, ...]
    total: int
    counts: dict[int, int]
    version: str

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class HeldVersion:
    """A version, or the features of a backbone, in the store of a server.

    Attributes:
        name: of the version.
        dim: numbers in a row.
        row_bytes: of a row on disk and in memory.
        rows: that were written, those of images that were replaced or removed since among them.
        features: whether the rows are a backbone's features.

    Example:
        >>> from crossmedia import ImageClient
        >>> with ImageClient("localhost:7070") as client:
        ...     served = client.versions().held[-1]
        >>> served.features, served.dim, served.row_bytes, served.size == served.rows * 32
        (False, 16, 32, True)
    """

    name: str
    dim: int
    row_bytes: int
    rows: int
    features: bool

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class HeldVersions:
    """What the store of a server holds: features of backbones first; and which version is active, empty if none is.

    Example:
        >>> from crossmedia import ImageClient
        >>> with ImageClient("localhost:7070") as client:
        ...     versions = client.versions()
        >>> versions.active in [held.name for held in versions.held]
        True
    """

    held: tuple[HeldVersion, ...]
    active: str


class Listing(Connected):
    """What ``ImageClient`` tells people of a store, beside its photos and vectors."""

    def images(
        self,
        start: int = 0,
        limit: int = 100,
        *,
        statuses: Sequence[int] = (),
        name: str = "",
        version: str = "",
        timeout_s: float | None = None,
    ) -> ListedImages:
        """A page of the images of catalogue and store, by ascending id; of servers that each own a part, one by one.

        Args:
            start: how many images of the list come before the page.
            limit: images of the page, at most.
            statuses: images of these alone, 0 for those that nobody has embedded yet; none: all.
            name: images alone whose name has this text in it, in whatever letter case.
            version: whose images; empty: those of the active version.
            timeout_s: seconds for all of it; None takes the client's.

        Raises:
            BadInput: an argument is of another type, or no list has such a place.
            InvalidRequest: a status is unknown, or the limit is more than the server gives.
            NotReady: the server has no vectors yet.
            VersionMismatch: the server does not hold the version.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     page = client.images(start=10, limit=3)
            >>> page.image_ids.tolist(), page.names, page.total >= 100
            ([10, 11, 12], ('10', '11', '12'), True)
        """
        check_whole("start", start, least=0, most=MOST_START)
        check_whole("limit", limit, least=0, most=MOST_LIMIT)
        check_version(version)
        deadline = self.deadline(timeout_s)
        self.described(deadline)
        wanted = [pb.VectorStatus.ValueType(int(one)) for one in statuses]
        asked = partial(pb.ListImagesRequest, version=version, statuses=wanted, name=name)
        transports = self.servers.transports
        if len(transports) == 1:
            return _listed(transports[0], asked(start=start, limit=limit), deadline)
        heads = at_once([partial(_listed, one, asked(), deadline) for one in transports])
        pages, before = [], 0
        for transport, head in zip(transports, heads, strict=True):
            first, last = (min(max(place - before, 0), head.total) for place in (start, start + limit))
            before += head.total
            request = asked(start=first, limit=last - first)
            pages.append(_listed(transport, request, deadline) if last > first else head)
        return _joined(pages)

    def images_of(
        self, image_ids: Sequence[int] | npt.NDArray[Any], version: str = "", timeout_s: float | None = None
    ) -> ListedImages:
        """What is known of some images, in their order; NOT_FOUND of those that neither store nor catalogue has.

        Args:
            image_ids: shape (n,), integers, none of them negative.
            version: whose statuses; empty: those of the active version.
            timeout_s: seconds for all of it; None takes the client's.

        Raises:
            InvalidRequest: an id is negative, above 2**63 - 1 or no integer.
            NotReady, VersionMismatch, ServerUnavailable, Overloaded, DeadlineExceeded: as ``images``.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     known = client.images_of([7, 999_999])
            >>> known.status.tolist()
            [1, 2]
        """
        check_version(version)
        deadline, ids = self.deadline(timeout_s), as_ids(image_ids)
        most = self.described(deadline).limits.max_ids_per_call

        def known(transport: Transport, rows: npt.NDArray[np.int64]) -> ListedImages:
            blocks = [ids[rows[at : at + most]].astype("<i8").tobytes() for at in range(0, len(rows), most)]
            requests = [pb.ListImagesRequest(version=version, image_ids=block) for block in blocks]
            return _joined([_listed(transport, request, deadline) for request in requests])

        if not len(ids):
            return ListedImages(ids, np.zeros(0, np.uint8), (), (), 0, {}, version)
        parts = self.servers.of_each(ids, known)
        found = _joined([part for _, part in parts])
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        names, reasons = (tuple(words[place] for place in order.tolist()) for words in (found.names, found.reasons))
        return ListedImages(ids, found.status[order], names, reasons, len(ids), found.counts, found.version)

    def versions(self, timeout_s: float | None = None) -> HeldVersions:
        """All that the store holds; of servers that each own a part, rows of all of them.

        Raises:
            VersionMismatch: servers that each own a part serve different versions.
            ServerUnavailable, Overloaded, DeadlineExceeded: still so at the deadline.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     versions = client.versions()
            >>> [(held.features, held.dim) for held in versions.held], versions.active == versions.held[1].name
            ([(True, 1280), (False, 16)], True)
        """
        deadline = self.deadline(timeout_s)
        self.described(deadline)
        told = at_once([partial(_versions, transport, deadline) for transport in self.servers.transports])
        if len({one.active for one in told}) > 1:
            raise VersionMismatch("The servers that share the images serve different versions. Activate one on all.")
        rows: dict[str, HeldVersion] = {}
        for held in (version for one in told for version in one.held):
            more = rows[held.name].rows if held.name in rows else 0
            rows[held.name] = HeldVersion(held.name, held.dim, held.row_bytes, more + held.rows, held.features)
        return HeldVersions(tuple(rows.values()), told[0].active)

    def activate(self, version: str, timeout_s: float | None = None) -> None:
        """Serve another version to callers who name none; it takes a token of the scope ``admin``.

        Args:
            version: that the servers hold.
            timeout_s: seconds for all of it; None takes the client's.

        Raises:
            PermissionDenied: the token's scope is another, or the server asks for no tokens.
            InvalidRequest: a server does not hold it.
            ServerUnavailable, DeadlineExceeded: still so at the deadline.

        Example:
            >>> from crossmedia import ImageClient
            >>> with ImageClient("localhost:7070") as client:
            ...     try:
            ...         client.activate(client.info().version)
            ...     except Exception as error:
            ...         print(type(error).__name__)
            PermissionDenied
        """
        check_version(version)
        deadline, request = self.deadline(timeout_s), pb.ActivateVersionRequest(version=version)
        self.described(deadline)
        for transport in self.servers.transports:
            ask(transport, ACTIVATE_VERSION, request, deadline)


def _listed(transport: Transport, request: pb.ListImagesRequest, deadline: Deadline) -> ListedImages:
    """The reply of one server, every field checked.

    Raises:
        ServerFault: lengths differ, ids are others than was asked for or not ascending, or a status is unknown.
    """
    reply, server = ask(transport, LIST_IMAGES, request, deadline), transport.address
    if len(reply.image_ids) % 8:
        raise broken(server, f"image_ids has {len(reply.image_ids)} bytes, which are no ids of 8")
    ids = np.frombuffer(reply.image_ids, dtype="<i8").astype(np.int64)
    if request.image_ids:
        if reply.image_ids != request.image_ids:
            raise broken(server, "image_ids are others than was asked for")
    elif len(ids) > min(request.limit, reply.total) or (len(ids) and (ids[0] < 0 or (np.diff(ids) <= 0).any())):
        raise broken(server, f"image_ids has {len(ids)} ids of {reply.total}, negative, not ascending, or too many")
    status = np.frombuffer(reply.status, dtype=np.uint8)
    if len(status) != len(ids) or not (KNOWN_STATUS[status] | (status == NEVER)).all():
        raise broken(server, f"status has {len(status)} bytes for {len(ids)} images, or one that is unknown")
    if request.version and reply.version != request.version:
        raise broken(server, f"images of {request.version} were asked for, version is {reply.version!r}")
    names, reasons = (_words(words, len(ids), server) for words in (reply.names, reply.reasons))
    names, reasons = names or tuple(map(str, ids.tolist())), reasons or ("",) * len(ids)
    counts = {place: count for place, count in enumerate(reply.counts) if count}
    version = replies.named("version", reply.version, server)
    return ListedImages(ids, status, names, reasons, reply.total, counts, version)


def _words(words: Sequence[str], n: int, server: str) -> tuple[str, ...]:
    """A word for each image, or none at all; names come from whoever filled the catalogue, and may hold anything."""
    if len(words) not in (0, n):
        raise broken(server, f"{len(words)} names or reasons came of {n} images")
    return tuple(printable(word, MAX_NAME) for word in words)


def _versions(transport: Transport, deadline: Deadline) -> HeldVersions:
    reply = ask(transport, LIST_VERSIONS, pb.ListVersionsRequest(), deadline)
    if len(reply.held) > MAX_NAMES:
        raise broken(transport.address, f"held lists {len(reply.held)} versions, more than {MAX_NAMES}")
    name = partial(replies.named, server=transport.address)
    held = (HeldVersion(name("name", one.name), one.dim, one.row_bytes, one.rows, one.features) for one in reply.held)
    return HeldVersions(tuple(held), name("active", reply.active))


def _joined(pages: Sequence[ListedImages]) -> ListedImages:
    """Pages as one, in their order."""
    if len(pages) == 1:
        return pages[0]
    counts: Counter[int] = Counter()
    for page in pages:
        counts.update(page.counts)
    return ListedImages(
        np.concatenate([page.image_ids for page in pages]),
        np.concatenate([page.status for page in pages]),
        tuple(chain.from_iterable(page.names for page in pages)),
        tuple(chain.from_iterable(page.reasons for page in pages)),
        sum(page.total for page in pages),
        dict(counts),
        pages[0].version,
    )
