"""Does the server's memory stay flat over 100,000 requests?

    python -m benchmarks.memory

Four callers ask for 100 ids at a time, a tenth of which are not there. After a warm-up of a tenth of the requests,
memory is looked at ten times.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.fetch import make_store, make_vectors
from benchmarks.parts import daemon, finish
from crossmedia.imgserver.client import ImageClient

IDS, LOOKS, CALLERS = 100, 10, 4


def main() -> None:
    """Ask and look."""
    parser = argparse.ArgumentParser(description="Memory of the server over many requests.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="10,000 requests")
    arguments = parser.parse_args()
    total = 10_000 if arguments.quick else arguments.requests
    vectors = make_vectors(100_000)
    table = Table("requests", "MiB resident")
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder) / "store", vectors)
        with daemon(Path(folder) / "store") as (address, pid), ImageClient(address) as client:
            process = psutil.Process(pid)

            def ask(seed: int) -> None:
                client.get(np.random.default_rng(seed).integers(0, int(1.1 * len(vectors)), IDS))

            with ThreadPoolExecutor(CALLERS) as pool:
                done = 0
                for look in range(LOOKS + 1):
                    upto = total // 10 + look * (total - total // 10) // LOOKS
                    list(pool.map(ask, range(done, upto)))
                    done = upto
                    sizes.append(process.memory_info().rss)
                    table.add_row(f"{done:,}", f"{sizes[-1] / 2**20:,.1f}")
    Console(width=120).print(table)
    finish("memory", {"memory_growth": sizes[-1] / sizes[0]}, requests=total, resident_bytes=sizes)


if __name__ == "__main__":
    main()
