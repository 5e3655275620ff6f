"""How fast are random rows read from our store, and from Lance, the storage that one would take instead?

    pip install pylance && python -m benchmarks.lance_take

1,000,000 vectors of 64 numbers in fp16 on a local disk, read in one process without a server: 10,000 random rows a
take. Ours are found by image id; Lance's by their row numbers, which spares it the look-up.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.fetch import DIM, VERSION, make_store, make_vectors, requests
from benchmarks.parts import Part, Work, as_dict, finish, run_rounds, show


def ours(folder: Path, todo: list[npt.NDArray[np.int64]]) -> Work:
    """Ids to rows by the store's table."""
    from crossmedia.imgserver.storage.store import Store
    from crossmedia.imgserver.storage.table import Table

    store = Store(folder, create=False)
    space = store.index.space(VERSION)
    assert space is not None
    table = Table(store, space)
    table.load()

    def work() -> int:
        return sum(len(table.get(ids)[0]) for ids in todo)

    return work


def lance(folder: Path, todo: list[npt.NDArray[np.int64]]) -> Work:
    """Row numbers to rows by ``Dataset.take``."""
    from lance import dataset

    opened = dataset(str(folder))

    def work() -> int:
        return sum(len(opened.take(rows, columns=["vector"])) for rows in todo)

    return work


def main() -> None:
    """Write both, and read both in turn."""
    parser = argparse.ArgumentParser(description="Random rows of our store beside Lance.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="100,000 rows, 5 rounds")
    arguments = parser.parse_args()
    n, rounds = (100_000, 5) if arguments.quick else (arguments.rows, arguments.rounds)
    try:
        from lance import write_dataset
    except ImportError:
        raise SystemExit("Lance is not installed: pip install pylance") from None

    vectors, todo = make_vectors(n), requests(n, 10_000, 5, "uniform")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_store(place / "store", vectors)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        write_dataset(pa.table({"id": np.arange(n), "vector": column}), str(place / "lance"))
        parts = {"ours": Part(ours, place / "store", todo), "lance": Part(lance, place / "lance", todo)}
        taken = run_rounds(parts, rounds)
        for part in parts.values():
            part.close()
    show("random rows, 10,000 a take", taken, "M rows/s", 1e6)
    found = {name: as_dict(part) for name, part in taken.items()}
    finish("lance_take", {"lance": taken["ours"].rate / taken["lance"].rate}, rows=n, **found)


if __name__ == "__main__":
    main()
