"""The process that decodes photos of strangers: little to find in it, little that it may use, and easy to end.

It takes one photo after the other from its socket and answers each. Memory is limited, processor time is limited anew
for each photo, by signals that end it within C code as well. It opens no file and starts no process once it works.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import resource
import signal
import struct
import sys
from functools import lru_cache
from typing import Any

from PIL import Image, TiffImagePlugin

from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode, thumbnail
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge

REQUEST = struct.Struct("<II")  # bytes of the task and of the photo, which follow
REPLY = struct.Struct("<BI")  # what follows, and its bytes
DONE, TOO_LARGE, CORRUPT = range(3)
MAX_REASON = 500  # characters
SOCKET = 0  # the file descriptor
READS_EXIF = TiffImagePlugin  # which Pillow would import when it first meets some: too late here


def main(lifeline: int, max_bytes: int, max_pixels: int) -> None:
    """Decode until the parent closes the socket.

    Args:
        lifeline: the read end of a pipe that nobody writes to and no other process has. The parent's end of it
            closes when the parent ends, however it does, and ends this process.
        max_bytes: of ``ImageLimits``.
        max_pixels: of ``ImageLimits``.
    """
    limits = ImageLimits(max_bytes, max_pixels)
    _confine(lifeline, limits)
    with open(SOCKET, "rb", closefd=False) as requests, open(SOCKET, "wb", closefd=False) as replies:
        _send(replies, DONE, b"")  # ready
        while head := requests.read(REQUEST.size):
            task_bytes, photo_bytes = REQUEST.unpack(head)
            task, photo = requests.read(task_bytes), requests.read(photo_bytes)
            if len(photo) < photo_bytes:  # the parent has gone
                return
            signal.setitimer(signal.ITIMER_PROF, limits.decode_s)
            kind, answer = _answer(task, photo, limits)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _send(replies, kind, answer)
            del photo, answer
            gc.collect()  # a picture in a cycle is hundreds of megabytes


def _confine(lifeline: int, limits: ImageLimits) -> None:
    Image.preinit()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of a supervisor to all processes; the parent ends this one
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)  # SIGIO ends it
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + limits.decode_bytes,) * 2)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        resource.setrlimit(kind, (0, 0))


def _answer(task: bytes, photo: bytes, limits: ImageLimits) -> tuple[int, bytes]:
    try:
        how = _parsed(task)
        if isinstance(how, int):
            return DONE, thumbnail(photo, how, limits)
        return DONE, decode(photo, how, limits).tobytes()
    except ImageTooLarge as error:
        return TOO_LARGE, str(error)[:MAX_REASON].encode()
    except MemoryError:
        return TOO_LARGE, f"it needs more than {limits.decode_bytes >> 20} MiB to decode".encode()
    except CorruptImage as error:
        return CORRUPT, str(error)[:MAX_REASON].encode()


@lru_cache
def _parsed(task: bytes) -> Preprocessing | int:
    said: Any = json.loads(task)
    return said if isinstance(said, int) else Preprocessing(**said)


def _send(replies: Any, kind: int, answer: bytes) -> None:
    replies.write(REPLY.pack(kind, len(answer)) + answer)
    replies.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
