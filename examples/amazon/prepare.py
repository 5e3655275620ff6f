"""Sequences of purchases to the two tables that ``samples.toml`` beside this file reads; there are no images.

    python examples/amazon/prepare.py --sequences Beauty.txt --attributes Beauty_item2attributes.json --out beauty

A line of the sequences is ``user item item …`` in the order of time; the attributes are a JSON object, item -> list of
category and brand numbers. There are no clocks in this data, so the place in the sequence is the time.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def prepare(sequences: Path, attributes: Path, out: Path) -> tuple[int, int, int]:
    """Write ``log.parquet``, ``items.parquet`` and ``samples.toml`` to ``out``; return users, items and purchases."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [line.split() for line in sequences.read_text().splitlines() if line.strip()]
    lengths = np.array([len(line) - 1 for line in lines])
    log = pa.table(
        {
            "user": pa.array([line[0] for line in lines]).take(pa.array(np.repeat(np.arange(len(lines)), lengths))),
            "item": [item for line in lines for item in line[1:]],
            "position": np.concatenate([np.arange(length) for length in lengths]),
        }
    )
    items = {
        item: " ".join(f"a{number}" for number in numbers)
        for item, numbers in json.loads(attributes.read_text()).items()
    }
    pq.write_table(log, out / "log.parquet")
    pq.write_table(pa.table({"item": list(items), "attributes": list(items.values())}), out / "items.parquet")
    shutil.copy(Path(__file__).parent / "samples.toml", out)
    return len(lines), len(set(log["item"].to_pylist())), len(log)


def main() -> None:
    """Prepare the tables."""
    parser = argparse.ArgumentParser(description="Make the tables of the Amazon example.")
    for name in ("sequences", "attributes", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    users, items, purchases = prepare(arguments.sequences, arguments.attributes, arguments.out)
    print(f"{users:,} users, {items:,} items, {purchases:,} purchases")


if __name__ == "__main__":
    main()
