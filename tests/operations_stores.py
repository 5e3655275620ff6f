"""Small stores with known rows, for the tests of operations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from crossmedia.imgserver.storage.records import NO_ROW, SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.status import Status

DIM = 64
Content = dict[str, dict[int, tuple[int, bytes]]]


def fill(store: Store, name: str, ids: range, value: float, dim: int = DIM) -> None:
    """Store rows of ``value + id / 8``, and replace what is there."""
    space = store.index.ensure_space(name, "vector", dim, "float16")
    values = np.repeat(np.array(ids)[:, None] / 8 + value, dim, axis=1)
    sources = np.array([(1, 2, int(value) + 1)] * len(ids), dtype=SOURCE)
    store.put(Rows(space, np.array(ids), np.full(len(ids), Status.OK, dtype=np.uint8), sources, values))


def fail(store: Store, name: str, ids: range) -> None:
    """Store that images failed."""
    space = store.index.space(name)
    assert space is not None
    sources = np.array([(1, 2, 3)] * len(ids), dtype=SOURCE)
    status, none = np.full(len(ids), Status.CORRUPT, dtype=np.uint8), np.zeros((len(ids), space.dim))
    store.put(Rows(space, np.array(ids), status, sources, none))


def content(folder: Path) -> Content:
    """Of every space: image id -> status and the row's bytes, checksums compared."""
    store = Store(folder, create=False)
    try:
        found: Content = {}
        for space in store.index.spaces("feature") + store.index.spaces("vector"):
            ids, entries, _ = store.index.load(space.name)
            there = entries["row"] != NO_ROW
            rows = iter(store.read(space, entries[there]))
            found[space.name] = {
                int(i): (int(entry["status"]), next(rows).tobytes() if entry["row"] != NO_ROW else b"")
                for i, entry in zip(ids, entries, strict=True)
            }
        return found
    finally:
        store.close()


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run ``code`` in a process of its own that finds these helpers."""
    head = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pathlib import Path\n"
    command = [sys.executable, "-c", head + code, str(Path(__file__).parent), *(str(a) for a in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
