"""Samples as a shop has them, for tests of models: every kind of column, several photos an item, two spaces."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from concept_cards import card_of, version_of

from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.client import MockTransport

ITEMS, USERS, ROWS = 60, 30, 1500
SCHEMA = """
[log]
path = "impressions.csv"
user = "user"
item = "item"
time = "time"
ids = ["slot"]
numbers = ["price_shown"]
labels = { click = "click", buy = "buy" }
[items]
path = "items.csv"
item = "item"
image = ["front", "back", "detail"]
ids = ["shop"]
numbers = { price = "log1p", stars = "buckets:4" }
lists = { tags = "|" }
text = ["title"]
[users]
path = "users.csv"
user = "user"
ids = ["city"]
numbers = ["age"]
lists = { interests = "|" }
[behaviours]
from_log = { clicked = "click == 1", bought = "buy == 1" }
max_length = 5
[vectors.photo]
key = "image"
[vectors.title]
key = "item"
[split]
method = "time"
test = 0.2
validation = 0.1
"""
Raw = dict[int, dict[str, Any]]


def make_shop(folder: Path, more: str = "") -> Path:
    """Write the tables and build the samples, with ``more`` in the schema; some of everything is missing."""
    rng = np.random.default_rng(5)
    taste, charm = rng.normal(size=USERS), rng.normal(size=ITEMS)
    log = []
    for n in range(ROWS):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        click = int(rng.random() < 1 / (1 + np.exp(-2 * charm[item] - taste[user])))
        shown = "" if n % 11 == 0 else round(5 + item / 10 + rng.random(), 2)
        buy = int(click and rng.random() < 0.4)
        log.append((user, item, 1000 + 10 * n, ["top", "side", ""][n % 3], shown, click, buy))
    _write(folder / "impressions.csv", ["user", "item", "time", "slot", "price_shown", "click", "buy"], log)
    header = ["item", "front", "back", "detail", "shop", "price", "stars", "tags", "title"]
    _write(folder / "items.csv", header, [_item(i) for i in range(ITEMS)])
    users = [(u, f"c{u % 3}", "" if u % 5 == 0 else 20 + u, ["", "red|blue", "blue"][u % 3]) for u in range(USERS)]
    _write(folder / "users.csv", ["user", "city", "age", "interests"], users)
    (folder / "samples.toml").write_text(SCHEMA + more)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    return folder / "samples"


def _item(i: int) -> tuple[Any, ...]:
    photos = [i if i % 7 else "", "" if i % 3 else 40 + i, 99 - i if i % 4 == 0 else ""]
    tags = "|".join(f"t{n}" for n in range(i % 4))
    return i, *photos, f"s{i % 4}", "" if i % 6 == 0 else 3 + i, i % 5 or "", tags, "" if i % 5 == 0 else f"Red {i % 3}"


def _write(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def transports() -> dict[str, MockTransport]:
    """Vectors of both spaces; some photos and titles have none."""
    rng = np.random.default_rng(6)
    photos = {i: rng.normal(size=8).astype(np.float16) for i in range(100) if i % 13}
    titles = {i: rng.normal(size=6).astype(np.float16) for i in range(ITEMS) if i % 17}
    return {
        "photo": MockTransport(photos, version=version_of(8, "mock@111111111111"), card=card_of(8)),
        "title": MockTransport(titles, version=version_of(6, "mock@222222222222"), card=card_of(6)),
    }


def item_columns(items: list[dict[str, str]]) -> dict[str, list[Any]]:
    """What a request gives of items, from rows of ``items.csv``."""

    def photos(row: dict[str, str]) -> list[int]:
        return [int(row[name]) for name in ("front", "back", "detail") if row[name]]

    def number(text: str) -> float | None:
        return float(text) if text else None

    return {
        "item_id": [int(row["item"]) for row in items],
        "image_id": [photos(row) for row in items],
        "shop": [row["shop"] for row in items],
        "price": [number(row["price"]) for row in items],
        "stars": [number(row["stars"]) for row in items],
        "tags": [row["tags"] or None for row in items],
    }
