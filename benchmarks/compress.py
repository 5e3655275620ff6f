"""What does a vector cost as codes of a few bytes: bytes, likeness to what it was, neighbours, and speed of the table?

    python -m benchmarks.compress --store store

Compresses a copy of the store's active version to each of ``--bytes``. Cosine and recall@10 are of the store's own
vectors: the share of the 10 nearest that are the 10 nearest among the decoded vectors too, of 500 of its images. Bytes
and speed are of ``--vectors`` rows in a store of its own, the store's vectors over and over, 10,000 random ids a call:
of the table alone, and through a daemon, four calls at a time. In each round every size takes its turn. ``--quick``
takes 100,000 vectors. The AUC on each: ``benchmarks.worth``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table as Printed

from benchmarks.fetch import IN_FLIGHT
from benchmarks.parts import Part, Taken, Work, as_dict, copy_store, daemon, finish, run_rounds
from crossmedia.imgserver.offline.compress import compress
from crossmedia.imgserver.similarity.index import faiss_module, unit
from crossmedia.imgserver.storage.records import SOURCE, Ids, Rows, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.imgserver.storage.versions import held, vector_space
from crossmedia.status import Status, is_ok
from crossmedia.version import IMPORTED, Version

QUERIES, K, IDS, CALLS, BLOCK = 500, 10, 10_000, 100, 100_000
Vectors = npt.NDArray[Any]


@dataclass
class Measured:
    """One size: bytes of a row in memory and on disk, seconds of making it, and its rates, M vectors/s."""

    row_bytes: int
    cosine: float = 1.0
    recall: float = 1.0
    made_s: float = 0.0
    disk_bytes: float = 0.0
    rates: list[float] = field(default_factory=list)


def vectors_of(store: Store, space: Space) -> tuple[Ids, Vectors]:
    """All vectors of a version, by ascending id."""
    ids, entries, _ = store.index.load(space.name)
    ok = is_ok(entries["status"])
    return ids[ok], store.read(space, entries[ok])


def nearest(vectors: Vectors, queries: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of the ``K`` nearest of some of the vectors by cosine, themselves left out, shape (q, K)."""
    index = faiss_module().IndexFlatIP(vectors.shape[1])
    index.add(unit(vectors))
    found = index.search(unit(vectors[queries]), K + 1)[1]
    others = np.argsort(found == queries[:, None], axis=1, kind="stable")[:, :K]
    return np.take_along_axis(found, others, axis=1)


def fill(store: Store, space: Space, vectors: Vectors, n: int) -> None:
    """``n`` rows: the vectors over and over, under ids that are no run of numbers."""
    for start in range(0, n, BLOCK):
        places = np.arange(start, min(start + BLOCK, n))
        status = np.full(len(places), Status.OK, dtype=np.uint8)
        values = vectors[places % len(vectors)]
        store.put(Rows(space, 7 * places + 3, status, np.zeros(len(places), dtype=SOURCE), values))


def rate(table: Table, calls: list[Ids]) -> float:
    """Million vectors a second."""
    started = time.perf_counter()
    for ids in calls:
        table.get(ids)
    return 1e-6 * sum(map(len, calls)) / (time.perf_counter() - started)


def fetching(address: str, version: str, calls: list[Ids]) -> Work:
    """Our client, asking for one version."""
    from crossmedia.allocator import keep_freed_memory
    from crossmedia.imgserver.client import ImageClient

    keep_freed_memory()  # as the trainer does
    client, pool = ImageClient(address, version=version), ThreadPoolExecutor(IN_FLIGHT)

    def work() -> int:
        return sum(len(vectors) for vectors in pool.map(client.get, calls))

    return work


