"""What a build says of a log that looks fine and is not: times without an order, columns that tell the item."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from crossmedia.features.schema import load_schema
from crossmedia.features.spec import Columns
from crossmedia.features.writing.attributes import ID, LIST, NUMBER
from crossmedia.features.writing.build import build_samples
from crossmedia.features.writing.telling import Telling

SCHEMA = """
[log]
path = "log.csv"
user = "user"
item = "item"
time = "time"
labels = { click = "click" }
[behaviours]
from_log = { seen = "all" }
"""


def notes_of(folder: Path, times: list[int], users: int = 20) -> list[str]:
    rng = np.random.default_rng(1)
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        writer.writerows((f"u{n % users}", f"i{rng.integers(9)}", time, n % 3 == 0) for n, time in enumerate(times))
    text = (folder / "log.csv").read_text().replace("True", "1").replace("False", "0")
    (folder / "log.csv").write_text(text)
    (folder / "samples.toml").write_text(SCHEMA)
    return build_samples(load_schema(folder / "samples.toml"), folder / "samples", overwrite=True).notes_in_words()


def test_one_time_for_all_rows_is_said(tmp_path: Path) -> None:
    (said,) = [note for note in notes_of(tmp_path, [1_700_000_000] * 400) if "one time" in note]
    assert said.startswith("400 rows that all have one time: 1700000000; a history is what a user did before")
    assert "Name a column with the time of each row" in said


def test_users_whose_rows_all_have_one_time_are_said(tmp_path: Path) -> None:
    (said,) = [note for note in notes_of(tmp_path, [1_700_000_000 + n % 20 for n in range(400)]) if "one time" in note]
    assert said.startswith("20 users whose rows all have one time: of 20 with two rows or more; a history is")


def test_a_few_users_who_did_all_at_once_are_nothing_to_say(tmp_path: Path) -> None:
    times = [1_700_000_000 + (n % 20 if n % 20 < 8 else n) for n in range(400)]
    assert not [note for note in notes_of(tmp_path, times) if "one time" in note]


def telling(rows: int = 3000, **columns: object) -> list[str]:
    """What is said of columns, each made of user, item and a generator."""
    rng = np.random.default_rng(2)
    user, item = rng.integers(0, 200, rows), rng.integers(0, 50, rows)
    table = {"user": pa.array(user.astype(str)), "item": pa.array(item.astype(str))}
    kinds: dict[str, list[str]] = {ID: [], NUMBER: [], LIST: []}
    for name, make in columns.items():
        assert callable(make)
        values = pa.array(make(user, item, rng))
        kind = LIST if pa.types.is_list(values.type) else NUMBER if pa.types.is_floating(values.type) else ID
        kinds[kind].append(name)
        table[kind + name] = values if kind != ID else values.cast(pa.string())
    looked = Telling(
        Columns(tuple(kinds[ID]), dict.fromkeys(kinds[NUMBER], "standard"), dict.fromkeys(kinds[LIST], "|"))
    )
    for start in range(0, rows, 700):
        looked.add(pa.table(table).slice(start, 700))
    return looked.columns()


def test_columns_of_users_and_of_chance_tell_no_item() -> None:
    assert not telling(
        device=lambda user, item, rng: user % 4,
        slot=lambda user, item, rng: rng.integers(0, 10, len(user)),
        hour=lambda user, item, rng: rng.normal(size=len(user)),
        same=lambda user, item, rng: np.zeros(len(user)),
        one=lambda user, item, rng: np.zeros(len(user), dtype=np.int64),
        age=lambda user, item, rng: (user % 60).astype(float),
        tags=lambda user, item, rng: [[f"t{n}"] for n in rng.integers(0, 5, len(user))],
    )


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_prices_and_brands_tell_the_item(noise: float) -> None:
    assert telling(
        brand=lambda user, item, rng: np.where(
            rng.random(len(user)) < noise, rng.integers(0, 12, len(user)), item % 12
        ),
        price=lambda user, item, rng: np.exp(item % 13 / 3 + noise * rng.normal(size=len(user))),
        words=lambda user, item, rng: [[f"w{n % 9}", "x"] for n in item],
        slot=lambda user, item, rng: rng.integers(0, 10, len(user)),
    ) == ["brand", "words", "price"]


def test_who_buys_the_same_again_makes_no_column_tell_the_item() -> None:
    rng = np.random.default_rng(3)
    user = rng.integers(0, 200, 4000)
    item = np.where(rng.random(4000) < 0.9, user % 40, rng.integers(0, 40, 4000))
    table = pa.table({"user": user.astype(str), "item": item.astype(str), f"{ID}phone": (user // 40).astype(str)})
    looked = Telling(Columns(("phone",)))
    looked.add(table)
    assert looked.columns() == []


def test_too_few_rows_of_one_item_are_no_proof_that_a_column_is_harmless() -> None:
    table = pa.table({"user": ["a", "b"], "item": ["1", "2"], f"{ID}slot": ["x", "y"]})
    looked = Telling(Columns(("slot",)))
    looked.add(table)
    assert looked.columns() == ["slot"]
