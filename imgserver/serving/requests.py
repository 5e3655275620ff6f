"""Checks that several calls share."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import Message

from crossmedia.errors import InvalidRequest
from crossmedia.imgserver.shards import Ownership
from crossmedia.imgserver.storage.records import Ids
from crossmedia.v1 import image_server_pb2 as pb


def ids_of(block: bytes, most: int, ownership: Ownership | None) -> Ids:
    """Image ids of a request, shape (n,).

    Args:
        block: little-endian int64, 8 bytes each.
        most: that one call may ask for.
        ownership: what this server owns; None: all images.

    Raises:
        InvalidRequest: the block is broken, holds a negative id, or too many.
        WrongShard: another server owns one of them.
    """
    if len(block) % 8:
        raise InvalidRequest(f"image_ids has {len(block)} bytes; it must be int64 numbers of 8 bytes each.")
    ids = np.frombuffer(block, dtype="<i8").astype(np.int64, copy=False)
    if len(ids) > most:
        raise InvalidRequest(f"{len(ids)} ids were asked for in one call; the limit is {most} (see GetInfo).")
    if len(ids) and ids.min() < 0:
        raise InvalidRequest(f"Image id {ids.min()} is negative; the null image is never sent.")
    if ownership is not None:
        ownership.check(ids)
    return ids


def images_in(request: Message) -> int:
    """How many images a request asks for or brings; at least one, for every call is some work."""
    if isinstance(request, pb.PutImagesRequest):
        return max(1, len(request.images))
    photos = len(request.photos) if isinstance(request, pb.SearchRequest) else 0
    return max(1, len(getattr(request, "image_ids", b"")) // 8 + photos)
