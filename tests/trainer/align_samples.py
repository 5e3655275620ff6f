"""Samples for tests of pairs and recall: kinds of behaviour, categories, several images an item, new items."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples

SCHEMA = """
[log]
path = "impressions.csv"
user = "user"
item = "item"
time = "time"
labels = { click = "click", buy = "buy" }
[items]
path = "items.csv"
item = "item"
image = ["front", "back"]
ids = ["shelf"]
[behaviours]
%s
max_length = 6
[vectors.photo]
key = "image"
[vectors.title]
key = "item"
[split]
%s
"""
FROM_LOG = """from_log = { click = "click == 1", buy = "buy == 1", skipped = "click == 0" }"""
OF_THEIR_OWN = 'path = "behaviours.csv"\nuser = "user"\nitem = "item"\ntime = "time"\naction = "action"'
BY_TIME = 'method = "time"\ntest = 0.2\nvalidation = 0.1'
BY_USER = BY_TIME.replace("time", "user_tail")
ONE_OUT = 'method = "leave_one_out"'
HOUR_S, DAY_S = 3600, 86_400
Row = tuple[Any, ...]


def impressions(rng: np.random.Generator, rows: int, users: int, items: int, days: int) -> list[Row]:
    """User, item, time, click, buy: users come back within minutes, hours and days; the last items come late."""
    times = np.sort(rng.integers(0, days * 24, rows) * HOUR_S + rng.integers(0, 4, rows) * 600)
    found = []
    for n, time in enumerate(times.tolist()):
        on_sale = max(3, int(items * (0.6 + 0.4 * n / rows)))
        click = int(rng.random() < 0.6)
        buy = int(click and rng.random() < 0.3)
        found.append((f"u{rng.integers(users)}", int(rng.integers(on_sale)), 1_600_000_000 + time, click, buy))
    return found


def build(folder: Path, log: list[Row], items: int, behaviours: str = FROM_LOG, split: str = BY_TIME) -> Samples:
    """Samples of a log; each third item has two images, each fifth none, and two items share one."""
    _write(folder / "impressions.csv", ["user", "item", "time", "click", "buy"], log)
    done = [(user, item, time + 30, "buy" if buy else "click") for user, item, time, click, buy in log if click]
    done += [(user, item, time + 20, "cart") for user, item, time, _, buy in log if buy]
    _write(folder / "behaviours.csv", ["user", "item", "time", "action"], sorted(done, key=lambda row: row[2]))
    photos = [
        ("" if i % 5 == 4 else 100 + i // 2 if i < 4 else 100 + i, "" if i % 3 else 200 + i) for i in range(items)
    ]
    of_items = [(i, *photos[i], "" if i % 7 == 6 else f"s{i % 3}") for i in range(items)]
    _write(folder / "items.csv", ["item", "front", "back", "shelf"], of_items)
    (folder / "samples.toml").write_text(SCHEMA % (behaviours, split))
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    return Samples(folder / "samples")


def _write(path: Path, header: list[str], rows: list[Row]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
