"""Small tables with every kind of column, and samples of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_tables import ROWS, Table, log, put

from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.features.writing.report import BuildReport

LOG = """
[log]
path = "log.parquet"
user = "user"
item = "item"
time = "time"
ids = ["slot"]
numbers = { shown = "log1p" }
lists = { words = " " }
[log.labels]
click = "click"
"""
ITEMS = """
[items]
path = "items.parquet"
item = "item"
image = ["front", "back"]
ids = ["shop"]
numbers = { price = "log1p", stars = "standard", age = "buckets:4" }
lists = { tags = "", colours = "|" }
text = ["title"]
"""
USERS = '[users]\npath = "users.parquet"\nuser = "user"\nids = ["city"]\nnumbers = ["years"]\nlists = ["likes"]\n'
SPACES = '[vectors.photo]\nkey = "image"\n[vectors.clip]\nkey = "image"\n[vectors.title]\nkey = "item"\n'
SEEN = '[behaviours]\nfrom_log = { seen = "click == 1" }\nmax_length = 5\n'


def shop_log(**changed: Any) -> Table:
    return log(
        slot=[n % 4 for n in range(ROWS)],
        shown=[None if n % 9 == 0 else 1.0 + n for n in range(ROWS)],
        words=["" if n % 5 == 0 else f"red  w{n % 3}" for n in range(ROWS)],
        **changed,
    )


def shop_items(**changed: Any) -> Table:
    return {
        "item": list(range(10)),
        "front": [[100 + n, None, 200 + n] if n % 3 else None for n in range(10)],
        "back": [None if n == 4 else 300 + n for n in range(10)],
        "shop": [f"s{n % 3}" for n in range(10)],
        "price": [None if n == 2 else n * 10.0 for n in range(10)],
        "stars": [n % 5 for n in range(10)],
        "age": [float("nan") if n == 3 else n for n in range(10)],
        "tags": [["a", None, f"t{n}"] if n % 2 else [] for n in range(10)],
        "colours": [" red | blue |" if n % 2 else None for n in range(10)],
        "title": ["" if n == 5 else f"夏季红色 {n}" for n in range(10)],
    } | changed


def shop_users(**changed: Any) -> Table:
    users = {"user": list(range(5)), "city": ["a", "b", "a", "b", None], "years": [20, 30, 40, None, 60]}
    return users | {"likes": [["x", "y"], [], None, ["x"], ["z"]]} | changed


def make_folder(folder: Path, more: str = ITEMS + USERS + SPACES + SEEN, **options: Any) -> BuildReport:
    for name, table in {"log": shop_log(), "items": shop_items(), "users": shop_users()}.items():
        if not (folder / f"{name}.parquet").exists():
            put(folder / f"{name}.parquet", table)
    (folder / "s.toml").write_text(LOG + more)
    return build_samples(load_schema(folder / "s.toml"), folder / "out", overwrite=True, **options)


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    found = Tokenizer(WordLevel({"red": 0, "dress": 1, "[UNK]": 2}, "[UNK]"))
    found.pre_tokenizer = Split("_", "removed")
    found.enable_truncation(2)
    found.save(str(path))
