"""What files are to a catalogue, wherever they lie, and how their paths and addresses are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from crossmedia.imgserver.storage.catalogue.passed_over import PassedOver

PARQUET_SUFFIXES = (".parquet", ".pq")
SHARD_SUFFIXES = (*PARQUET_SUFFIXES, ".tar")
CSV_SUFFIXES = (".csv", ".csv.gz")


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


def is_web(path: str) -> bool:
    """Whether ``path`` is an address of a web server."""
    return path.startswith(("http://", "https://"))


def has_suffix(path: str, suffixes: str | tuple[str, ...]) -> bool:
    """Whether a path ends so, whatever its case; an address of a web server before its query."""
    return (path.partition("?")[0] if is_web(path) else path).lower().endswith(suffixes)


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL and not a path of this machine."""
    return "://" in path


def root_of(where: str) -> str:
    """The folder that paths in a listing of ``where`` are relative to: ``where`` itself, or the folder of that file."""
    if not has_suffix(where, (*SHARD_SUFFIXES, *CSV_SUFFIXES)):
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
