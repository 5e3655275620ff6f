"""Files on this machine or behind a URL, read with a time limit and retries; nothing here knows what is in them."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any, BinaryIO, Protocol, TypeVar, cast
from urllib.parse import quote

import xxhash

from imgserver.errors import BadInput
from imgserver.storage.catalog.passed_over import AGAIN, NOWHERE, PassedOver, is_hidden, is_text, shown

log = logging.getLogger(__name__)

PARQUET_SUFFIXES = (".parquet", ".pq")
SHARD_SUFFIXES = (*PARQUET_SUFFIXES, ".tar")
TRIES = 3
FIRST_PAUSE_S = 0.2
T = TypeVar("T")


@dataclass(frozen=True)
class FoundFile:
    """A file of a listing: its path, its bytes (-1: not asked), and a stamp that changes with it (0: not asked)."""

    path: str
    size: int = -1
    stamp: int = 0


class Files(Protocol):
    """Where files are read from. ``readers``: how many reads at once make sense."""

    readers: int

    def walk(self, root: str, passed: PassedOver) -> Iterator[list[FoundFile]]:
        """Files below ``root``, a folder at a time, without hidden ones; ``root`` itself when it is a file.

        Args:
            root: a path or URL.
            passed: told which links are not followed.
        """
        ...

    def stat(self, path: str) -> FoundFile | None:
        """Size and stamp now; None when there is no such file."""
        ...

    def open(self, path: str) -> BinaryIO:
        """The file, to read from any place in it."""
        ...

    def read(self, path: str, start: int, length: int) -> bytes | None:
        """At most ``length`` bytes from byte ``start`` on; None when there is no such file.

        Raises:
            OSError: the file is there and cannot be read.
        """
        ...


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


class RemoteFiles:
    """Files behind a URL that fsspec knows: ``s3://``, ``https://``, ``gs://`` and others.

    A read that fails or lasts longer than ``timeout_s`` is tried again, three times in all.

    Args:
        url: any URL of the file system; credentials and endpoints come from its own environment variables and files.
        timeout_s: seconds for one read, where the file system can be told.

    Raises:
        BadInput: fsspec does not know the protocol, or lacks a package for it.
    """

    readers = 32

    def __init__(self, url: str, timeout_s: float):
        import fsspec

        self._timeout_s = timeout_s
        self._protocol = url.partition("://")[0]
        # Addresses are asked as they are written, and so are those that a server sends on to: signatures are of these.
        exact = {"encoded": True, "client_kwargs": {"requote_redirect_url": False}} if is_web(url) else {}
        try:
            # Listings must not be cached: that would keep a Python object an image for as long as the process lives.
            self._fs: Any = fsspec.url_to_fs(url, use_listings_cache=False, **exact)[0]
        except (ImportError, ValueError) as error:
            raise BadInput(
                f"The catalogue {url} cannot be opened: {error}. For s3:// and https:// install: "
                f'pip install "crossmedia[remote]"'
            ) from error
        except Exception as error:  # some connect at once, with errors of their own
            raise BadInput(f"The catalogue {url} cannot be reached: {error}.") from error

    def walk(self, root: str, passed: PassedOver) -> Iterator[list[FoundFile]]:
        """Files below ``root`` with size and stamp, which a listing of an object store brings along."""
        if has_suffix(root, SHARD_SUFFIXES):  # asking would not tell: to fsspec every web page is a file
            yield [self._found(self._again(lambda: self._fs.info(self._asked(root))))]
            return
        # A part that cannot be listed must not look like a part without photos.
        folders = self._fs.walk(self._asked(root), detail=True, on_error="raise")
        while True:
            try:
                _, _, files = next(folders)
            except StopIteration:
                return
            except OSError:
                raise
            except Exception as error:  # each file system raises errors of its own
                raise OSError(in_words(error)) from error
            found = [self._found(info) for info in files.values()]
            yield [file for file in found if not is_hidden(below(file.path, root))]

    def stat(self, path: str) -> FoundFile | None:
        """Size and stamp, from the object's description."""
        try:
            return self._found(self._again(lambda: self._fs.info(self._asked(path))))
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        """The file, read ahead in blocks."""
        return cast(BinaryIO, self._again(lambda: self._fs.open(self._asked(path), "rb")))

    def read(self, path: str, start: int, length: int) -> bytes | None:
        """Bytes of the object, by a range request."""
        from fsspec.asyn import AsyncFileSystem, sync

        path = self._asked(path)

        def once() -> bytes:
            if not isinstance(self._fs, AsyncFileSystem):
                return bytes(self._fs.cat_file(path, start=start, end=start + length))
            if is_web(path):
                work = _read_http(self._fs, path, start, length)
            else:
                work = self._fs._cat_file(path, start=start, end=start + length)
            return bytes(sync(self._fs.loop, lambda: work, timeout=self._timeout_s))

        try:
            return self._again(once)
        except FileNotFoundError:
            return None

    def _asked(self, path: str) -> str:
        """What is asked for: the address as it is, and in one that nobody has encoded what no address may hold."""
        return quote(path, safe="%/:?#[]@!$&'()*+,;=~-._") if is_web(path) else path

    def _found(self, info: dict[str, Any]) -> FoundFile:
        mark = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
        stamp = xxhash.xxh3_64_intdigest(str(mark).encode()) if mark else 0
        return FoundFile(self._fs.unstrip_protocol(info["name"]), int(info.get("size") or -1), stamp)

    def _again(self, work: Callable[[], T]) -> T:
        """Do the work; what may pass by itself is tried again, after a pause that doubles."""
        for left in reversed(range(TRIES)):
            try:
                return work()
            except (FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # each file system raises errors of its own
                if not left:
                    if isinstance(error, TimeoutError):
                        raise OSError(f"no answer within {self._timeout_s:.3g} s, {TRIES} times") from error
                    raise OSError(f"{in_words(error)}, {TRIES} times") from error
                time.sleep(FIRST_PAUSE_S * 2 ** (TRIES - 1 - left))
        raise AssertionError("This is a bug: the last try returns or raises.")


async def _read_http(fs: Any, url: str, start: int, length: int) -> bytes:
    """A part of a file, also from a web server that answers with the whole of it: of that no more is read than needed."""
    session = await fs.set_session()
    headers = {"Range": f"bytes={start}-{start + length - 1}"}
    async with session.get(fs.encode_url(url), headers=headers) as response:
        if response.status == 404:
            raise FileNotFoundError(url)
        if response.status == 416:  # an empty file has no first byte
            return b""
        response.raise_for_status()
        first = 0 if response.status == 206 else start
        data = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            data += chunk
            if len(data) >= first + length:
                break
        return bytes(data[first : first + length])


def in_words(error: BaseException) -> str:
    """What an error of a file system says, for people: no names of classes, no addresses of memory, no signatures."""
    if status := getattr(error, "status", None):
        return f"HTTP {status} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, OSError) and error.strerror and not getattr(error, "os_error", None):
        return error.strerror
    said = re.sub(r"<[^<>]*>|\b0x[0-9a-f]+\b", "", " ".join(str(error).split())).strip(" :,")
    return said or "the connection failed"


def is_web(path: str) -> bool:
    """Whether ``path`` is an address of a web server."""
    return path.startswith(("http://", "https://"))


def has_suffix(path: str, suffixes: str | tuple[str, ...]) -> bool:
    """Whether a path ends so, whatever its case; an address of a web server before its query."""
    return (path.partition("?")[0] if is_web(path) else path).lower().endswith(suffixes)


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL and not a path of this machine."""
    return "://" in path


@lru_cache(maxsize=32)
def _remote(start: str, timeout_s: float) -> RemoteFiles:
    return RemoteFiles(start, timeout_s)


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


def files_for(path: str, timeout_s: float, local: LocalFiles) -> Files:
    """What reads ``path``: this machine's files, or one reader for each file system behind URLs."""
    if not is_url(path):
        return local
    protocol, _, rest = path.partition("://")
    return _remote(f"{protocol}://{rest.partition('/')[0]}", timeout_s)


def root_of(where: str) -> str:
    """The folder that paths in a listing of ``where`` are relative to: ``where`` itself, or the folder of that file."""
    if not has_suffix(where, SHARD_SUFFIXES):
        return where
    return os.path.dirname(where.partition("?")[0] if is_web(where) else where)


def below(path: str, root: str) -> str:
    """``path`` without the root, which a million photos would repeat."""
    return path.removeprefix(root.rstrip("/") + "/")


def join(root: str, path: str) -> str:
    """``path`` below ``root``, unless it is whole already."""
    if is_url(path) or not is_url(root):
        return path if is_url(path) else os.path.join(root, path)
    return f"{root.rstrip('/')}/{path}"
