"""What tables say of photos: items without a photo and with several, and columns that say nothing or too much."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossmedia.concepts import MAX_NAME, ConceptCard
from crossmedia.errors import BadInput
from crossmedia.imgserver.concepts.building import build_concepts
from crossmedia.imgserver.concepts.items import Items, ItemTable, read_items
from crossmedia.imgserver.concepts.sample import Sample
from crossmedia.imgserver.vision.backbones import get_backbone

PHOTOS = np.arange(400, dtype=np.int64)


def written(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(header)
        lines.writerows(rows)
    return path


def asked(path: Path, *columns: str, text: str = "", group: str = "") -> ItemTable:
    return ItemTable(str(path), key="image_id", text=text, columns_of_values=columns, group=group)


def having(items: Items) -> dict[str, list[int]]:
    return {t.name: items.ids[rows].tolist() for t, rows in zip(items.traits, items.rows, strict=True)}


def test_items_without_a_photo_are_passed_over_and_counted(tmp_path: Path) -> None:
    rows = [(1, "red"), ("", "red"), ("nan", "blue"), (-1, "red"), (3, "blue"), (999, "red")]
    items = read_items(asked(written(tmp_path / "i.csv", ("image_id", "colour"), rows), "colour"), None, PHOTOS)
    assert having(items) == {"colour=red": [1], "colour=blue": [3]}
    where = f"{tmp_path}/i.csv"
    assert items.passed_over == (
        f"passed over 3 of 6 rows of {where} without a photo",
        f"passed over 1 of 6 rows of {where} with photos that the store does not hold",
    )
    empty = written(tmp_path / "empty.csv", ("image_id", "colour"), [("", "red"), ("", "blue")])
    with pytest.raises(BadInput, match="names no photo in any of its rows"):
        read_items(asked(empty, "colour"), None, PHOTOS)
    wrong = written(tmp_path / "wrong.csv", ("image_id", "colour"), [("", "red"), (1, "red"), ("x", "blue")])
    with pytest.raises(BadInput, match=r"holds 'x' in row 3|holds 'x' in line 4"):
        read_items(asked(wrong, "colour"), None, PHOTOS)


def test_all_photos_of_an_item_have_what_it_has_and_are_of_one_group(tmp_path: Path) -> None:
    photos = pa.array([[1, 2, None], [], None, [3], [2, 7]], pa.list_(pa.int64()))
    table = pa.table({"image_id": photos, "colour": ["red", "red", "blue", "blue", None], "product": list("aabbc")})
    pq.write_table(table, tmp_path / "i.parquet")
    items = read_items(asked(tmp_path / "i.parquet", "colour"), None, PHOTOS)
    assert having(items) == {"colour=red": [1, 2], "colour=blue": [3]}
    assert items.passed_over[0].startswith("passed over 2 of 5 rows")
    of = dict(zip(items.ids.tolist(), items.groups.tolist(), strict=True))
    assert of[1] == of[2] == of[7] != of[3]  # 2 is a photo of both items
    grouped = read_items(asked(tmp_path / "i.parquet", "colour", group="product"), None, PHOTOS)
    assert len(np.unique(grouped.groups)) == 2


def test_rows_of_a_photo_with_different_values_add_up(tmp_path: Path) -> None:
    rows = [(1, "red", "a"), (1, "blue", "b"), (2, "red", "b"), (2, "red", "b")]
    path = written(tmp_path / "i.csv", ("image_id", "colour", "product"), rows)
    items = read_items(asked(path, "colour", group="product"), None, PHOTOS)
    assert having(items) == {"colour=red": [1, 2], "colour=blue": [1]}
    assert len(np.unique(items.groups)) == 1  # photo 1 is of both products


def sample_of(path: Path, table: ItemTable, points: Path | None = None) -> Sample:
    """Photos whose features hold whether their number is below 200, and noise."""
    items = read_items(table, None, PHOTOS, points)
    values = np.random.default_rng(0).standard_normal((len(items.ids), 40)).astype(np.float32)
    values[items.ids < 200, 0] += 6
    return Sample(get_backbone("efficientnet_lite0").space, values, items)


def test_columns_that_say_nothing_are_told_apart_and_refused_in_words(tmp_path: Path) -> None:
    half = [number < 200 for number in range(400)]
    rows = [
        (
            n,
            f"SKU-{n}",
            n * 1.25,
            f"2024-01-{n % 28 + 1:02d}",
            "one",
            "",
            ("Größe Ü 日本" if half[n] else "café"),
            n % 2,
        )
        for n in range(400)
    ]
    header = ("image_id", "sku", "price", "date", "same", "empty", "kind", "odd")
    path = written(tmp_path / "i.csv", header, rows)
    _, card = build_concepts(sample_of(path, asked(path, *header[1:])))
    assert "kind=Größe Ü 日本" in card.names
    why = {one.name: one.why for one in card.refused}
    assert why["sku"].startswith("400 values or words; none is had by at least 16 photos")
    assert why["same"].startswith("1 values or words")
    assert {"price", "odd=0"} <= why.keys()
    assert "AUC" in why["odd=0"]
    (said,) = sample_of(path, asked(path, *header[1:])).items.passed_over
    assert said == f"the column 'empty' of {path} says nothing of the photos that there are"
    assert ConceptCard.from_bytes(card.to_bytes()) == card


def test_names_that_are_alike_too_long_or_invisible_are_told_apart(tmp_path: Path) -> None:
    long = "x" * 100
    rows = [(n, f"{long}{'a' if n < 200 else 'b'}", "lace") for n in range(400)]
    path = written(tmp_path / "i.csv", ("image_id", "kind", "text"), rows)
    shown = [(n, point) for n in range(0, 100) for point in ("rest 1", "\u200b\u2060")]
    points = written(tmp_path / "p.csv", ("image_id", "point"), [*shown, (1, "rare"), (2, "rare")])
    _, card = build_concepts(sample_of(path, asked(path, "kind"), points))
    assert len(set(card.names)) == len(card)
    assert all(len(name) <= MAX_NAME for name in card.names)
    assert "rest 1" in card.names
    refused = {one.name: one.why for one in card.refused}
    assert refused["rare"] == "10 photos of several products are asked for"
    assert ConceptCard.from_bytes(card.to_bytes()) == card


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pa.array([[1], [2]] * 200), "join several to one text"),
        (pa.array([True, False] * 200), "write yes and no"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, values: pa.Array, words: str) -> None:
    pq.write_table(pa.table({"image_id": PHOTOS, "kind": values}), tmp_path / "i.parquet")
    with pytest.raises(BadInput, match=words):
        read_items(asked(tmp_path / "i.parquet", "kind"), None, PHOTOS)


def test_examples_of_points_that_nothing_can_be_learnt_from_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "i.csv", ("image_id", "kind"), [(n, "a") for n in range(300)])
    rows = [(n, "crisp") for n in (5, 250, 350, 390, 4711, 4712, 4713)] + [(4714, ""), ("", "crisp")]
    points = written(tmp_path / "p.csv", ("image_id", "point"), rows)
    items = read_items(asked(path, "kind"), None, PHOTOS, points)
    assert having(items)["crisp"] == [5, 250]
    assert items.passed_over == (
        f"passed over 1 of 9 rows of {points} without a photo",
        f"passed over 4 of 9 rows of {points} with photos that the store does not hold",
        f"passed over 2 of 9 rows of {points} with photos that {path} has no row of",
    )
