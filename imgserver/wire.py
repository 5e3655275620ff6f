"""The calls of the contract, and replies with large blocks as bytes, without copying the blocks through protobuf.

A protobuf message is the concatenation of its fields, in any order. So the small fields go through the generated
class, and the large ones, such as ``vectors``, are appended and found as they are: one copy when a reply is sent, none
when it is read. Any other implementation of the contract reads and writes the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from crossmedia.v1 import image_server_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ImageService"].full_name
Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Reply]):
    """A call of the contract.

    Attributes:
        name: of the call, such as ``GetInfo``.
        request: the message that goes there.
        reply: the message that comes back.
    """

    name: str
    request: type[Message]
    reply: type[Reply]

    @property
    def path(self) -> str:
        """How gRPC names it: ``/package.Service/Method``."""
        return f"/{SERVICE_NAME}/{self.name}"


GET_INFO = Method("GetInfo", pb.GetInfoRequest, pb.GetInfoResponse)
GET_VECTORS = Method("GetVectors", pb.GetVectorsRequest, pb.GetVectorsResponse)
PUT_IMAGES = Method("PutImages", pb.PutImagesRequest, pb.PutImagesResponse)
PUT_HEAD = Method("PutHead", pb.PutHeadRequest, pb.PutHeadResponse)
GET_HEAD_GRADIENT = Method("GetHeadGradient", pb.GetHeadGradientRequest, pb.GetHeadGradientResponse)
SEARCH = Method("Search", pb.SearchRequest, pb.SearchResponse)
GET_THUMBNAILS = Method("GetThumbnails", pb.GetThumbnailsRequest, pb.GetThumbnailsResponse)
GET_CONCEPTS = Method("GetConcepts", pb.GetConceptsRequest, pb.GetConceptsResponse)
LIST_IMAGES = Method("ListImages", pb.ListImagesRequest, pb.ListImagesResponse)
LIST_VERSIONS = Method("ListVersions", pb.ListVersionsRequest, pb.ListVersionsResponse)
ACTIVATE_VERSION = Method("ActivateVersion", pb.ActivateVersionRequest, pb.ActivateVersionResponse)
METHODS: tuple[Method[Any], ...]
METHODS = (
    *(GET_INFO, GET_VECTORS, PUT_IMAGES, PUT_HEAD, GET_HEAD_GRADIENT, SEARCH, GET_THUMBNAILS, GET_CONCEPTS),
    *(LIST_IMAGES, LIST_VERSIONS, ACTIVATE_VERSION),
)
DTYPES: dict[int, np.dtype[Any]] = {pb.DTYPE_FLOAT16: np.dtype("<f2"), pb.DTYPE_FLOAT32: np.dtype("<f4")}
_CODES = {np.dtype("<f2"): pb.DTYPE_FLOAT16, np.dtype("<f4"): pb.DTYPE_FLOAT32}
_FIELDS = pb.GetVectorsResponse.DESCRIPTOR.fields_by_name
_VECTORS, _STATUS = _FIELDS["vectors"].number, _FIELDS["status"].number
_SMALL = ("version", "generation", "computed", "server_time_ns", "queue_time_ns", "compute_time_ns")
_VARINT, _FIXED64, _BLOCK, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf


@dataclass(slots=True)
class VectorsReply:
    """One answer of ``GetVectors``; the comments of the wire contract explain each field.

    Attributes:
        values: shape (n, D), float16 or float32, little-endian.
        status: shape (n,), uint8.
    """

    version: str
    generation: int
    values: npt.NDArray[Any]
    status: npt.NDArray[np.uint8]
    computed: int = 0
    server_time_ns: int = 0
    queue_time_ns: int = 0
    compute_time_ns: int = 0


def encode_reply(reply: VectorsReply) -> bytes:
    """The reply as ``GetVectorsResponse`` on the wire."""
    small = pb.GetVectorsResponse(
        dim=reply.values.shape[1],
        dtype=_CODES[reply.values.dtype],
        **{name: getattr(reply, name) for name in _SMALL},
    )
    return with_blocks(small, vectors=reply.values, status=reply.status)


def with_blocks(small: Message, **blocks: npt.NDArray[Any]) -> bytes:
    """A message on the wire: its small fields, and behind them arrays as its fields of bytes.

    Args:
        small: the message without those fields.
        blocks: field name to array, little-endian.
    """
    pieces: list[Any] = [small.SerializeToString()]  # arrays are buffers, which numpy says from Python 3.12 on
    for name, block in blocks.items():
        pieces += _head(small.DESCRIPTOR.fields_by_name[name].number, block.nbytes), np.ascontiguousarray(block)
    return b"".join(pieces)


def decode_reply(message: bytes) -> VectorsReply:
    """Read ``GetVectorsResponse``; ``values`` and ``status`` are views into ``message``.

    Raises:
        ValueError: the bytes are no such message, or ``vectors`` are no whole rows; why.
    """
    blocks = {_VECTORS: (0, 0), _STATUS: (0, 0)}
    small = []
    place = 0
    try:
        while place < len(message):
            start = place
            tag, place = _varint(message, place)
            number, kind = tag >> 3, tag & 7
            if kind == _BLOCK:
                size, place = _varint(message, place)
                if number in blocks:
                    blocks[number] = place, size
                    place += size
                    continue
                place += size
            elif kind == _VARINT:
                _, place = _varint(message, place)
            else:
                place += {_FIXED64: 8, _FIXED32: 4}[kind]
            small.append(message[start:place])
        if place != len(message):
            raise ValueError("it ends within a field")
        found = pb.GetVectorsResponse.FromString(b"".join(small))
        if (dtype := DTYPES.get(found.dtype)) is None:
            raise ValueError(f"dtype is {found.dtype}, which is unknown")
        start, size = blocks[_VECTORS]
        rows, rest = divmod(size, max(found.dim, 1) * dtype.itemsize)
        if rest:
            raise ValueError(f"vectors have {size} bytes, which are no rows of {found.dim} numbers of {dtype}")
        values = np.frombuffer(message, dtype, size // dtype.itemsize, start).reshape(rows, max(found.dim, 1))
        start, size = blocks[_STATUS]
        status = np.frombuffer(message, np.uint8, size, start)
    except Exception as error:  # protobuf, numpy and the walk each raise their own
        raise ValueError(f"it cannot be read ({type(error).__name__}: {error})") from error
    return VectorsReply(values=values, status=status, **{name: getattr(found, name) for name in _SMALL})


@lru_cache(1024)  # of few sizes, each many times
def _head(number: int, size: int) -> bytes:
    """Tag and length of a block."""
    out = bytearray()
    for value in (number << 3 | _BLOCK, size):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
