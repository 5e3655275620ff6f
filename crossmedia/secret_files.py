"""Files that others must not read, and files that are read again when they change, without a restart."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from crossmedia.errors import BadInput

log = logging.getLogger(__name__)

T = TypeVar("T")
PRIVATE = 0o600


def private_opener(path: str, flags: int) -> int:
    """For ``open(…, opener=…)``: only its owner can read a file that it creates."""
    return os.open(path, flags, PRIVATE)


def is_private(mode: int, owner: int, user: int) -> bool:
    """Whether these permission bits keep a file from others.

    A file of root may be read by its group, unless root itself runs the program: this is how Kubernetes hands secrets
    to a container that is not root, and the rule of PostgreSQL for its keys.
    """
    return not mode & (0o037 if owner == 0 and user != 0 else 0o077)


def read_private(path: Path, what: str) -> bytes:
    """The content of a file that only its owner can read.

    Args:
        path: of the file.
        what: it is, for the message of an error.

    Raises:
        BadInput: it cannot be read, or others can read it.
    """
    try:
        with open(path, "rb") as file:
            found, data = os.fstat(file.fileno()), file.read()
    except OSError as error:
        raise BadInput(f"The {what} {path} cannot be read: {error.strerror}.") from error
    if not is_private(found.st_mode, found.st_uid, os.geteuid()):
        raise BadInput(
            f"The {what} {path} can be read by others (its mode is {found.st_mode & 0o777:04o}). "
            f"Remove that permission: chmod 600 {path}"
        )
    return data


class Followed(Generic[T]):
    """The content of some files, read again when one changes. A broken change is logged once, and the former stays.

    Args:
        what: the files are, for the log.
        paths: of the files.
        load: reads them.
        look_every_s: seconds between two looks at them.

    Raises:
        BadInput: they are broken from the start.
    """

    def __init__(self, what: str, paths: Sequence[Path], load: Callable[[], T], look_every_s: float = 0.0):
        self._what, self._paths, self._load, self._look_every_s = what, paths, load, look_every_s
        self._lock = threading.Lock()
        self._stamps = self._look()
        self._looked_at = time.monotonic()
        self._value = load()

    def now(self) -> T:
        """What the files say."""
        if self._look_every_s and time.monotonic() - self._looked_at < self._look_every_s:
            return self._value
        with self._lock:
            self._looked_at = time.monotonic()
            before = self._look()
            if before == self._stamps:
                return self._value
            trouble = None
            try:
                value = self._load()
            except BadInput as error:
                trouble = error
            if self._look() != before:  # they are being written just now: the next look will tell
                return self._value
            self._stamps = before
            if trouble is None:
                self._value = value
                log.info("%s: it has changed and was read again", self._what)
            else:
                log.error("%s: the change is not taken, and what was read before stays: %s", self._what, trouble)
            return self._value

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        """A value that changes when a file is written or replaced; None if the file does not exist."""
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                found = os.stat(path)
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                stamps.append(None)
        return tuple(stamps)
