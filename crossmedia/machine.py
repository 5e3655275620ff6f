"""What the machine has for a process."""

from __future__ import annotations

import os
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that a new process can have: of the machine, or of its control group if that is less.

    Example:
        >>> available_bytes() > 0
        True
    """
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(told["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):  # a system without /proc: all that there is
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        most = (_GROUP / "memory.max").read_text().strip()
        taken = int((_GROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        taken -= int(counts["inactive_file"])  # pages of files, which the kernel gives back when memory is asked for
    except (OSError, ValueError, LookupError):
        return available
    return available if most == "max" else min(available, int(most) - taken)
