"""Photos in a tar: where each begins, links followed, without reading them."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from crossmedia.forms import PHOTO_SUFFIXES
from crossmedia.imgserver.storage.catalogue.passed_over import NO_TEXT, NOWHERE, SPARSE, PassedOver, is_hidden, is_text


@dataclass
class Members:
    """Photos of a tar, in order: names, first bytes and sizes."""

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, name: str, place: tuple[int, int]) -> None:
        """A photo, and its first byte and size."""
        self.names.append(name)
        self.offsets.append(place[0])
        self.sizes.append(place[1])


def photos_in(source: BinaryIO, tar_name: str, passed: PassedOver) -> Members:
    """Photos of a plain tar, as WebDataset writes them: ``<key>.jpg`` beside other members, which are passed over.

    A link counts as the photo that it leads to.

    Args:
        source: the tar.
        tar_name: for ``passed``.
        passed: told what is no photo.

    Raises:
        tarfile.TarError, EOFError, OSError: it cannot be read.
    """
    found, links = Members(), {}
    for member in _members(source):
        name = posixpath.normpath(member.name)
        whole = f"{tar_name}/{name}"
        if member.isdir() or is_hidden(name):
            continue
        if not name.lower().endswith(PHOTO_SUFFIXES):
            passed.add_file(whole)
        elif not is_text(name):
            passed.add(NO_TEXT, whole)
        elif member.issym():
            links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        elif member.islnk():
            links[name] = posixpath.normpath(member.linkname)
        elif member.issparse():
            passed.add(SPARSE, whole)
        elif member.isreg():
            found.add(name, (member.offset_data, member.size))
    if links:
        _follow(source, links, found, lambda name: passed.add(NOWHERE, f"{tar_name}/{name}"))
    return found


def _members(source: BinaryIO) -> Iterator[tarfile.TarInfo]:
    source.seek(0)
    with tarfile.open(fileobj=source, mode="r:") as tar:
        while (member := tar.next()) is not None:
            yield member
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep an object a member


def _follow(source: BinaryIO, links: dict[str, str], found: Members, lost: Callable[[str], None]) -> None:
    """Add what links lead to, which is read off the tar once more: the target may have any name, and stand anywhere."""
    ends = {name: _end(name, links) for name in links}
    wanted = set(ends.values())
    places = {
        name: (member.offset_data, member.size)
        for member in _members(source)
        if (name := posixpath.normpath(member.name)) in wanted and member.isreg() and not member.issparse()
    }
    for name, end in ends.items():
        if end in places:
            found.add(name, places[end])
        else:
            lost(name)


def _end(name: str, links: dict[str, str]) -> str:
    """Where a chain of links ends; a chain that runs in a circle ends in itself."""
    seen = set()
    while name in links and name not in seen:
        seen.add(name)
        name = links[name]
    return name
