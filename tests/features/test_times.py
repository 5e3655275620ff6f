"""Times of a whole log: one unit, one beginning, and no dates written in digits."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_tables import ISO, ITEMS, OWN, ROWS, SEEN, START, log, make, put

from crossmedia.errors import BadInput
from crossmedia.features.times import seconds
from crossmedia.keys import column_of

TIMES = [START + 10 * n for n in range(ROWS)]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [300, *TIMES[1:]],
            r"from 300 in row 1.* of .*log.\w+ to 1700000590 \(2023-11-14\) in row 60.* of .*: one of them",
        ),
        ([*TIMES[:-1], 0], r"from 0 \(1970-01-01\) in row 60 .*leave rows without a time out"),
        ([*TIMES[:-1], -1], r"from -1 \(1969-12-31\) in row 60"),
        ([*TIMES[:-1], 315532800], r"\(1980-01-01\) in row 60"),
        ([t // 60 if n > 30 else t for n, t in enumerate(TIMES)], r"from 28333338 in row 32 "),
        ([*(ISO + datetime.timedelta(seconds=n) for n in range(59)), datetime.datetime(1900, 1, 1)], r"\(1900-01-01\)"),
        ([*(ISO + datetime.timedelta(seconds=n) for n in range(59)), datetime.datetime(9999, 12, 31)], r"9999-12-31"),
        ([14102100 + n % 24 for n in range(ROWS)], r"holds 14102100 in row 1.*YYMMDDHH, as all rows do; times are"),
        ([2023111400 + n % 24 for n in range(ROWS)], r"holds 2023111400 in row 1.*; that looks like .*YYYYMMDDHH"),
        ([202311142200 + n for n in range(ROWS)], r"holds '?202311142200'? in row 1.* without dashes, YYYYMMDDHHmm;"),
        ([231114221300 + n for n in range(ROWS)], r"without dashes, YYMMDDHHmmSS;"),
        ([20231114221300 + n for n in range(ROWS)], r"without dashes, YYYYMMDDHHmmSS;"),
        ([231101 + n % 30 for n in range(ROWS)], r"YYMMDD, as all"),
        ([202301 + n % 12 for n in range(ROWS)], r"YYYYMM, as all"),
        ([1112023 + 1000000 * (n % 27) for n in range(ROWS)], r"holds 1112023 in row 1.*DDMMYYYY, as all"),
        ([2311142200 + n % 60 for n in range(ROWS)], r"YYMMDDHHmm, as all"),
        ([1410010100 + 10000 * (n % 30) + n % 60 for n in range(ROWS)], r"YYMMDDHHmm, as all"),
        (
            [45000 + n / 24 for n in range(ROWS)],
            r"days as spreadsheets count them, as all rows do: seconds are \(days - 25569\) \* 86400, with pandas "
            r"frame\['time'\] = \(\(frame\['time'\] - 25569\) \* 86400\).round\(\).astype\('int64'\);",
        ),
        ([45000 + n // 2 for n in range(ROWS)], r"holds 45000 in row 1.*whole days as spreadsheets .* count from 0;"),
        ([19675 + n // 2 for n in range(ROWS)], r"holds 19675 in row 1.*whole days since 1970, .* are days \* 86400"),
        ([19675 + n / 24 for n in range(ROWS)], r"holds 19675(?:.0)? in row 1.*; that looks like days since 1970"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_that_are_none_are_refused(tmp_path: Path, times: list[Any], message: str, kind: str) -> None:
    put(tmp_path / f"log.{kind}", log(time=times))
    with pytest.raises(BadInput, match=message):
        make(tmp_path, f"log.{kind}")
    if all(isinstance(time, int) for time in times):
        put(tmp_path / "log.parquet", log(time=[str(time) for time in times]))
        with pytest.raises(BadInput, match=message):
            make(tmp_path)


@pytest.mark.parametrize(
    "times",
    [
        list(range(ROWS)),
        [1_000_000 * n for n in range(ROWS)],  # two years, from a beginning of its own
        [9000 + n for n in range(ROWS)],  # a minute, hours behind a beginning of its own
        [14102100 + n for n in range(ROWS)],
        [631152000 + 86400 * 365 * n // 2 for n in range(ROWS)],
        [1410210000 + n % 60 for n in range(ROWS)],  # an hour of 2014
        [-5, *range(1, ROWS)],
    ],
)
def test_times_of_one_unit_are_read(tmp_path: Path, times: list[int]) -> None:
    put(tmp_path / "log.parquet", log(time=times))
    assert sum(make(tmp_path)[1].rows.values()) == ROWS


@pytest.mark.parametrize(
    ("cell", "read"), [("1.700000123E9", 1700000123), ("1.7E9", 1700000000), ("1.700000000e+09", 1700000000)]
)
def test_floats_that_programs_write_whole_are_read(cell: str, read: int) -> None:
    assert seconds(column_of([cell, " 1700000000.5 "], "time", "log")).tolist() == [read, 1700000000]


@pytest.mark.parametrize("cell", ["1.700000E+09", "1.70E+09", "2E+09", "1.70000001e+09"])
def test_numbers_that_a_spreadsheet_rounded_are_refused(tmp_path: Path, cell: str) -> None:
    """Their last digits are lost; among whole numbers, too."""
    said = rf"column 'time' of .* holds '{cell.replace('+', '.')}' in row 7.*; that is a number as spreadsheets show it"
    for others in (str(START), f"{START}.5"):
        rows = "".join(f"u{n % 5},i{n},{cell if n == 6 else others},1\n" for n in range(ROWS))
        (tmp_path / "log.csv").write_text(f"user,item,time,click\n{rows}")
        with pytest.raises(BadInput, match=said):
            make(tmp_path, "log.csv")
    with pytest.raises(BadInput, match="that is a number as spreadsheets show it"):
        seconds(column_of([cell], "time", "log"))


def test_parts_of_two_units_are_named(tmp_path: Path) -> None:
    """Each part alone is right."""
    put(tmp_path / "log" / "a.parquet", log())
    put(tmp_path / "log" / "b.parquet", log(time=[t // 3600 for t in TIMES]))
    with pytest.raises(
        BadInput, match=r"from 472222 in row 1.* of .*b.parquet to 1700000590 .* in row 60.* of .*a.parquet"
    ):
        make(tmp_path, "log")
    put(tmp_path / "log" / "b.parquet", log(time=[20231114 + n % 3 for n in range(ROWS)]))
    with pytest.raises(BadInput, match=r"from 20231114 in row 1.* of .*b.parquet"):
        make(tmp_path, "log")
    put(tmp_path / "log.parquet", log())
    put(tmp_path / "done.parquet", log(action=["buy"] * ROWS, time=[*TIMES[1:], 0]))
    with pytest.raises(BadInput, match=r"from 0 \(1970-01-01\) in row 60.* of .*done.parquet"):
        make(tmp_path, more=ITEMS + OWN)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16()])
def test_floats_that_do_not_tell_seconds_apart_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    start = START if kind == pa.float32() else 40_000
    times = np.array([start + 10 * n for n in range(ROWS)]).astype(kind.to_pandas_dtype())
    put(tmp_path / "log.parquet", log(time=pa.array(times, kind)))
    with pytest.raises(BadInput, match=r"'time' of .* in row 1.*; (float|halffloat) does not tell seconds"):
        make(tmp_path)
    put(tmp_path / "log.parquet", log(time=pa.array(np.arange(ROWS).astype(kind.to_pandas_dtype()), kind)))
    assert sum(make(tmp_path, more=ITEMS + SEEN)[1].rows.values()) == ROWS


def test_a_request_is_read_as_a_log_is() -> None:
    assert seconds(column_of([0, START], "hist_time", "the request")).tolist() == [0, START]
    assert seconds(column_of([], "hist_time", "the request")).tolist() == []
    with pytest.raises(BadInput, match="looks like a date without dashes, YYYYMMDD"):
        seconds(column_of([20231114, 20231115], "hist_time", "the request"))
