"""What the client hands out: vectors with a status each, neighbours, and running totals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import TooManyMissingImages
from crossmedia.status import PERMANENT, Status, is_ok
from crossmedia.v1 import image_server_pb2 as pb

# A rule in per cent says nothing about a handful of ids.
MISSING_RULE_FROM = 100
CHECK = (
    "Check that samples and catalogue use the same ids ('features inspect' shows some of the samples), see the "
    "rejects of 'imgserver precompute'"
)
KNOWN_STATUS = np.zeros(256, dtype=np.bool_)
KNOWN_STATUS[[int(s) for s in Status]] = True


@dataclass(frozen=True)
class Vectors:
    """Vectors of ``n`` image ids, in the order asked.

    Attributes:
        values: shape (n, D), float16 or float32; the row of an id that is not OK is zeros. May be read-only: the bytes
            of the reply themselves, not a copy.
        status: shape (n,), uint8, a ``Status`` each.
        version: the version that every row belongs to.
        generation: the store's generation when the reply was made (the highest of them, if it took several calls; the
            sum over servers that each own a part).

    Example:
        >>> from crossmedia import ImageClient
        >>> from crossmedia.imgserver.client import Status
        >>> with ImageClient("localhost:7070") as client:
        ...     vectors = client.get([1, 999])
        >>> vectors.values[vectors.ok].shape, [Status(status).name for status in vectors.status]
        ((1, 16), ['OK', 'NOT_FOUND'])
    """

    values: npt.NDArray[Any]
    status: npt.NDArray[np.uint8]
    version: str
    generation: int

    def __len__(self) -> int:
        return len(self.status)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which rows hold a vector, shape (n,)."""
        return is_ok(self.status)


@dataclass(frozen=True)
class Neighbours:
    """The images most alike ``n`` queries, in the order asked, best first.

    Attributes:
        image_ids: shape (n, k), int64; -1 where there are fewer, or the query failed.
        cosines: shape (n, k), float32; 0 there.
        status: shape (n,), uint8, a ``Status`` each: what became of the query.
        version: the version whose vectors were compared.
        images: in the similarity index; those that were added after it was built are not found.
    """

    image_ids: npt.NDArray[np.int64]
    cosines: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    version: str
    images: int


DTYPE_NAMES = {pb.DTYPE_FLOAT16: "float16", pb.DTYPE_FLOAT32: "float32"}
DTYPE_CODES = {name: code for code, name in DTYPE_NAMES.items()}


@dataclass
class FetchStats:
    """Running totals of a client.

    Attributes:
        requested: ids asked for by the caller, duplicates and null images included.
        unique: ids asked for, each once a ``get`` and without null images.
        cached: of these, how many the client's cache had; the others crossed the wire.
        computed: images that the server had to compute for these calls.
        calls: calls that were answered.
        retries: calls of a ``get`` that were made again because a server was away or overloaded.
        bytes_sent: payload bytes of the requests.
        bytes_received: payload bytes of the replies.
        head_bytes_sent: bytes of heads that were put.
        head_bytes_received: bytes of their gradients.
        seconds: time spent in ``get``.
        missing: status name -> ids, counted once a ``get``, for the permanent misses.
        missing_id: one of those ids; -1: there is none.
    """

    requested: int = 0
    unique: int = 0
    cached: int = 0
    computed: int = 0
    calls: int = 0
    retries: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    head_bytes_sent: int = 0
    head_bytes_received: int = 0
    seconds: float = 0.0
    missing: dict[str, int] = field(default_factory=dict)
    missing_id: int = -1

    @property
    def missing_fraction(self) -> float:
        """Permanent misses over ids asked of the server; 0 before the first."""
        return sum(self.missing.values()) / self.unique if self.unique else 0.0

    def count_missing(self, image_ids: npt.NDArray[np.int64], status: npt.NDArray[np.uint8]) -> None:
        """Count the permanent misses of a ``get``.

        Args:
            image_ids: shape (n,), each once.
            status: shape (n,).
        """
        if not len(status) or status.max() == Status.OK:
            return
        counts = np.bincount(status, minlength=256)
        for failure in PERMANENT:
            if counts[failure]:
                self.missing[failure.name] = self.missing.get(failure.name, 0) + int(counts[failure])
        if self.missing and self.missing_id < 0:
            self.missing_id = int(image_ids[np.isin(status, PERMANENT)][0])

    def check_missing(self, max_missing: float) -> None:
        """Refuse to go on when too many of the images asked for so far are permanently missing.

        The rule starts at 100 ids: before that a share says nothing.

        Raises:
            TooManyMissingImages: the share of missing images is above ``max_missing``.
        """
        if self.unique >= MISSING_RULE_FROM and self.missing_fraction > max_missing:
            raise TooManyMissingImages(
                f"{self.missing_fraction:.1%} of the {self.unique} vectors asked for, each once a call, are missing "
                f"({self._misses}), more than max_missing {max_missing:.1%}. {CHECK}, or raise max_missing."
            )

    def check_found(self) -> None:
        """Refuse a run that found no image at all, however few it asked for; for when it has asked for all.

        Raises:
            TooManyMissingImages: every image asked for is permanently missing.
        """
        if self.unique and self.missing_fraction == 1:
            raise TooManyMissingImages(
                f"Not one of the {self.unique} vectors asked for, each once a call, is there ({self._misses}). {CHECK}."
            )

    @property
    def missing_said(self) -> str:
        """A sentence on the permanent misses; empty: there are none."""
        if not self.missing:
            return ""
        total = sum(self.missing.values())
        asked = f"{total:,} of {self.unique:,} vectors asked for, each once a call,"
        return f"{asked} are missing ({self._misses}): the model sees nothing there."

    @property
    def _misses(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.missing.items()))
        return counts + (f", such as that of id {self.missing_id}" if self.missing_id >= 0 else "")
