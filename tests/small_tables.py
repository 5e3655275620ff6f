"""Small logs and tables of items, as Parquet or CSV, and samples of them."""

from __future__ import annotations

import csv
import datetime
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.splits import SPLITS
from crossmedia.features.writing.build import build_samples
from crossmedia.features.writing.report import BuildReport

Table = dict[str, Any]
TEXT = '[log]\npath = "LOG"\nuser = "user"\nitem = "item"\ntime = "time"\n[log.labels]\nclick = "click"\n'
ITEMS = '[items]\npath = "items.parquet"\nitem = "item"\nimage = "image"\nids = ["shop"]\ntext = ["title"]\n'
USERS = '[users]\npath = "users.parquet"\nuser = "user"\nids = ["city"]\n'
SPLIT = '[split]\nmethod = "user_tail"\n'
SEEN = '[behaviours]\nfrom_log = { seen = "click == 1" }\n'
OWN = '[behaviours]\npath = "done.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\naction = "action"\n'
ROWS, START = 60, 1_700_000_000
ISO = datetime.datetime.fromtimestamp(START, datetime.UTC).replace(tzinfo=None)


def log(**changed: Any) -> Table:
    table: Table = {
        "user": [n % 6 for n in range(ROWS)],
        "item": [n * 7 % 10 for n in range(ROWS)],
        "time": [START + 10 * n for n in range(ROWS)],
        "click": [int(n % 3 == 0) for n in range(ROWS)],
    }
    return table | changed


def items(**changed: Any) -> Table:
    return {
        "item": list(range(10)),
        "image": [100 + n for n in range(10)],
        "shop": [f"s{n % 3}" for n in range(10)],
        "title": [f"nice thing {n}" for n in range(10)],
    } | changed


def put(path: Path, table: Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    else:
        path.write_bytes(as_csv(table))


def as_csv(table: Table) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([list(table), *zip(*table.values(), strict=True)])
    return text.getvalue().encode()


def make(folder: Path, name: str = "log.parquet", more: str = ITEMS + SEEN) -> tuple[Samples, BuildReport]:
    if not (folder / "items.parquet").exists():
        put(folder / "items.parquet", items())
    (folder / "s.toml").write_text(TEXT.replace("LOG", name) + more + SPLIT)
    report = build_samples(load_schema(folder / "s.toml"), folder / "out", overwrite=True)
    return Samples(folder / "out"), report


def rows_in(samples: Samples) -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in samples.frame(split).to_pylist()]
