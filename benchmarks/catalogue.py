"""How long does it take to list a catalogue, to see what is left to embed, and to find images in it?

    python -m benchmarks.catalogue --entries 10000000

Each part runs in a process of its own, so that its peak memory is its own. The manifest has ``--entries`` rows and a
store holds all of them, so that a resumed run has nothing to do; folder and tar have a hundredth of them as files of
100 bytes. ``--quick`` takes 200,000 entries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish
from crossmedia.features.writing.report import memory
from crossmedia.imgserver.offline.plan import PrecomputeConfig, make_plan
from crossmedia.imgserver.storage.catalogue import open_catalogue
from crossmedia.imgserver.storage.records import ENTRY, NewEntries
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import own_space
from crossmedia.imgserver.vision.backbones import get_backbone

BACKBONE = "efficientnet_lite0"
BLOCK = 1_000_000
T = TypeVar("T")


def make_manifest(path: Path, entries: int) -> None:
    """A manifest of photos that were listed once, sizes and stamps included."""
    with pq.ParquetWriter(path, _rows(0, 1).schema, compression="zstd") as writer:
        for start in range(0, entries, BLOCK):
            writer.write_table(_rows(start, min(BLOCK, entries - start)))


def _rows(start: int, n: int) -> pa.Table:
    ids = np.arange(start, start + n)
    names = [f"{i:010d}" for i in ids.tolist()]
    return pa.table(
        {
            "image_id": ids,
            "key": pa.array(names, pa.large_string()),
            "uri": pa.array([f"photos/{name[:4]}/{name}.jpg" for name in names], pa.large_string()),
            "offset": np.full(n, -1),
            "size": ids % 90_000 + 10_000,
            "stamp": (ids + 1).astype(np.uint64),
        }
    )


def make_store(folder: Path, entries: int) -> None:
    """An index that knows every entry of the manifest; rows are not needed to see what is left to do."""
    store, backbone = Store(folder), get_backbone(BACKBONE)
    space = own_space(store, backbone.space)
    for start in range(0, entries, BLOCK):
        ids = np.arange(start, min(start + BLOCK, entries))
        found = np.zeros(len(ids), dtype=ENTRY)
        found["size"], found["stamp"], found["content"], found["status"] = ids % 90_000 + 10_000, ids + 1, 1, 1
        store.index.put([NewEntries(space, ids, found, lambda first: first)])
    store.close()


def make_files(folder: Path, files: int) -> None:
    """Photos that nobody will decode, as files and in a tar."""
    (folder / "photos").mkdir()
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for number in range(files):
            (folder / "photos" / f"{number}.jpg").write_bytes(b"x" * 100)
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 100
            tar.addfile(info, BytesIO(b"x" * 100))


def listing(folder: Path, name: str) -> dict[str, float]:
    """List, and look up ids that are drawn from it."""
    before = memory("VmRSS")
    seconds, catalogue = _timed(lambda: open_catalogue(folder / name))
    held = memory("VmRSS") - before
    chosen = np.random.default_rng(0).choice(catalogue.ids(), 10_000)
    look, _ = _timed(lambda: catalogue.reading_order(chosen))
    return {
        "entries": len(catalogue),
        "seconds": seconds,
        "held_bytes": held,
        "lookup_us_per_id": look / len(chosen) * 1e6,
    }


def resuming(folder: Path, name: str) -> dict[str, float]:
    """List, and see that nothing is left to embed."""
    catalogue, store, backbone = open_catalogue(folder / name), Store(folder / "store"), get_backbone(BACKBONE)
    seconds, plan = _timed(lambda: make_plan(store, catalogue, backbone, PrecomputeConfig()))
    assert plan.skipped == len(catalogue)
    return {"entries": len(catalogue), "seconds": seconds}


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    done = work()
    return time.perf_counter() - started, done


PARTS = {
    "list manifest": (listing, "manifest.parquet"),
    "resume on manifest": (resuming, "manifest.parquet"),
    "list folder": (listing, "photos"),
    "list tar": (listing, "photos.tar"),
}


def main() -> None:
    """Make everything, then measure each part in a process of its own."""
    parser = argparse.ArgumentParser(description="Listing, resuming and looking up in large catalogues.")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="200,000 entries")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part, folder = arguments.part
        work, name = PARTS[part]
        before = memory("VmRSS")
        found = work(Path(folder), name)
        print(json.dumps(found | {"grown_bytes": memory("VmHWM") - before}))
        return
    entries = 200_000 if arguments.quick else arguments.entries
    table = Table("part", "entries", "s", "entries/s", "MiB at peak", "B/entry", "held B/entry", "lookup µs/id")
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        make_manifest(Path(folder) / "manifest.parquet", entries)
        make_store(Path(folder) / "store", entries)
        make_files(Path(folder), entries // 100)
        for part in PARTS:
            command = [sys.executable, "-m", "benchmarks.catalogue", "--part", part, folder]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            parts[part] = found
            n, s, grown = found["entries"], found["seconds"], found["grown_bytes"]
            look = f"{found['lookup_us_per_id']:.2f}" if "lookup_us_per_id" in found else "-"
            held = f"{found['held_bytes'] / n:.0f}" if "held_bytes" in found else "-"
            cells = [f"{n:,}", f"{s:.2f}", f"{n / s:,.0f}", f"{grown / 2**20:,.0f}", f"{grown / n:.0f}", held, look]
            table.add_row(part, *cells)
    Console(width=120).print(table)
    finish("catalogue", {}, parts=parts)


if __name__ == "__main__":
    main()
