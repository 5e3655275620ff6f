"""What a key is: the same for a number in any type and spelling."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmedia.errors import BadInput
from crossmedia.keys import EXACT, MAX_IMAGE_ID, Column, as_image_id, column_of, full_keys, image_ids, keys, texts
from crossmedia.words import row_said

THREE = "3"


def key_list(values: Any) -> list[str | None]:
    found: list[str | None] = keys(Column(values, "user", "log.csv")).to_pylist()
    return found


@given(st.integers(1 - EXACT, EXACT - 1))
def test_a_whole_number_is_one_key_in_every_type(number: int) -> None:
    spelled = [str(number), f"{number}.0", f"{float(number):.17e}"]
    arrays = [pa.array([number]), pa.array([float(number)]), *(pa.array([word]) for word in spelled[:2])]
    arrays += [pa.array([Decimal(number)]), pa.array([str(number)], pa.large_string())]
    arrays += [pa.array([str(number)]).dictionary_encode(), pa.array([Decimal(f"{number}.00")])]
    if abs(number) >= 10:
        arrays.append(pa.array([spelled[2]]))
    assert {key_list(array)[0] for array in arrays} == {str(number)}
    for value in (number, float(number), str(number), np.int64(number), np.float64(number)):
        assert keys(column_of([value], "user", "the user")).to_pylist() == [str(number)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1.0, None, float("nan"), 4915112345678.0]), ["1", None, None, "4915112345678"]),
        (pa.array([1.0, 2047.0], pa.float16()), ["1", "2047"]),
        (pa.array([42.5, 41.0]), ["42.5", "41"]),
        (pa.array([0.1, 2], pa.float32()), ["0.1", "2"]),
        (
            pa.array(["007", "7", "NA", "null", "12e3", "1.5", "3.0.0"]),
            ["007", "7", "NA", "null", "12e3", "1.5", "3.0.0"],
        ),
        (
            pa.array(["1.2e+12", "1.2E12", "3.00", "-0.0", "nan", "NaN", None]),
            ["1200000000000"] * 2 + ["3", "0"] + [None] * 3,
        ),
        (pa.array([MAX_IMAGE_ID, 5], pa.uint64()), [str(MAX_IMAGE_ID), "5"]),
        (pa.array([Decimal("1.50"), Decimal("30.00")]), ["1.5", "30"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([b"a"], pa.binary()), ["a"]),
        (pa.array([3, 3, None]).dictionary_encode(), [THREE, THREE, None]),
        (pa.array([datetime.date(2023, 11, 14)]), ["2023-11-14"]),
        (pa.array([None, None]), [None, None]),
    ],
)
def test_keys(values: pa.Array, expected: list[str | None]) -> None:
    assert key_list(values) == expected
    assert key_list(pa.chunked_array([values])) == expected


def test_values_of_several_kinds_are_keys_one_by_one() -> None:
    found = keys(column_of([3, "3", 3.0, None, float("nan"), 2**70, Decimal("3")], "item_id", "the candidates"))
    assert found.to_pylist() == ["3", "3", "3", None, None, str(2**70), "3"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1.0, EXACT + 2.0]), r"'user' of log.csv holds 9007199254740994.0 in row 12 below the header; whole"),
        (pa.array([2.0**24 + 2], pa.float32()), r"holds 16777218 in row 11 below the header; whole .* 16777216"),
        (pa.array([2.0**24 - 1, 2.0**24], pa.float32()), r"holds 16777216.* in row 12 .* from 16777216 on"),
        (pa.array([EXACT - 1.0, EXACT + 0.0]), r"holds 9007199254740992.* in row 12 .* from 9007199254740992 on"),
        (pa.array(["9007199254740992.0"]), r"holds .9007199254740992.0. in row 11 .* from 9007199254740992 on"),
        (pa.array([float("inf")]), r"holds inf in row 11 below the header"),
        (pa.array(["u1", "7.340032e+18"]), r"holds '7.340032e\+18' in row 12 below the header"),
        (pa.array(["7340032000000000001.0"]), r"holds '7340032000000000001.0' in row 11 below the header"),
        (pa.array([True]), r"is of type bool; .* write yes and no"),
        (pa.array([["a"]]), r"is of type list<item: string>; .* one a cell"),
        (pa.array([{"id": 1}]), r"is of type struct<id: int64>"),
        (pa.array([datetime.datetime(2023, 11, 14)]), r"is of type timestamp"),
        (pa.array([b"\xff"]), r"is of type binary; its bytes are no UTF-8"),
    ],
)
def test_what_is_no_key_is_said(values: pa.Array, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        keys(Column(values, "user", "log.csv", 10))


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, object(), EXACT + 2.0])
def test_what_is_no_key_is_said_of_one_value(value: Any) -> None:
    with pytest.raises(BadInput, match="'user_id' of the user"):
        keys(column_of([value], "user_id", "the user"))


@pytest.mark.parametrize("values", [[[1, 2], 4], [4, [1, 2]], [["a.jpg"], "b.jpg"], [[1, "a"], [2]]])
def test_lists_beside_single_values_are_said(values: list[Any]) -> None:
    with pytest.raises(BadInput, match=r"'image_id' of the candidates holds \[.*must be a list of values of one kind"):
        column_of(values, "image_id", "the candidates")


def test_a_key_that_is_needed_is_missed() -> None:
    with pytest.raises(BadInput, match=r"'user' of log.csv is empty in row 2 below the header, or holds NaN"):
        full_keys(Column(pa.array([1.0, float("nan")]), "user", "log.csv"))


def test_text_keeps_its_spelling() -> None:
    assert texts(Column(pa.array(["3.0", "nan", None, "Nan bread"]), "t", "f")).to_pylist() == [
        "3.0",
        None,
        None,
        "Nan bread",
    ]
    assert texts(Column(pa.array([float("nan"), 2012.0]), "t", "f")).to_pylist() == [None, "2012"]
    for values in (pa.array([["a"]]), pa.array([True]), pa.array([{"a": 1}])):
        with pytest.raises(BadInput, match=r"of type [^;]*; a text column holds one text a cell"):
            texts(Column(values, "t", "f"))
        with pytest.raises(
            BadInput, match=r"of type [^;]*; image ids are whole numbers from 0 to 2\^63 - 1, one a cell"
        ):
            image_ids(Column(values, "image", "f"))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_a_text_of_no_character_is_an_empty_cell(kind: pa.DataType) -> None:
    given = pa.array(["", "7", None, "nan", ""]).cast(kind)
    for values in (given, given.slice(1), given.dictionary_encode() if kind == pa.string() else given):
        column = Column(values, "x", "f.parquet")
        at = 5 - len(values)
        assert keys(column).to_pylist() == [None, "7", None, None, None][at:]
        assert texts(column).to_pylist() == [None, "7", None, None, None][at:]
        assert image_ids(column).tolist() == [-1, 7, -1, -1, -1][at:]
    assert keys(Column(pa.array(["a", "", None]), "x", "f")).to_pylist() == ["a", None, None]
    assert keys(column_of(["", "a"], "x", "the user")).to_pylist() == [None, "a"]
    assert keys(column_of([3, ""], "x", "the user")).to_pylist() == ["3", None]
    with pytest.raises(BadInput, match=r"'x' of f is empty in row 2"):
        full_keys(Column(pa.array(["a", ""]), "x", "f"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, None, -1]), [1, -1, -1]),
        (pa.array([1.0, float("nan")]), [1, -1]),
        (pa.array(["1", "007", "3.0", str(MAX_IMAGE_ID), "-1", None]), [1, 7, 3, MAX_IMAGE_ID, -1, -1]),
        (pa.array([1, None, MAX_IMAGE_ID], pa.uint64()), [1, -1, MAX_IMAGE_ID]),
        (pa.array([1, 200], pa.uint8()), [1, 200]),
        (pa.array([Decimal(MAX_IMAGE_ID)]), [MAX_IMAGE_ID]),
        (pa.array([], pa.int32()), []),
        (pa.array([], pa.string()), []),
        (pa.array([]), []),
        (pa.array([None]), [-1]),
    ],
)
def test_image_ids(values: pa.Array, expected: list[int]) -> None:
    found = image_ids(Column(values, "image", "items.csv"))
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, -2]),
        pa.array([3, 2**63], pa.uint64()),
        pa.array(["3", str(2**63)]),
        pa.array(["3", "9" * 40]),
        pa.array(["3", "front.jpg"]),
        pa.array(["3", "-7"]),
        pa.array([3, 1.5]),
        pa.array([3, EXACT + 2.0]),
        pa.array([Decimal(3), Decimal(2**63)]),
    ],
)
def test_what_is_no_image_id_is_said(values: pa.Array) -> None:
    with pytest.raises(BadInput, match=r"'image' of items.csv .* row 2 below the header; (image ids|whole numbers)"):
        image_ids(Column(values, "image", "items.csv"))


def test_words() -> None:
    assert [as_image_id(word) for word in ("7", " 007 ", "x", "-1", "9" * 20, "")] == [7, 7, None, None, None, None]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("log.csv", "row 3 below the header"),
        ("log/part.CSV.gz", "row 3 below the header"),
        ("log.parquet", "row 3"),
        ("the candidates", "row 3"),
        ("a.csv/part.parquet", "row 3"),
    ],
)
def test_a_row_of_csv_is_said_with_where_it_is_counted_from(where: str, said: str) -> None:
    assert row_said(3, where) == said
    assert Column(pa.array([1, 2, 7]), "x", where).row_said([False, False, True]) == said
