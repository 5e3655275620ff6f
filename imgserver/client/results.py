"""What the client hands out: vectors with a status each, the server's description, and running totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import DeadlineExceeded, TooManyMissingImages, VersionMismatch
from crossmedia.status import Status, is_ok
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version

# Whatever a server says: a message is held in memory as a whole.
MAX_MESSAGE_BYTES = 256 << 20
# A rule in per cent says nothing about a handful of ids.
MISSING_RULE_FROM = 100
CHECK = (
    "Check that samples and catalogue use the same image ids ('features inspect' shows some of the samples), see the "
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
        images: in the index; those that were added after it was built are not found.
    """

    image_ids: npt.NDArray[np.int64]
    cosines: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    version: str
    images: int


@dataclass(frozen=True)
class ServerInfo:
    """What ``GetInfo`` says: version, limits and counters; the comments of the wire contract explain each field."""

    server_version: str
    version: str
    backbone: str
    dim: int
    stored_dtype: str
    generation: int
    versions: tuple[str, ...]
    max_ids_per_call: int
    max_thumbnails_per_call: int
    max_message_bytes: int
    max_pending_ids: int
    max_image_bytes: int
    max_image_pixels: int
    images_in_catalogue: int
    images_stored: int
    computed_on_demand: int
    cnn_passes_on_demand: int
    cnn_batches_on_demand: int
    ids_requested: int
    ids_from_table: int
    uptime_s: float
    engine: str
    max_put_per_call: int
    max_pending_bytes: int
    negative_ttl_s: float
    store_used_bytes: int
    store_free_bytes: int
    images_pending: int
    failed_on_demand: int
    feature_dim: int
    heads_held: int
    max_heads_per_run: int
    max_head_bytes: int
    images_indexed: int
    indexed_version: str
    index_kind: str
    max_queries_per_search: int
    max_neighbours: int
    servers: tuple[str, ...]
    server_name: str
    rows_damaged: int
    image_names: tuple[str, ...]

    @property
    def hit_ratio(self) -> float:
        """Share of the ids asked for, since the server started, that were answered from the table."""
        return self.ids_from_table / self.ids_requested if self.ids_requested else 1.0

    def features(self) -> str:
        """The version of the features that a head can be applied to.

        Raises:
            VersionMismatch: there are none.
        """
        if not self.feature_dim:
            raise VersionMismatch(
                f"The server has no features that a head could learn from: it serves {self.version or 'nothing yet'}. "
                f"Activate a version that was made by a backbone, with 'imgserver versions --activate'."
            )
        return self.backbone

    def not_ready(self, image_id: int, status: int, images: int, timeout_s: float) -> DeadlineExceeded:
        """What to raise of images that the server could not answer for in time.

        Args:
            image_id: the first of them.
            status: its transient status.
            images: how many there are.
            timeout_s: that they had.
        """
        if status == Status.FAILED:
            advice = "The image server failed on it; its log says why."
        elif self.images_in_catalogue:
            advice = (
                "The image server was still computing them, or a part of its store does not answer, which its log then "
                "says. Allow more time, or have them embedded before, by 'imgserver precompute'."
            )
        else:
            advice = "A part of the image server's store does not answer, or it was still computing; its log says more."
        return DeadlineExceeded(
            f"{images} images were not ready within {timeout_s:.3g} s (the first: image {image_id}, "
            f"{Status(status).name}). {advice}"
        )

    def dim_known(self, version: str) -> int | None:
        """Numbers in a vector of ``version``, or in a feature; None where neither its name nor the server says."""
        if version and version == self.backbone:
            return self.feature_dim or self.dim or None
        return Version.parse(version).dim or None

    def dim_of(self, version: str) -> int:
        """Numbers in a vector of ``version``, as far as is known before the first reply."""
        return self.dim_known(version) or self.dim

    @property
    def message_bytes(self) -> int:
        """Most bytes of a message to or from the server."""
        return min(self.max_message_bytes, MAX_MESSAGE_BYTES)

    def ids_per_call(self, bytes_per_id: int) -> int:
        """Ids that one call takes, when each costs so many bytes beside its own 8 or its status byte."""
        # 1 KiB is left for the rest of the message.
        by_bytes = (self.message_bytes - 1024) // max(8, bytes_per_id + 1)
        return max(1, min(self.max_ids_per_call, by_bytes))

    @classmethod
    def of_parts(cls, infos: Sequence[ServerInfo]) -> ServerInfo:
        """Servers that each own a part as if they were one: the least of limits, the sum of counters.

        What is the same on all, or should be, is the first one's.
        """
        if len(infos) == 1:
            return infos[0]
        least = [name for name in cls.__dataclass_fields__ if name.startswith("max_")]
        values: dict[str, Any] = {name: min(getattr(info, name) for info in infos) for name in least}
        values |= {name: sum(getattr(info, name) for info in infos) for name in SUMMED}
        return replace(infos[0], **values, server_name="")


SUMMED = (
    *("generation", "images_stored", "images_indexed", "store_used_bytes", "store_free_bytes"),
    *("computed_on_demand", "failed_on_demand", "cnn_passes_on_demand", "cnn_batches_on_demand"),
    *("ids_requested", "ids_from_table", "images_pending", "rows_damaged"),
)
DTYPE_NAMES = {pb.DTYPE_FLOAT16: "float16", pb.DTYPE_FLOAT32: "float32"}
DTYPE_CODES = {name: code for code, name in DTYPE_NAMES.items()}


@dataclass
class FetchStats:
    """Running totals of a client.

    Attributes:
        requested: ids asked for by the caller, duplicates and null images included.
        unique: ids that crossed the wire: each once a ``get``.
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

    def check_missing(self, max_missing: float) -> None:
        """Refuse to go on when too many of the images asked for so far are permanently missing.

        The rule starts at 100 ids: before that a share says nothing.

        Raises:
            TooManyMissingImages: the share of missing images is above ``max_missing``.
        """
        if self.unique >= MISSING_RULE_FROM and self.missing_fraction > max_missing:
            raise TooManyMissingImages(
                f"{self.missing_fraction:.1%} of the {self.unique} images asked for are missing ({self._misses}), more "
                f"than max_missing {max_missing:.1%}. {CHECK}, or raise max_missing."
            )

    def check_found(self) -> None:
        """Refuse a run that found no image at all, however few it asked for; for when it has asked for all.

        Raises:
            TooManyMissingImages: every image asked for is permanently missing.
        """
        if self.unique and self.missing_fraction == 1:
            raise TooManyMissingImages(
                f"Not one of the {self.unique} images asked for is there ({self._misses}). {CHECK}."
            )

    @property
    def missing_said(self) -> str:
        """A sentence on the permanent misses; empty: there are none."""
        if not self.missing:
            return ""
        total = sum(self.missing.values())
        return f"{total:,} of {self.unique:,} vectors asked for are missing ({self._misses}): no picture is seen there."

    @property
    def _misses(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.missing.items()))
        return counts + (f", such as image {self.missing_id}" if self.missing_id >= 0 else "")
