"""A store for oneself: no daemon, no precompute, no trainer has it open, and none can open it meanwhile.

Whoever opens an LMDB environment holds a shared lock on the first byte of ``lock.mdb`` until it closes it. Holding that
byte exclusively therefore means that nobody else is there; who comes now waits in LMDB until the byte is free.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgserver.errors import BadInput, StoreError

FLOCK = "hhqqi4x"  # struct flock of Linux on 64 bits: type, whence, start, length, pid


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """Hold the store ``store`` alone. This process must not have it open either: locks of one process do not differ.

    Raises:
        StoreError: there is no store.
        BadInput: another process has it open.
    """
    if not (store / "index" / "data.mdb").exists():
        raise StoreError(f"There is no store in {store}. 'imgserver precompute' makes one.")
    with open(store / "index" / "lock.mdb", "a+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_SET)
        except (BlockingIOError, PermissionError):
            raise BadInput(
                f"The store {store} is open in {_holder(file.fileno())}, and this needs it alone. Stop what uses it, "
                f"a server with 'imgserver stop --store {store}'; let a precompute, backup or training end."
            ) from None
        yield


def _holder(descriptor: int) -> str:
    """Who has the lock, as far as the kernel tells."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    pid = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[4]
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "another process"
    return f"process {pid} ({words[:200]})"
