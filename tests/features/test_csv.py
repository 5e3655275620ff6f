"""CSV of all makes, and folders with other things in them."""

from __future__ import annotations

import bz2
import datetime
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from small_tables import (
    ISO,
    ITEMS,
    ROWS,
    SPLIT,
    START,
    TEXT,
    as_csv,
    items,
    log,
    make,
    put,
)

from crossmedia.errors import BadInput
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples


def test_a_fraction_may_come_late_among_times(tmp_path: Path) -> None:
    times = [str(ISO + datetime.timedelta(seconds=10 * n)) for n in range(ROWS)]
    put(tmp_path / "log.csv", log(time=[*times[:-2], times[-2] + ".5", str(ISO.date() + datetime.timedelta(days=1))]))
    assert sum(make(tmp_path, "log.csv")[1].rows.values()) == ROWS


def test_line_breaks_in_cells_at_any_size(tmp_path: Path) -> None:
    n = 60_000
    table = log()
    for name in table:
        table[name] = (table[name] * (n // ROWS + 1))[:n]
    table["time"] = list(range(START, START + n))
    put(tmp_path / "log.csv", {"comment": ['a\n7,8,9,1\r\n\r\nsays "good"'] * n} | table)
    assert (tmp_path / "log.csv").stat().st_size > 2 << 20
    _, report = make(tmp_path, "log.csv")
    assert (sum(report.rows.values()), report.users) == (n, 6)


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path) -> None:
    lines = as_csv(log(comment=["fine"] * ROWS)).decode().splitlines()
    lines[20] = lines[20].replace("fine", '"not fine')
    (tmp_path / "log.csv").write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"log.csv has a quote in or behind row (19|20)"):
        make(tmp_path, "log.csv")
    (tmp_path / "log.csv").write_text("\n".join(lines + lines[1:20] * 20_000))  # more than is read at once
    with pytest.raises(BadInput, match=r"log.csv has a quote in or behind row (19|20)"):
        make(tmp_path, "log.csv")
    (tmp_path / "log.csv").write_text("\n".join([*lines[:20], f"1,2,{START},1,{'x' * (20 << 20)}"]))
    with pytest.raises(BadInput, match=r"log.csv has a row of more than 4 MB"):
        make(tmp_path, "log.csv")
    two = [*lines[:30], lines[30].replace("fine", '"again'), *lines[31:]]  # what is between would be one cell
    for text in ("\n".join(two), "\n".join([*two, *lines[1:20]]) + "\n"):
        (tmp_path / "log.csv").write_text(text)
        with pytest.raises(BadInput, match=r"log.csv has a quote in or behind row (19|20)"):
            make(tmp_path, "log.csv")
    lines[20] = lines[20].replace('"not fine', '5" wide')  # inside a cell that does not begin with it
    (tmp_path / "log.csv").write_text("\n".join(lines))
    assert sum(make(tmp_path, "log.csv")[1].rows.values()) == ROWS


def test_parts_of_nothing_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    whole = as_csv(log())
    header = whole.split(b"\n")[0] + b"\n"
    half = whole.split(b"\n")
    (tmp_path / "log").mkdir()
    for name, data in {
        "part-0.csv": b"",
        "part-1.csv": header,
        "part-2.csv": b"\n".join(half[:31]) + b"\n",
        "part-3.CSV": header + b"\n".join(half[31:]),
        "part-4.csv.gz": gzip.compress(b""),
        "._part-2.csv": b"\0\5\x16\7",
        "_SUCCESS": b"",
    }.items():
        (tmp_path / "log" / name).write_bytes(data)
    for name in (".ipynb_checkpoints", "_temporary/0", "deeper/.Trash-1000/files"):
        (tmp_path / "log" / name).mkdir(parents=True)
        (tmp_path / "log" / name / "part.csv").write_bytes(whole)
    _, report = make(tmp_path, "log")
    assert sum(report.rows.values()) == ROWS
    for name in ("part-2.csv", "part-3.CSV"):
        (tmp_path / "log" / name).unlink()
    with pytest.raises(BadInput, match="log has no rows"):
        make(tmp_path, "log")


