"""Files behind a URL, read with a time limit and retries; and which of the two reads a path."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

import xxhash

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.files import (
    SHARD_SUFFIXES,
    Files,
    FoundFile,
    below,
    has_suffix,
    is_url,
    is_web,
)
from crossmedia.imgserver.storage.catalogue.local import LocalFiles
from crossmedia.imgserver.storage.catalogue.passed_over import PassedOver, is_hidden

READ_TIMEOUT_S = 20.0
TRIES = 3
FIRST_PAUSE_S = 0.2
T = TypeVar("T")


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
        """The address to ask for: as it is, except that characters which no address may hold are encoded."""
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
    """A part of a file, also from a web server that sends the whole of it: of that no more is read than needed."""
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


@lru_cache(maxsize=32)
def _remote(start: str, timeout_s: float) -> RemoteFiles:
    return RemoteFiles(start, timeout_s)


def files_for(path: str, timeout_s: float, local: LocalFiles) -> Files:
    """What reads ``path``: this machine's files, or one reader for each file system behind URLs."""
    if not is_url(path):
        return local
    protocol, _, rest = path.partition("://")
    return _remote(f"{protocol}://{rest.partition('/')[0]}", timeout_s)
