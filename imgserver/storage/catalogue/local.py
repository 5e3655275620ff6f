"""Files of this machine, below the folders that may be read."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import BinaryIO

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.files import FoundFile, is_url, root_of
from crossmedia.imgserver.storage.catalogue.passed_over import (
    AGAIN,
    NOWHERE,
    OUT,
    PassedOver,
    is_hidden,
    is_text,
    shown,
)

log = logging.getLogger(__name__)


class NotBelow(PermissionError):
    """A file of this machine that lies below no folder which may be read, or is no regular file."""


class LocalFiles:
    """Files of this machine, below some folders alone: no name and no link leads out of them.

    Where a file really lies is asked of the kernel after it was opened, so that a link that is put in the place of a
    file meanwhile is found out too.

    Args:
        below: the folders, and single files.
    """

    readers = 2

    def __init__(self, below: Sequence[str]):
        self._below = tuple(below)
        self._real = self._resolved()
        self._told = False

    def _resolved(self) -> tuple[str, ...]:
        return tuple(os.path.join(os.path.realpath(path), "") for path in self._below)

    def allows(self, path: str) -> bool:
        """Whether ``path``, with all links followed, lies below one of the folders."""
        return self._inside(os.path.realpath(path))

    def _inside(self, real: str) -> bool:
        path = os.path.join(real, "")
        if path.startswith(self._real):
            return True
        self._real = self._resolved()  # a folder may be a link that its owner has changed
        return path.startswith(self._real)

    def _descriptor(self, path: str) -> int:
        # Without O_NONBLOCK a pipe that lies among the photos would hold its reader for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotBelow(f"{path} is no regular file.")
            if not self._inside(os.readlink(f"/proc/self/fd/{descriptor}")):
                self._tell(path)
                raise NotBelow(f"{path} leads out of {', '.join(self._below)}.")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _tell(self, path: str) -> None:
        if not self._told:  # once; there may be millions
            self._told = True
            log.warning(
                "%s leads out of %s, and is not read, as all others of its kind; if it may be, name the folder that it "
                "leads to: --photo-root FOLDER",
                path,
                ", ".join(self._below),
            )

    def walk(self, root: str, passed: PassedOver) -> Iterator[list[FoundFile]]:
        """Files below ``root``, without a look at each: only their names are read here, and where links lead.

        Each folder is listed once, whatever links lead to it; by its own path, if that lies below ``root``.
        """
        if os.path.isfile(root):
            yield [FoundFile(root)]
            return
        folders = [(root, os.path.realpath(root))]
        links: list[tuple[str, str]] = []  # to folders, which are looked at last, in the order of their names
        seen = set()
        while folders or links:
            folder, real = folders.pop() if folders else heappop(links)
            if real in seen:
                passed.add(AGAIN, folder)
                continue
            seen.add(real)
            files = []
            with os.scandir(folder) as found:
                for entry in found:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_symlink():
                        end = self._end(entry.path, passed)
                        if end is not None and os.path.isdir(end):
                            heappush(links, (entry.path, end))
                        elif end is not None:
                            files.append(FoundFile(entry.path))
                    elif entry.is_dir():
                        folders.append((entry.path, os.path.join(real, entry.name)))
                    else:
                        files.append(FoundFile(entry.path))
                    if len(files) == 100_000:
                        yield files
                        files = []
            yield files

    def _end(self, link: str, passed: PassedOver) -> str | None:
        """Where a link leads; None where that is nowhere, in a circle, or out of the folders that may be read."""
        end = os.path.realpath(link)
        if not self._inside(end):
            self._tell(link)
            passed.add(OUT, link)
        elif not os.path.exists(end):
            passed.add(NOWHERE, link)
        else:
            return end
        return None

    def stat(self, path: str) -> FoundFile | None:
        """Size and time of change in ns."""
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            if _is_absent(error):
                return None
            raise
        return FoundFile(path, found.st_size, found.st_mtime_ns)

    def open(self, path: str) -> BinaryIO:
        """The file."""
        return open(self._descriptor(path), "rb")

    def read(self, path: str, start: int, length: int) -> bytes | None:
        """Bytes of the file."""
        try:
            descriptor = self._descriptor(path)
        except (OSError, ValueError) as error:
            if isinstance(error, NotBelow) or _is_absent(error):
                return None
            raise
        try:
            return os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)


def _is_absent(error: Exception) -> bool:
    """Whether an error says that there is no such file; ValueError: a null byte, which no name has."""
    absent = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in absent)


def check_where(where: str) -> None:
    """Look at a catalogue's path before anything is listed.

    Raises:
        BadInput: there is nothing, or its name cannot stand in a manifest.
    """
    if not is_text(where):
        raise BadInput(f"The name of the catalogue {shown(where)} is no UTF-8. Rename it.")
    if not is_url(where) and not os.path.exists(where):
        raise BadInput(f"The catalogue {where} does not exist.")


def local_files(where: str, photo_roots: Sequence[str] = ()) -> LocalFiles:
    """This machine's files for the catalogue ``where``: below its folder and the ``photo_roots``, no others."""
    own = () if is_url(where) else (root_of(where) or ".", where)
    return LocalFiles((*own, *photo_roots))
