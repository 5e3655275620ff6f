"""Photos to the server: in calls that it takes, tried again until one deadline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from crossmedia.errors import CrossMediaError, InvalidRequest, Overloaded, ServerUnavailable
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.retries import Deadline, Tries
from crossmedia.imgserver.client.server_info import ServerInfo
from crossmedia.imgserver.client.transports import Transport
from crossmedia.imgserver.wire import PUT_IMAGES
from crossmedia.status import TRANSIENT, Status
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version


def as_bytes(photos: Mapping[int, bytes | str], info: ServerInfo) -> list[bytes]:
    """What is put, as it is sent: texts in UTF-8.

    Raises:
        InvalidRequest: there are texts, and the server sees photos; or one holds half a character.
    """
    texts = [image_id for image_id, data in photos.items() if isinstance(data, str)]
    if texts and not Version.parse(info.version).of_texts:
        raise InvalidRequest(
            f"Text is given for {texts[0]}, and the server's backbone {info.backbone} reads none. Give the bytes of a "
            f"photo, or put texts to a server of texts."
        )
    return [as_utf_8(data) if isinstance(data, str) else data for data in photos.values()]


def as_utf_8(text: str) -> bytes:
    """A text as it is sent.

    Raises:
        InvalidRequest: it holds half a character.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"A text holds half a character: {error}.") from error


def put_photos(
    transport: Transport, info: ServerInfo, photos: Mapping[int, bytes], deadline: Deadline
) -> dict[int, Status]:
    """What ``ImageClient.put`` does, within the limits that the server told."""
    limits = info.limits
    most = min(limits.max_image_bytes, limits.message_bytes - 1024)
    result = {image_id: Status.TOO_LARGE for image_id, data in photos.items() if len(data) > most}
    todo = [image_id for image_id in photos if image_id not in result]
    tries = Tries(deadline)
    while True:
        error: CrossMediaError | None = None
        sizes = [len(photos[i]) for i in todo]
        for run in parts(sizes, limits.max_put_per_call, limits.message_bytes):
            part = todo[run]
            request = pb.PutImagesRequest(images=[pb.PutImage(image_id=i, data=photos[i]) for i in part])
            try:
                reply = transport.call(PUT_IMAGES, request, deadline.left())
            except (ServerUnavailable, Overloaded) as failed:
                error = failed
                break
            statuses = replies.statuses(reply.status, "image", part, transport.address)
            result |= {i: Status(status) for i, status in zip(part, statuses.tolist(), strict=True)}
        todo = [i for i in todo if result.get(i, Status.TIMED_OUT) in TRANSIENT]
        if not todo:
            tries.answered()
            return result
        tries.wait(error or info.not_ready(todo[0], result[todo[0]], len(todo), deadline.timeout_s))


def parts(sizes: Sequence[int], most: int, max_bytes: int) -> Iterator[slice]:
    """Runs of photos that one call takes; a photo costs some bytes beside its own.

    Args:
        sizes: bytes of each photo.
        most: photos in a call.
        max_bytes: of a message.
    """
    first, size = 0, 0
    for place, bytes_ in enumerate(sizes):
        cost = bytes_ + 32
        if place > first and (place - first == most or size + cost > max_bytes - 1024):
            yield slice(first, place)
            first, size = place, 0
        size += cost
    if first < len(sizes):
        yield slice(first, len(sizes))
