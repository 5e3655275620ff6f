"""What ``GetInfo`` says, in its parts; the comments of the wire contract explain each field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, reduce
from typing import Any, TypeVar

from crossmedia.errors import DeadlineExceeded, VersionMismatch
from crossmedia.status import Status
from crossmedia.version import Version
from crossmedia.words import counted

Part = TypeVar("Part", bound=Any)

# Whatever a server says: a message is held in memory as a whole.
MAX_MESSAGE_BYTES = 256 << 20


@lru_cache(1024)  # of few versions, asked of each reply
def dim_in(version: str) -> int | None:
    """Numbers in a vector, as the end of its version says; None where it does not."""
    return Version.parse(version).dim or None


@dataclass(frozen=True)
class Limits:
    """What a call may ask for, and what the server takes on."""

    max_ids_per_call: int
    max_thumbnails_per_call: int
    max_put_per_call: int
    max_queries_per_search: int
    max_neighbours: int
    max_message_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_pending_ids: int
    max_pending_bytes: int
    max_heads_per_run: int
    max_head_bytes: int
    negative_ttl_s: float

    @property
    def message_bytes(self) -> int:
        """Most bytes of a message to or from the server."""
        return min(self.max_message_bytes, MAX_MESSAGE_BYTES)

    def ids_per_call(self, bytes_per_id: int) -> int:
        """Ids that one call takes, when each costs so many bytes beside its own 8 or its status byte."""
        # 1 KiB is left for the rest of the message.
        by_bytes = (self.message_bytes - 1024) // max(8, bytes_per_id + 1)
        return max(1, min(self.max_ids_per_call, by_bytes))


@dataclass(frozen=True)
class Contents:
    """What is there: images, heads, and the bytes that the store takes."""

    images_in_catalogue: int
    images_stored: int
    store_used_bytes: int
    store_free_bytes: int
    heads_held: int
    image_names: tuple[str, ...]


@dataclass(frozen=True)
class Counters:
    """What the server did since it started, and what waits now."""

    ids_requested: int
    ids_from_table: int
    computed_on_demand: int
    cnn_passes_on_demand: int
    cnn_batches_on_demand: int
    failed_on_demand: int
    images_pending: int
    rows_damaged: int

    @property
    def hit_ratio(self) -> float:
        """Share of the ids asked for, since the server started, that were answered from the table."""
        return self.ids_from_table / self.ids_requested if self.ids_requested else 1.0


@dataclass(frozen=True)
class Durations:
    """How long calls of ``GetVectors`` took since the server started: calls of each group, and their upper bounds.

    The last group has no bound; without groups it is not known.
    """

    lookup_seconds: tuple[float, ...] = ()
    lookup_calls: tuple[int, ...] = ()

    def plus(self, other: Durations) -> Durations:
        """The calls of both; of other bounds than these, the other's are left out."""
        if not self.lookup_calls or self.lookup_seconds != other.lookup_seconds:
            return self if self.lookup_calls else other
        both = zip(self.lookup_calls, other.lookup_calls, strict=True)
        return replace(self, lookup_calls=tuple(sum(pair) for pair in both))


@dataclass(frozen=True)
class Similarity:
    """The similarity index; no images: there is none."""

    images: int
    version: str
    kind: str


@dataclass(frozen=True)
class ServerOwnership:
    """Which images the server answers for; no servers: any."""

    servers: tuple[str, ...]
    server_name: str


@dataclass(frozen=True)
class ServerInfo:
    """What ``GetInfo`` says: what is served, and in parts the limits, contents, counters and the rest.

    Example:
        >>> from crossmedia import ImageClient
        >>> with ImageClient("localhost:7070") as client:
        ...     info = client.info()
        >>> info.version.startswith(info.backbone), info.dim
        (True, 16)
        >>> info.contents.images_stored <= info.contents.images_in_catalogue
        True
        >>> info.limits.max_ids_per_call > 1000
        True
    """

    server_version: str
    version: str
    backbone: str
    dim: int
    feature_dim: int
    stored_dtype: str
    generation: int
    versions: tuple[str, ...]
    engine: str
    uptime_s: float
    limits: Limits
    contents: Contents
    counters: Counters
    similarity: Similarity
    ownership: ServerOwnership
    durations: Durations

    def feature_version(self) -> str:
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

    @property
    def knows_words(self) -> bool:
        """Whether words can be compared with its vectors: they are of texts, or of photos beside a text tower."""
        version = Version.parse(self.version)
        return version.of_texts or version.of_tower

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
        elif self.contents.images_in_catalogue:
            advice = (
                "The image server was still computing them, or a part of its store does not answer, which its log then "
                "says. Allow more time, or have them embedded before, by 'imgserver precompute'."
            )
        else:
            advice = "A part of the image server's store does not answer, or it was still computing; its log says more."
        were = "was" if images == 1 else "were"
        return DeadlineExceeded(
            f"{counted(images, 'vector')} {were} not ready within {timeout_s:.3g} s (the first: that of id {image_id}, "
            f"{Status(status).name}). {advice}"
        )

    def dim_known(self, version: str) -> int | None:
        """Numbers in a vector of ``version``, or in a feature; None where neither its name nor the server says."""
        if version and version == self.backbone:
            return self.feature_dim or self.dim or None
        return dim_in(version)

    def dim_of(self, version: str) -> int:
        """Numbers in a vector of ``version``, as far as is known before the first reply."""
        return self.dim_known(version) or self.dim

    @classmethod
    def of_one_version(cls, infos: Sequence[ServerInfo]) -> ServerInfo:
        """As ``of_servers``, of servers that serve the same.

        Raises:
            VersionMismatch: they serve different versions.
        """
        if len({info.version for info in infos}) > 1:
            serving = "; ".join(
                f"{info.ownership.server_name or 'one'}: {info.version or 'nothing yet'}" for info in infos
            )
            raise VersionMismatch(
                f"The servers that share the images serve different versions ({serving}). Activate the same on all, "
                f"with 'imgserver versions --activate'."
            )
        return cls.of_servers(infos)

    @classmethod
    def of_servers(cls, infos: Sequence[ServerInfo]) -> ServerInfo:
        """Servers that each own a part as if they were one: the least of limits, the sum of counters.

        What is the same on all, or should be, is the first one's.
        """
        if len(infos) == 1:
            return infos[0]
        return replace(
            infos[0],
            generation=sum(info.generation for info in infos),
            limits=_over([info.limits for info in infos], min),
            contents=_over([info.contents for info in infos], sum, SHARED_OUT),
            counters=_over([info.counters for info in infos], sum),
            similarity=_over([info.similarity for info in infos], sum, ["images"]),
            ownership=replace(infos[0].ownership, server_name=""),
            durations=reduce(Durations.plus, (info.durations for info in infos)),
        )


SHARED_OUT = ("images_stored", "store_used_bytes", "store_free_bytes")  # of contents, each server has its own
PARTS: dict[str, type[Any]] = {
    "limits": Limits,
    "contents": Contents,
    "counters": Counters,
    "similarity": Similarity,
    "ownership": ServerOwnership,
    "durations": Durations,
}


def _over(parts: Sequence[Part], rule: Callable[[Iterable[Any]], Any], names: Sequence[str] = ()) -> Part:
    """The first part, with ``rule`` over all of them in the fields named; without names in every field."""
    names = names or [field.name for field in fields(parts[0])]
    merged: Part = replace(parts[0], **{name: rule(getattr(part, name) for part in parts) for name in names})
    return merged
