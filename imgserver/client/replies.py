"""Replies become values here, and those on heads in ``head_replies.py``: every field is checked.

For the other side may be broken, or may lie. What does not fit what was asked is an error of the reply
(``ServerFault``) that names the server, the field and the value. Fields that the client makes no use of are not
checked: they are not believed either.

Legend: n ids or queries of a call, D numbers in a vector, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput, VersionMismatch
from crossmedia.imgserver.client.failures import broken, printable
from crossmedia.imgserver.client.ids import Ids
from crossmedia.imgserver.client.results import DTYPE_NAMES, KNOWN_STATUS
from crossmedia.imgserver.client.server_info import PARTS, ServerInfo, dim_in
from crossmedia.imgserver.wire import Reply, VectorsReply
from crossmedia.keys import NULL_IMAGE
from crossmedia.status import Status, is_ok
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version

MAX_DIM = 1 << 16
MAX_NAME, MAX_NAMES = 1024, 10_000  # characters of a name that a server tells, and names in a list
LEAST_MESSAGE_BYTES = 4096
MAX_JPEG_BYTES, DEFAULT_SIDE = 1 << 20, 128
COSINE_SLACK = 1e-3  # cosines are sums of rounded products

Statuses = npt.NDArray[np.uint8]

# A call cannot be made within a limit of 0.
_POSITIVE = (
    *("max_ids_per_call", "max_thumbnails_per_call", "max_put_per_call"),
    *("max_message_bytes", "max_image_bytes", "max_image_pixels"),
)


def parsed(kind: type[Reply], data: bytes, server: str) -> Reply:
    """A message from its bytes.

    Raises:
        ServerFault: they are none.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise broken(server, f"its bytes are no {kind.DESCRIPTOR.name} ({error})") from None


def info(message: pb.GetInfoResponse, server: str) -> ServerInfo:
    """What a server tells of itself.

    Raises:
        VersionMismatch: it is of another release, whose contract is another.
        ServerFault: a limit that no call fits, a name that cannot be shown, or a length that is not its version's.
    """
    if not message.HasField("limits"):
        raise VersionMismatch(
            f"The image server at {server} speaks the contract of another release. Install the same release of "
            f"CrossMedia on both sides ('crossmedia --version')."
        )
    told = ServerInfo(**_told(ServerInfo, message, server))
    for name in _POSITIVE:
        limit, least = getattr(told.limits, name), LEAST_MESSAGE_BYTES if name == "max_message_bytes" else 1
        if limit < least:
            raise broken(server, f"its limit {name} is {limit}; no call can be made within less than {least}")
    for name in ("dim", "feature_dim"):
        if getattr(told, name) > MAX_DIM:
            raise broken(server, f"{name} is {getattr(told, name)}, more than {MAX_DIM}")
    if told.version and not dim_in(told.version) == told.dim > 0:
        raise broken(server, f"dim is {told.dim}, and its version is {told.version!r}, which should end with it")
    return told


def _told(kind: type[Any], message: Any, server: str) -> dict[str, Any]:
    """The fields of a description, or of a part of it, each checked for what it can be."""
    values: dict[str, Any] = {}
    for name in kind.__dataclass_fields__:
        value = getattr(message, name)
        if (part := PARTS.get(name)) is not None:
            value = part(**_told(part, value, server))
        elif name == "stored_dtype":
            value = DTYPE_NAMES.get(value, "")
        elif isinstance(value, str):
            named(name, value, server)
        elif isinstance(value, float):
            _seconds(name, value, server)
        elif not isinstance(value, int):
            value = tuple(value)
            if len(value) > MAX_NAMES:
                raise broken(server, f"{name} lists {len(value)} names, more than {MAX_NAMES}")
            for one in value:
                _element(name, one, server)
        values[name] = value
    return values


def _element(name: str, one: str | float, server: str) -> None:
    """Check what stands in a list: a name, seconds, or a count, which can be any."""
    if isinstance(one, str):
        named(name, one, server)
    elif isinstance(one, float):
        _seconds(name, one, server)


def _seconds(name: str, value: float, server: str) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise broken(server, f"{name} is {value}, which is no number of seconds")


@dataclass(frozen=True)
class Asked:
    """What the calls of one ``get`` ask for, and what is known of those who answer.

    Attributes:
        version: of the vectors; empty: whatever is active.
        dtype: how they travel.
        info: what the servers told of themselves.
    """

    version: str
    dtype: str
    info: ServerInfo


