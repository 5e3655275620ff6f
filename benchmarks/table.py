"""How long does a server need until it knows where every vector is, and how much memory does that take?

    python -m benchmarks.table

A store with an index of so many ids; rows are not needed for it. Loaded from the index, as the first start does, and
from the snapshot that the first start leaves behind.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as Printed

from benchmarks.fetch import VERSION
from benchmarks.parts import finish
from crossmedia.imgserver.storage.records import ENTRY, NewEntries
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.imgserver.storage.versions import vector_space
from crossmedia.status import Status
from crossmedia.version import Version

BLOCK = 500_000


def make_index(store: Store, ids: int) -> None:
    """Entries as precompute writes them, of ids that are no run of numbers."""
    space = vector_space(store, Version.parse(VERSION))
    for start in range(0, ids, BLOCK):
        part = 7 * np.arange(start, min(start + BLOCK, ids)) + 3
        entries = np.zeros(len(part), dtype=ENTRY)
        entries["status"], entries["content"] = Status.OK, 1
        store.index.put([NewEntries(space, part, entries, lambda first: first)])


def timed_load(store: Store) -> tuple[float, Table]:
    """Seconds of one load, and the table."""
    space = store.index.space(VERSION)
    assert space is not None
    table = Table(store, space)
    started = time.perf_counter()
    table.load()
    return time.perf_counter() - started, table


def main() -> None:
    """Make the index, load it both ways."""
    parser = argparse.ArgumentParser(description="How fast a table starts, and what it takes.")
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="500,000 ids")
    arguments = parser.parse_args()
    n = 500_000 if arguments.quick else arguments.ids
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        make_index(store, n)
        timed_load(store)  # compiles, and leaves the snapshot
        snapshot = [timed_load(store) for _ in range(5)]
        for file in (Path(folder) / "index").glob("table-*"):
            file.unlink()
        index = [timed_load(store)[0]]
        held = snapshot[0][1]._ids._slots.nbytes
        store.close()
    rates = {"snapshot": n / statistics.median(seconds for seconds, _ in snapshot), "index": n / index[0]}
    printed = Printed("start from", "M ids/s", "bytes an id in memory")
    for name, rate in rates.items():
        printed.add_row(name, f"{rate / 1e6:.1f}", f"{held / n:.1f}")
    Console(width=120).print(printed)
    finish("table", {"snapshot_index": rates["snapshot"] / rates["index"]}, ids=n, rates=rates, bytes_per_id=held / n)


if __name__ == "__main__":
    main()
