"""Samples with images and histories, clicked at random, for tests of how they are trained."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples

SCHEMA = """
[log]
path = "impressions.csv"
user = "user"
item = "item"
time = "time"
labels = { click = "click" }
[items]
path = "items.csv"
item = "item"
image = "image"
[behaviours]
from_log = { clicked = "click == 1" }
max_length = 8
[split]
method = "time"
test = 0.2
validation = 0.1
"""
WITHOUT_HISTORIES = re.sub(r"\[behaviours\](?s:.*?)(?=\[)", "", SCHEMA)


def make_samples(folder: Path, items: int, rows: int, image_of: dict[int, int], schema: str = SCHEMA) -> Path:
    """Clicks at random, with histories; items without an entry in ``image_of`` have no image."""
    rng = np.random.default_rng(5)
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        for n in range(rows):
            writer.writerow([f"u{rng.integers(50)}", f"i{rng.integers(items)}", 1000 + n, int(rng.random() < 0.4)])
    with open(folder / "items.csv", "w", newline="") as file:
        rows_of_items = ((f"i{i}", image_of.get(i, "")) for i in range(items))
        csv.writer(file).writerows([("item", "image"), *rows_of_items])
    (folder / "samples.toml").write_text(schema)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    return folder / "samples"


def make_matches(folder: Path, groups: int = 6, rows: int = 4000) -> Path:
    """Every user and every item is clicked as often as any other: what counts is whether both are of one group."""
    rng = np.random.default_rng(5)
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        for n in range(rows):
            click, user, item = int(rng.random() < 0.5), int(rng.integers(60)), int(rng.integers(60))
            if click:
                item += user % groups - item % groups
                item %= 60
            writer.writerow([f"u{user}", f"i{item}", n, click])
    (folder / "samples.toml").write_text(re.sub(r"\[items\](?s:.*?)(?=\[split)", "", SCHEMA))
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    return folder / "samples"