def vectors(reply: VectorsReply, ids: Ids, asked: Asked, server: str) -> VectorsReply:
    """The reply, if each id of a call has a known status, and a vector of its version's length; zeros where it failed.

    Args:
        reply: as it came.
        ids: shape (n,), that were asked for.
        asked: what else was.
        server: its address.

    Raises:
        ServerFault: a number of vectors or statuses that is not n, another dtype, another D than the version's, an
            unknown status, or a number that is not finite in the vector of an image that is OK.
    """
    values, status = reply.values, reply.status
    if (len(status), len(values), values.dtype) != (len(ids), len(ids), np.dtype(asked.dtype)):
        raise broken(
            server,
            f"{len(ids)} ids were asked for in {asked.dtype}; it holds {len(status)} statuses and {len(values)} "
            f"vectors of {values.dtype}",
        )
    dim = asked.info.dim_known(named("version", reply.version, server))
    if dim is None and not (reply.version and reply.version == asked.version):
        raise broken(server, f"version is {reply.version!r}, which does not end with the length of its vectors")
    if values.shape[1] not in ((dim,) if dim else range(1, MAX_DIM + 1)):
        raise broken(server, f"its vectors have {values.shape[1]} numbers, those of {reply.version!r} have {dim}")
    failed = ~is_ok(status)
    if failed.any():  # else there is nothing to look up
        _known(status, "image", ids, server)
        if values[failed].any():
            values = np.where(failed[:, None], values.dtype.type(0), values)
    if not finite(values):
        row = int(np.argmin(np.isfinite(values).all(axis=1)))
        number = values[row][~np.isfinite(values[row])][0]
        raise broken(server, f"the vector of image {ids[row]} holds {number}, and its status is OK")
    return reply if values is reply.values else replace(reply, values=values)


def finite(values: npt.NDArray[Any]) -> bool:
    """Whether no number is nan or infinite; of fp16 in a twentieth of the time that ``numpy.isfinite`` takes.

    The bits of such a number, read as an integer, are no less than those of infinity: as a signed integer where the
    number is positive, as one without a sign where it is negative.

    Args:
        values: of any shape, fp16 or fp32.
    """
    if not values.size:
        return True
    infinity = 0x7C00 if values.itemsize == 2 else 0x7F80_0000
    signed, sign = values.view(f"i{values.itemsize}"), 1 << 8 * values.itemsize - 1
    return bool(signed.max() < infinity and values.view(f"u{values.itemsize}").max() < infinity + sign)


def statuses(block: bytes, what: str, asked: Sequence[int] | Ids, server: str) -> Statuses:
    """The status of each of the images, or queries, of a call, shape (n,).

    Args:
        block: one byte each, as it came.
        what: they belong to, as an error calls it: image or query.
        asked: id or number of each.
        server: its address.

    Raises:
        ServerFault: there are fewer or more, or one is unknown.
    """
    if len(block) != len(asked):
        raise broken(server, f"status has {len(block)} bytes, and {len(asked)} were asked for")
    return _known(np.frombuffer(block, dtype=np.uint8), what, asked, server)


def neighbours(
    reply: pb.SearchResponse, queries: int, k: int, own: Ids | None, server: str
) -> tuple[Ids, npt.NDArray[np.float32], Statuses]:
    """Ids, shape (n, k), cosines, shape (n, k), and status, shape (n,), of a call's queries.

    Args:
        reply: as it came.
        queries: n.
        k: neighbours of each.
        own: shape (n,), the queries' ids; None: they are photos.
        server: its address.

    Raises:
        ServerFault: a length that is not n or n * k, a negative id, a cosine that is none, an order that is not best
            first, an id twice or a query's own, or neighbours of a query that failed.
    """
    status = statuses(reply.status, "query", range(queries), server)
    for name, size in (("image_ids", 8), ("cosines", 4)):
        if (found := len(getattr(reply, name))) != size * queries * k:
            raise broken(server, f"{name} has {found} bytes; {queries} queries of {k} take {size * queries * k}")
    named("version", reply.version, server)
    ids = np.frombuffer(reply.image_ids, dtype="<i8").reshape(queries, k)
    cosines = np.frombuffer(reply.cosines, dtype="<f4").reshape(queries, k)
    if not queries:
        return ids, cosines, status
    there = ids != NULL_IMAGE
    ordered = np.sort(ids, axis=1)
    for wrong, what in (
        (ids < NULL_IMAGE, "a negative id"),
        (~(np.abs(cosines) <= 1 + COSINE_SLACK), "a cosine beyond 1"),
        (~there & (cosines != 0), "a cosine without a neighbour"),
        (there & (status != Status.OK)[:, None], "neighbours, though it failed"),
        (there[:, 1:] & ~there[:, :-1], "a neighbour behind none"),
        (there[:, 1:] & (cosines[:, 1:] > cosines[:, :-1] + COSINE_SLACK), "neighbours that are not best first"),
        ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0), "an image twice"),
        (ids == own[:, None] if own is not None else np.zeros((queries, 0), np.bool_), "itself"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong.any(axis=1)))
            name = f"image {own[row]}" if own is not None else f"photo {row}"
            raise broken(server, f"the neighbours of {name} hold {what}: {ids[row][:8]}, {cosines[row][:8]}")
    return ids, np.clip(cosines, -1.0, 1.0), status