def main() -> None:
    """Compress, measure, print."""
    parser = argparse.ArgumentParser(description="Vectors as codes of a few bytes.")
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--bytes", default="32,16,8", help="of a vector, each a size of its own")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 100,000 vectors")
    arguments = parser.parse_args()
    n, rounds = (100_000, 3) if arguments.quick else (arguments.vectors, arguments.rounds)
    sizes = [int(size) for size in arguments.bytes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        copy_store(arguments.store, Path(folder) / "copy")
        with closing(Store(f"{folder}/copy", create=False)) as store, closing(Store(f"{folder}/large")) as large:
            plain = held(store, str(Version.parse(store.index.active).plain))
            ids, vectors = vectors_of(store, plain)
            queries = np.random.default_rng(0).choice(len(ids), min(QUERIES, len(ids)), replace=False)
            right = nearest(vectors, queries)
            version = Version("vectors@0", IMPORTED, dim=plain.dim)
            spaces = [vector_space(large, version)]
            large.index.activate(str(version))
            found = {"none": Measured(plain.row_bytes)}
            for size in sizes:
                report = compress(store, size, plain.name)
                space = held(store, report.version)
                near = nearest(vectors_of(store, space)[1], queries)
                recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(near.tolist(), right.tolist(), strict=True)])
                found[f"{size} bytes"] = Measured(size, report.cosine, float(recall), report.seconds)
                codebook = store.codebook(space)
                assert codebook is not None
                large.save_codebook(codebook)
                spaces.append(vector_space(large, replace(version, codebook=codebook.name)))
            tables = []
            for space in spaces:
                print(f"filling a table of {n:,} rows of {space.row_bytes} bytes", flush=True)
                fill(large, space, vectors, n)
                tables.append(Table(large, space))
                tables[-1].load()
            rng = np.random.default_rng(1)
            for number in range(rounds + 1):
                calls = [7 * rng.integers(0, n, IDS) + 3 for _ in range(CALLS)]
                for measured, table in list(zip(found.values(), tables, strict=True))[:: 1 if number % 2 else -1]:
                    taken = rate(table, calls)
                    measured.rates += [taken] if number else []  # the first round warms up
            for measured, space in zip(found.values(), spaces, strict=True):
                rows = (Path(folder) / "large" / "rows" / f"{space.number:04d}").glob("*.rows")
                measured.disk_bytes = sum(file.stat().st_blocks * 512 for file in rows) / n
            hash_bytes = tables[0]._ids._slots.nbytes / n
            index_bytes = (Path(folder) / "large" / "index" / "data.mdb").stat().st_blocks * 512 / (n * len(spaces))
        with daemon(Path(folder) / "large") as (address, pid):
            parts = {
                name: Part(fetching, address, space.name, calls, servers=[pid])
                for name, space in zip(found, spaces, strict=True)
            }
            served = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
    show(f"{len(ids):,} vectors of {plain.dim} numbers; a table of {n:,}", found, served)
    print(f"besides, an id: {hash_bytes:.1f} bytes of the table's hash, {index_bytes:.0f} bytes of the index on disk")
    medians = {name: statistics.median(measured.rates) for name, measured in found.items()}
    finish(
        "compress",
        {f"table_{size}": medians[f"{size} bytes"] / medians["none"] for size in sizes}
        | {f"server_{size}": served[f"{size} bytes"].rate / served["none"].rate for size in sizes},
        images=len(ids),
        dim=plain.dim,
        vectors=n,
        hash_bytes=round(hash_bytes, 1),
        index_bytes=round(index_bytes, 1),
        parts={
            name: {
                "row_bytes": measured.row_bytes,
                "disk_bytes": round(measured.disk_bytes, 2),
                "cosine": round(measured.cosine, 4),
                "recall_at_10": round(measured.recall, 4),
                "made_s": round(measured.made_s, 2),
                "rate": [round(value, 3) for value in (min(measured.rates), medians[name], max(measured.rates))],
                "served": as_dict(served[name]),
            }
            for name, measured in found.items()
        },
    )


def show(title: str, found: dict[str, Measured], served: dict[str, Taken]) -> None:
    """Print the table."""
    printed = Printed(title=title, title_justify="left")
    headings = ("", "bytes a row", "on disk", "cosine", "recall@10", "made in s", "table, M/s", "served, M/s", "CPU µs")
    for heading in headings:
        printed.add_column(heading, justify="right" if heading else "left")
    for name, measured in found.items():
        taken = served[name]
        printed.add_row(
            name,
            str(measured.row_bytes),
            f"{measured.disk_bytes:.1f}",
            f"{measured.cosine:.4f}",
            f"{measured.recall:.3f}",
            f"{measured.made_s:.1f}",
            f"{statistics.median(measured.rates):.1f} ({min(measured.rates):.1f} - {max(measured.rates):.1f})",
            f"{1e-6 * taken.rate:.2f} ({1e-6 * min(taken.rates):.2f} - {1e-6 * max(taken.rates):.2f})",
            f"{taken.cpu_us(taken.server_cpu):.2f}",
        )
    Console(width=140).print(printed)


if __name__ == "__main__":
    main()
