"""Keep or give back memory that this process has freed.

A reply of 10,000 vectors is a block of 1.3 MB. glibc gives such a block back to the kernel when it is freed and takes
it anew for the next reply, page fault by page fault: half of the CPU time of a fetch. So the daemon and the trainer,
which are processes of ours, keep some.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h
KEEP_BYTES = 256 << 20
ARENAS = 2


def keep_freed_memory() -> bool:
    """Have malloc keep up to 256 MiB that was freed; return whether the C library took it (glibc does)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, KEEP_BYTES), (_ARENA_MAX, ARENAS))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


def give_back_freed_memory() -> None:
    """Have malloc give back all free memory, also between used blocks; call this after a burst."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
