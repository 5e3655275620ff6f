"""Write files completely or not at all, so that they survive a loss of power; measure the disk that files take."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import struct
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path

from crossmedia.errors import BadInput, StoreError
from crossmedia.interrupts import undone_if_interrupted

UNFINISHED = ".unfinished"  # the end of the name of a file that is being written

PIECE_BYTES = 8 << 20
MOST_SAID = 300  # characters of a command line
FLOCK = "hhqqi4x"  # struct flock of Linux on 64 bits: type, whence, start, length, pid
NOT_OURS = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)  # of a place to write at


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file that may be of a stranger: a regular one, since a pipe or a device has no end, or no beginning.

    Raises:
        OSError: it cannot be read, or is another thing than a file.
    """
    # Without O_NONBLOCK the opening of a pipe would wait for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "It is no file, but a pipe or a device", str(path))
        yield file


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write, which replaces ``path`` in one step, synced; after an error nothing of it is left.

    Its folder is made if it is not there. What killed processes left of such files in it is removed.

    Raises:
        StoreError: it cannot be written; what was there before stands.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent)
        with _locked_part(path) as part:
            yield part
            sync(part)
            os.replace(part, path)
        sync_names(path.parent)
    except OSError as error:
        hint = (
            "Choose another place, or let this user write there."
            if isinstance(error, NOT_OURS)
            else "Is the disk full?"
        )
        raise StoreError(f"{path} cannot be written: {error}. {hint}") from error


@contextmanager
def _locked_part(path: Path) -> Iterator[Path]:
    """A locked file beside ``path``, which others can therefore tell from the files of a killed process."""
    while True:
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{UNFINISHED}")
        with open(part, "xb") as mine:
            try:
                with suppress(OSError):  # on a disk without locks nobody removes what others left, see below
                    fcntl.flock(mine, fcntl.LOCK_EX)
                if os.fstat(mine.fileno()).st_nlink:  # else it was removed in between
                    with undone_if_interrupted(partial(part.unlink, missing_ok=True)):
                        yield part
                    return
            finally:
                part.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed in ``replacing`` left in a folder: files that nobody holds locked."""
    for part in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError), open(part, "rb") as found:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


@contextmanager
def held(path: Path, refusal: Callable[[str], str]) -> Iterator[None]:
    """Lock the first byte of a file against all other processes; the file is made if it does not exist.

    Locks of one process do not differ: it must not have the file open otherwise.

    Args:
        path: the file; who unlinks it does so while holding it.
        refusal: a sentence, given who holds it.

    Raises:
        BadInput: another process holds it.
    """
    while True:
        with open(path, "a+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_SET)
            except (BlockingIOError, PermissionError):
                raise BadInput(refusal(_holder(file.fileno()))) from None
            if os.fstat(file.fileno()).st_nlink:  # else it was unlinked in between, and others would make another
                yield
                return


def _holder(descriptor: int) -> str:
    """The process that has the lock, as far as the kernel tells."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    pid = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[4]
    try:
        program, *words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return "another process"
    command = shlex.join([os.path.basename(program), *words])
    return f"process {pid} ({command if len(command) <= MOST_SAID else command[:MOST_SAID] + '…'})"


def unwritable(path: Path, error: OSError) -> str:
    """Why nothing can be written at a place, and what to do, in a sentence or two.

    Args:
        path: that was to be made.
        error: of the system.
    """
    there = next((above for above in (path, *path.parents) if os.path.lexists(above)), Path("/"))
    if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError) and not there.is_dir():
        return f"{there} is a file. Choose another place, or move that file away."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no space left on the disk of {there}. Make room, or choose another disk."
    if error.errno == errno.EROFS:
        return f"the disk of {there} is read-only. Choose another place."
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{error.strerror}. Choose another name."
    if isinstance(error, PermissionError) and not os.access(there, os.W_OK):
        return f"this user may not write in {there}. Choose another place, or let this user write there."
    return f"the file system of {there} takes no new files ({error.strerror}). Choose another place."


def sync_names(folder: Path) -> None:
    """Wait until the names of the files in a folder are on disk, if its file system can say so."""
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
    """XXH3 of a file, 32 hex digits: it shows whether a file is what was written, not who wrote it."""
    import xxhash  # of the server alone

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
