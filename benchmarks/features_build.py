"""How fast are samples built from a log, and in how much memory?

    python -m benchmarks.features_build --rows 10000000

Generates a log in Parquet parts (items by Zipf's law, users evenly, an item table with image ids), builds samples in a
process of its own, and prints rows a second and that process's peak memory. ``--quick`` takes 300,000 rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish

PART_ROWS = 1_000_000
SPLITS = ("user_tail", "time")
SCHEMA = """
[log]
path = "log"
user = "user"
item = "item"
time = "time"
[log.labels]
click = "click"
[items]
path = "items.parquet"
item = "item"
image = "image"
ids = ["shop"]
[behaviours]
from_log = { clicked = "click == 1" }
max_length = 50
[split]
method = "METHOD"
"""


def generate(folder: Path, rows: int, users: int, items: int, method: str) -> None:
    """Write the log in parts of a million rows, the item table, and the schema."""
    rng = np.random.default_rng(0)
    (folder / "log").mkdir()
    weights = 1 / np.arange(1, items + 1) ** 0.9
    for start in range(0, rows, PART_ROWS):
        n = min(PART_ROWS, rows - start)
        table = {
            "user": rng.integers(0, users, n),
            "item": rng.choice(items, n, p=weights / weights.sum()),
            "time": start + np.arange(n),
            "click": rng.random(n) < 0.3,
        }
        pq.write_table(pa.table(table), folder / "log" / f"{start // PART_ROWS:04d}.parquet")
    numbers = np.arange(items)
    pq.write_table(pa.table({"item": numbers, "image": numbers, "shop": numbers % 5000}), folder / "items.parquet")
    (folder / "samples.toml").write_text(SCHEMA.replace("METHOD", method))


def measure(rows: int, users: int, items: int, method: str, folder: Path) -> dict[str, float]:
    """Build once, in a process of its own."""
    folder.mkdir()
    generate(folder, rows, users, items, method)
    command = [
        sys.executable,
        "-m",
        "crossmedia.features",
        "build",
        f"{folder}/samples.toml",
        f"--out={folder}/out",
        "--json",
    ]
    started = time.monotonic()
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    log = sum(file.stat().st_size for file in (folder / "log").iterdir())
    return {
        "by_user_tail": method == "user_tail",
        "rows": rows,
        "seconds": time.monotonic() - started,
        "rows_per_s": rows / report["seconds"],
        "peak_memory_bytes": report["peak_memory_bytes"],
        "bytes_per_sample": report["bytes_per_sample"],
        "log_bytes": log,
        "partitions": report["partitions"],
        "mean_history": report["mean_history"],
    }


def main() -> None:
    """Measure at a fifth of the rows and at all of them, so that one sees how time and memory grow."""
    parser = argparse.ArgumentParser(description="Rows a second and peak memory of 'features build'.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--split", choices=SPLITS, action="append", help="only this way of splitting")
    parser.add_argument("--quick", action="store_true", help="300,000 rows")
    arguments = parser.parse_args()
    rows = 300_000 if arguments.quick else arguments.rows
    runs: list[dict[str, float]] = []
    table = Table("split", "rows", "s", "rows/s", "MiB", "parts", "B/row", "history")
    for method in arguments.split or SPLITS:
        for n in (rows // 5, rows):
            with tempfile.TemporaryDirectory() as folder:
                run = measure(n, arguments.users * n // rows, arguments.items, method, Path(folder) / "log")
            runs.append(run)
            cells = [f"{n:,}", f"{run['seconds']:.1f}", f"{run['rows_per_s']:,.0f}"]
            cells += [f"{run['peak_memory_bytes'] / 2**20:,.0f}", f"{run['partitions']}"]
            table.add_row(method, *cells, f"{run['bytes_per_sample']:.0f}", f"{run['mean_history']:.1f}")
    Console(width=120).print(table)
    ratios = {
        f"memory_growth_{method}": runs[2 * n + 1]["peak_memory_bytes"] / runs[2 * n]["peak_memory_bytes"]
        for n, method in enumerate(arguments.split or SPLITS)
    }
    finish("features_build", ratios, runs=runs)


if __name__ == "__main__":
    main()
