"""Files that are whole or not there, and stay after a loss of power; how much disk files take."""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from imgserver.errors import StoreError

PIECE_BYTES = 8 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of ``path`` in one step, synced; after an error there is none of it.

    Its folder is made if it is not there.

    Raises:
        StoreError: it cannot be written; what was there before stands.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            sync(part)
            os.replace(part, path)
            sync_names(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}. Is the disk full?") from error


def remove_parts(path: Path) -> None:
    """Remove what writers of ``path`` that were killed in ``replacing`` have left; none may be at work."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*"):
        part.unlink(missing_ok=True)


def sync_names(folder: Path) -> None:
    """Wait until the names of the files in a folder are on disk, where its file system can say so."""
    with suppress(OSError):
        sync(folder)


def sync(path: Path) -> None:
    """Wait until a file is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_of(path: Path) -> str:
    """XXH3 of a file, 32 hex: whether it is what was written, not who wrote it."""
    found = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def used_bytes(folder: Path) -> int:
    """Bytes that all files below ``folder`` take on disk; holes in sparse files take none."""
    total = 0
    for at, _, names in os.walk(folder):  # passes over a folder that goes away meanwhile
        for name in names:
            try:
                total += os.stat(os.path.join(at, name), follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
