"""Checks of the machine: packages, disk, limits, memory."""

from __future__ import annotations

import resource
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from crossmedia.imgserver.operations.findings import Finding, NotExamined, Subject, ok, problem, warning
from crossmedia.imgserver.storage.environment import MAP_BYTES
from crossmedia.imgserver.storage.rows import rows_in_segment
from crossmedia.machine import available_bytes

PACKAGES = ("crossmedia", "grpcio", "protobuf", "numpy", "lmdb", "numba", "torch", "openvino", "faiss-cpu", "pillow")
LEAST_FREE_BYTES = 1 << 30
FREE_SHARE = 0.1  # of what the store takes
LEAST_FILES = 1024  # a connection takes one
BYTES_AN_ID = 36  # of the table, at most: see ``IdTable``
PROCESS_BYTES = 600 << 20  # of a server without images: libraries, engine


def packages(subject: Subject) -> Finding:
    """Which releases run here."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return problem(f"the package {name} is missing", 'Install the server: pip install "crossmedia[server]"')
    return ok(", ".join(found))


def disk(subject: Subject) -> Finding:
    """Whether the disk has room beside what the store takes."""
    free, used = subject.store.free_bytes(), subject.store.used_bytes()
    total = shutil.disk_usage(subject.folder).total
    found = f"the store takes {used / 1e9:,.2f} GB, {free / 1e9:,.2f} of {total / 1e9:,.2f} GB are free"
    advice = "Make room: delete versions, run 'imgserver compact', or move the store by 'imgserver backup'."
    if free < min(LEAST_FREE_BYTES, 0.01 * total):
        return problem(found, advice)
    if free < max(LEAST_FREE_BYTES, FREE_SHARE * used):
        return warning(found, advice)
    return ok(found)


def limits(subject: Subject) -> Finding:
    """Whether the system lets a server open enough files and map enough memory."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < 2 * MAP_BYTES:
        return problem(
            f"a process may have {space / 1e9:,.0f} GB of address space, and the index maps {MAP_BYTES / 1e9:,.0f} GB",
            "Raise it: ulimit -v unlimited, or LimitAS=infinity in the systemd unit.",
        )
    maps, needed = _max_maps(), _segments(subject)
    if maps and needed > 0.8 * maps:
        return problem(
            f"the store has {needed:,} row files, each mapped, and the system allows {maps:,} maps",
            "Raise it: sysctl vm.max_map_count=1048576.",
        )
    found = f"{files:,} open files, {needed:,} row files to map{f' of {maps:,} allowed' if maps else ''}"
    if 0 < files < LEAST_FILES:
        return warning(found, "Each connection takes a file. Raise it: ulimit -n 65536, or LimitNOFILE in the unit.")
    return ok(found)


def memory(subject: Subject) -> Finding:
    """Whether the table of the active version fits into memory, beside the server itself."""
    store = subject.store
    active = store.index.active
    space = store.index.space(active) if active else None
    if space is None:
        raise NotExamined
    needed = PROCESS_BYTES + BYTES_AN_ID * len(store.index.survey(space.name).ids)
    available = available_bytes()
    found = f"a server of this store needs {needed / 1e9:,.2f} GB, {available / 1e9:,.2f} GB are available"
    if needed > available:
        return warning(found, "A server that runs already has its share. Else give the machine more memory.")
    return ok(f"{found}; vectors beyond it are read from disk")


def _max_maps() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 0


def _segments(subject: Subject) -> int:
    return sum(-(-space.next_row // rows_in_segment(space.row_bytes)) for space in subject.store.index.spaces())