def test_parquet_parts_of_no_byte_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "log" / "1.parquet", log())
    for name in ("0.parquet", "2.parquet"):
        (tmp_path / "log" / name).write_bytes(b"")
    assert sum(make(tmp_path, "log")[1].rows.values()) == ROWS
    (tmp_path / "log" / "1.parquet").write_bytes(b"")
    with pytest.raises(BadInput, match=r"All files of .*log are empty"):
        make(tmp_path, "log")
    for name in ("log.parquet", "log.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(BadInput, match=rf"The file .*{name} is empty"):
            make(tmp_path, name)


def test_files_of_a_folder_that_are_not_read_are_said(tmp_path: Path) -> None:
    put(tmp_path / "log" / "a.csv", log())
    put(tmp_path / "items" / "a.csv", items())
    for name in ("log/c.tsv", "log/d.csv.xz", "log/e.parquet.gz", "log/_SUCCESS", "log/.a.csv.crc", "items/b.xlsx"):
        (tmp_path / name).write_bytes(b"x")
    report = make(tmp_path, "log", ITEMS.replace("items.parquet", "items"))[1]
    kind = "files_passed_over_that_are_neither_csv_nor_parquet_by_name"
    assert report.notes == {kind: 4}
    assert report.first == {kind: str(tmp_path / "log" / "c.tsv")}
    (tmp_path / "log" / "a.csv").unlink()
    with pytest.raises(BadInput, match=r"log holds no .parquet, .csv or .csv.gz file .*begins with c.tsv"):
        make(tmp_path, "log")


def test_columns_that_begin_empty(tmp_path: Path) -> None:
    n = 300_000
    rows = [f"{i % 50},{i % 10},{START + i},{i % 2},{'' if i < n - 9 else f's{i}'}" for i in range(n)]
    (tmp_path / "log.csv").write_text("user,item,time,click,shop\n" + "\n".join(rows))
    samples, report = make(tmp_path, "log.csv", '[items]\nids = ["shop"]\n')
    assert report.rows["train"] == 7 * n // 10
    assert len(samples.vocabulary.values["shop"]) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.decode().encode("utf-16"), r"log.csv looks like UTF-16.* iconv -f UTF-16 -t UTF-8"),
        (lambda data: data.decode().encode("utf-16-le"), r"log.csv looks like UTF-16"),
        (
            lambda data: data.replace(b"\n0,", "\n用户,".encode("gb18030")),
            r"log.csv is no text in UTF-8.* iconv -f GB18030",
        ),
        (lambda data: data.replace(b"user", "用户".encode("gb18030")), r"log.csv is no text in UTF-8"),
        (
            lambda data: data.replace(b"\n0,", "\nMüller und Söhne,".encode("latin-1")),
            r"log.csv is no text in UTF-8.* iconv -f ISO-8859-1",
        ),
        (lambda data: data.replace(b",", b"\t"), r"log.csv separates its columns by tabs.*sep='\\t'"),
        (lambda data: data.replace(b",", b";"), r"log.csv separates its columns by semicolons.*sep=';'"),
        (lambda data: data + b"1,2,soon,1\n", r"'time' of .*log.csv holds 'soon' in row 61.*; times are"),
        (lambda data: data + b"1,2,,1\n", r"'time' of .*log.csv is empty in row 61"),
        (lambda data: data + b"1,2,1700000900,maybe\n", r"'click' of .*log.csv holds 'maybe' in row 61"),
        (lambda data: data + b"1,2\n", r"log.csv has 2 cells in row 61.*, and 4 columns in its header"),
        (lambda data: data.replace(b",", b"\t").replace(b"click", b"click\ta, b"), r"log.csv separates .* by tabs"),
        (
            lambda data: data.replace(b",", b", "),
            r"no column 'item'; its columns are: user, ' item', ' time', ' click'",
        ),
        (
            lambda data: (
                data.replace(b"click", b"click,user").replace(b",0\r\n", b",0,9\r\n").replace(b",1\r\n", b",1,9\r\n")
            ),
            r"log.csv has 2 columns 'user'; rename one of them",
        ),
        (lambda data: b"PAR1" + data, r"log.csv is no CSV file but a Parquet file"),
        (lambda data: b"PK\x03\x04" + data, r"log.csv is no CSV file but a zip file or a workbook"),
        (gzip.compress, r"log.csv is compressed by gzip: end its name with .csv.gz\.$"),
        (bz2.compress, r"log.csv is compressed by bzip2: end its name with .csv.bz2"),
        (lzma.compress, r"log.csv is compressed by xz: unpack it"),
        (lambda data: data.replace(b"user", b"person"), r"log.csv has no column 'user'; its columns are: person, item"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    (tmp_path / "log.csv").write_bytes(change(as_csv(log())))
    with pytest.raises(BadInput, match=message):
        make(tmp_path, "log.csv")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbf" + as_csv(log()))
    put(tmp_path / "items.parquet", items())
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + (TEXT.replace("LOG", "log.csv") + ITEMS + SPLIT).encode())
    assert sum(build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out").rows.values()) == ROWS


def test_the_file_of_a_folder_is_named(tmp_path: Path) -> None:
    put(tmp_path / "log" / "a.csv", log())
    put(tmp_path / "log" / "b.csv", log(click=[1] * 9 + [7] * 51))
    with pytest.raises(BadInput, match=r"'click' of .*log/b.csv holds 7.* in row 10"):
        make(tmp_path, "log")
    put(tmp_path / "log" / "b.csv", {name: values for name, values in log().items() if name != "time"})
    with pytest.raises(BadInput, match=r"log/b.csv has no column 'time'"):
        make(tmp_path, "log")