def thumbnails(reply: pb.GetThumbnailsResponse, ids: Ids, max_side: int, server: str) -> list[bytes | None]:
    """A small JPEG of each of the images of a call; None where there is none.

    Args:
        reply: as it came.
        ids: shape (n,), that were asked for.
        max_side: pixels of the longest side, likewise.
        server: its address.

    Raises:
        ServerFault: there are fewer or more, or one is no baseline JPEG of at most that size.
    """
    if len(reply.jpegs) != len(ids):
        raise broken(server, f"{len(ids)} thumbnails were asked for, {len(reply.jpegs)} came")
    most = max_side or DEFAULT_SIDE
    for image_id, jpeg in zip(ids.tolist(), reply.jpegs, strict=True):
        if len(jpeg) > MAX_JPEG_BYTES:
            raise broken(server, f"the thumbnail of image {image_id} has {len(jpeg)} bytes, more than {MAX_JPEG_BYTES}")
        if jpeg and not 1 <= (side := _longest_side(jpeg)) <= most:
            what = f"has a side of {side} pixels, more than {most}" if side else "is no baseline JPEG"
            raise broken(server, f"the thumbnail of image {image_id} {what}")
    return [jpeg or None for jpeg in reply.jpegs]


def concepts(reply: pb.GetConceptsResponse, version: str, server: str) -> ConceptCard:
    """What the numbers of a version mean.

    Args:
        reply: as it came.
        version: that was asked for; empty: the active one.
        server: its address.

    Raises:
        ServerFault: it speaks of another version, or is no card, or not that of this version's head.
    """
    if version and reply.version != version:
        raise broken(server, f"the concepts of {version} were asked for, version is {reply.version!r}")
    told = Version.parse(named("version", reply.version, server))
    try:
        card = ConceptCard.from_bytes(reply.card)
    except BadInput as error:
        raise broken(server, f"card: {printable(str(error), 200)}") from None
    if (card.head, len(card)) != (told.head, told.dim):
        what = f"{len(card)} numbers of {printable(card.head, 100)}"
        raise broken(server, f"card describes {what}, and the version is {reply.version}")
    return card


def named(field: str, value: str, server: str) -> str:
    """A name as it came.

    Raises:
        ServerFault: it is too long for one, or cannot be printed.
    """
    if len(value) > MAX_NAME or not value.isprintable():
        raise broken(server, f"{field} is '{printable(value, 100)}': too long for a name, or it cannot be printed")
    return value


def _known(status: Statuses, what: str, asked: Sequence[int] | Ids, server: str) -> Statuses:
    known = KNOWN_STATUS[status]
    if not known.all():
        row = int(np.argmin(known))
        raise broken(server, f"the status of {what} {asked[row]} is {status[row]}, which is unknown")
    return status


def _longest_side(jpeg: bytes) -> int:
    """Pixels of a baseline JPEG's longest side, as the header of its frame says; 0 if it is none."""
    place = 2
    while jpeg[:2] == b"\xff\xd8" and len(jpeg) >= place + 9 and jpeg[place] == 0xFF:
        kind, size = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4])
        if kind == 0xC0:
            return max(int.from_bytes(jpeg[place + 5 : place + 7]), int.from_bytes(jpeg[place + 7 : place + 9]))
        if not (0xE0 <= kind <= 0xEF or kind in (0xDB, 0xC4, 0xDD, 0xFE)) or size < 2:
            return 0
        place += 2 + size
    return 0
