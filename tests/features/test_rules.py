"""Rules and labels over columns of any type of number: what holds in them, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_tables import ROWS, log, make, put, rows_in

from crossmedia.errors import BadInput
from crossmedia.features.rules import Rule, take_rules
from crossmedia.features.toml_table import TomlTable
from crossmedia.keys import Column


def rule(text: str) -> Rule:
    table = TomlTable({"labels": {"x": text}}, Path("s.toml"), "log")
    return take_rules(table, "labels", columns=True)["x"]


def held(text: str, values: Any, kind: pa.DataType | None = None) -> list[bool]:
    found: list[bool] = rule(text).holds(Column(pa.array(values, kind), "x", "log.parquet")).tolist()
    return found


TENTHS = [Decimal("0.2"), Decimal("0.3"), Decimal("0.4")]


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.decimal128(38, 10), pa.decimal128(3, 1), pa.decimal256(76, 70)),
        *(pa.float64(), pa.float32(), pa.float16(), pa.string(), pa.large_string()),
    ],
)
def test_three_tenths_are_three_tenths_in_any_type(kind: pa.DataType) -> None:
    values: Any = TENTHS
    if pa.types.is_floating(kind):
        values = [np.float16(v) if kind.bit_width == 16 else float(v) for v in TENTHS]
    elif not pa.types.is_decimal(kind):
        values = list(map(str, TENTHS))
    assert held("x <= 0.3", values, kind) == [True, True, False]
    assert held("x < 0.3", values, kind) == [True, False, False]
    assert held("x == 0.3", values, kind) == [False, True, False]
    assert held("x > 0.3", values, kind) == [False, False, True]
    assert held("x >= 0.3", values, kind) == [False, True, True]
    assert held("x >= 0.25", values, kind) == [False, True, True]
    assert held("x <= 0.25", values, kind) == [True, False, False]
    assert held("x == 0.25", values, kind) == [False, False, False]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.decimal128(20, 0)])
def test_whole_numbers_are_compared_exactly(kind: pa.DataType) -> None:
    values: Any = [2**53, 2**53 + 1]
    values = [Decimal(v) for v in values] if pa.types.is_decimal(kind) else values
    assert held(f"x == {2**53}", values, kind) == [True, False]
    assert held(f"x > {2**53}", values, kind) == [False, True]
    assert held(f"x >= {2**53}.5", values, kind) == [False, True]
    assert held(f"x < {2**53}.5", values, kind) == [True, False]
    assert held(f"x == {2**53}.5", values, kind) == [False, False]
    assert held(f"x < {10**40}", values, kind) == [True, True]
    assert held(f"x <= -{10**40}", values, kind) == [False, False]


def test_negative_scales_and_booleans() -> None:
    thousands = pa.array([1, 2]).cast(pa.decimal128(19, 0)).cast(pa.decimal128(5, -3), safe=False)
    assert held("x >= 0", thousands) == [True, True]
    assert held("x >= 1", [True, False]) == [True, False]
    assert held("x", [True, False]) == [True, False]
    assert held("x", [Decimal("1.000000"), Decimal("0.000000")]) == [True, False]


def test_a_float_that_may_be_either_is_refused() -> None:
    assert held(f"x >= {2**53}", [1.0, 2.0**60]) == [False, True]
    assert held("x >= 4", [1.0, 2.0**60]) == [False, True]
    for kind, number in ((pa.float64(), 2**53), (pa.float64(), 2**53 + 1), (pa.float32(), 2**24 + 1)):
        with pytest.raises(BadInput, match=r"'x' of log.parquet holds .* in row 2; .*does not tell it from"):
            held(f"x == {number}", [1.0, float(number)], kind)


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("x", ["yes", "no"], r"holds 'yes' in row 1; a label is 0 or 1. .* 1 for yes and 0 for no"),
        ("x", ["1", "True"], r"holds 'True' in row 2; a label is 0 or 1"),
        ("x", [1, 4], r"holds 4 in row 2; a label is 0 or 1. For a rating write a rule, such as like = \"x >= 4\"\.$"),
        ("x", [Decimal("1.0000000001")], r"holds 1.0000000001 in row 1; a label is 0 or 1"),
        ("x", [2**62], r"in row 1; a label is 0 or 1"),
        ("x >= 4", ["good"], r"holds 'good' in row 1; a rule such as x >= 4 compares numbers\. [^.]*\.$"),
        ("x >= 4", [[4]], r"is of type list<.*>; a rule such as x >= 4 compares numbers"),
        ("x >= 4", ["4", ""], r"is empty in row 2, or holds NaN"),
        ("x >= 4", [Decimal(4), None], r"is empty in row 2, or holds NaN"),
        ("x >= 4", [4.0, float("nan")], r"is empty in row 2, or holds NaN"),
    ],
)
def test_what_is_no_number_is_named(text: str, values: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        held(text, values)
    assert ".." not in str(error.value).replace("...", "")


@pytest.mark.parametrize("kind", [pa.decimal128(10, 2), pa.float32()])
def test_labels_of_a_build_are_the_right_ones(tmp_path: Path, kind: pa.DataType) -> None:
    stars = [Decimal(n % 7) / 10 + 4 for n in range(ROWS)]
    values = pa.array(stars if pa.types.is_decimal(kind) else list(map(float, stars)), kind)
    put(tmp_path / "log.parquet", log(click=[int(s >= Decimal("4.1")) for s in stars], stars=values))
    samples, _ = make(tmp_path, more='good = "stars >= 4.1"\n')
    assert all(row["label"] == row["label_good"] for row in rows_in(samples))
