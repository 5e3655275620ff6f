"""Tables as people have them: types of ids, times and labels, CSV of all makes, folders with other things in them."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.build import build
from features.report import BuildReport
from features.samples import Samples
from features.schema import load_schema
from features.splits import SPLITS
from imgserver.errors import BadInput

Table = dict[str, Any]
TEXT = '[log]\npath = "LOG"\nuser = "user"\nitem = "item"\ntime = "time"\n[log.labels]\nclick = "click"\n'
ITEMS = '[items]\npath = "items.parquet"\nitem = "item"\nimage = "image"\nids = ["shop"]\ntext = ["title"]\n'
USERS = '[users]\npath = "users.parquet"\nuser = "user"\nids = ["city"]\n'
SPLIT = '[split]\nmethod = "user_tail"\n'
SEEN = '[behaviours]\nfrom_log = { seen = "click == 1" }\n'
OWN = '[behaviours]\npath = "done.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\naction = "action"\n'
ROWS, START = 60, 1_700_000_000


def log(**changed: Any) -> Table:
    table: Table = {
        "user": [n % 6 for n in range(ROWS)],
        "item": [n * 7 % 10 for n in range(ROWS)],
        "time": [START + 10 * n for n in range(ROWS)],
        "click": [int(n % 3 == 0) for n in range(ROWS)],
    }
    return table | changed


def items(**changed: Any) -> Table:
    return {
        "item": list(range(10)),
        "image": [100 + n for n in range(10)],
        "shop": [f"s{n % 3}" for n in range(10)],
        "title": [f"nice thing {n}" for n in range(10)],
    } | changed


def put(path: Path, table: Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    else:
        path.write_bytes(as_csv(table))


def as_csv(table: Table) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([list(table), *zip(*table.values(), strict=True)])
    return text.getvalue().encode()


def make(folder: Path, name: str = "log.parquet", more: str = ITEMS + SEEN) -> tuple[Samples, BuildReport]:
    if not (folder / "items.parquet").exists():
        put(folder / "items.parquet", items())
    (folder / "s.toml").write_text(TEXT.replace("LOG", name) + more + SPLIT)
    report = build(load_schema(folder / "s.toml"), folder / "out", overwrite=True)
    return Samples(folder / "out"), report


def rows_in(samples: Samples) -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in samples.frame(split).to_pylist()]


NUMBERS = [7340032000000000001 + n for n in range(10)]
TYPES: dict[str, Callable[[list[int]], Any]] = {
    "int64": pa.array,
    "uint64": lambda ids: pa.array(ids, pa.uint64()),
    "decimal": lambda ids: pa.array([Decimal(i) for i in ids], pa.decimal128(38, 0)),
    "string": lambda ids: pa.array(list(map(str, ids))),
    "large_string": lambda ids: pa.array(list(map(str, ids)), pa.large_string()),
    "dictionary": lambda ids: pa.array(list(map(str, ids))).dictionary_encode(),
}


@pytest.mark.parametrize("of_log", TYPES)
@pytest.mark.parametrize("of_items", ["int64", "large_string"])
def test_ids_of_19_digits_meet_in_any_type(tmp_path: Path, of_log: str, of_items: str) -> None:
    put(tmp_path / "log.parquet", log(item=TYPES[of_log]([NUMBERS[n * 7 % 10] for n in range(ROWS)])))
    table = items(item=TYPES[of_items](NUMBERS), image=TYPES[of_log](NUMBERS))
    put(tmp_path / "items.parquet", table)
    samples, report = make(tmp_path)
    assert (report.items, report.images, report.notes) == (10, 10, {})
    assert all(int(row["raw_item_id"]) == row["image_id"] for row in rows_in(samples))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_that_became_floats_are_the_numbers(tmp_path: Path, kind: str) -> None:
    big = 4915112345678
    put(tmp_path / f"log.{kind}", log(user=[float(big + n % 6) for n in range(ROWS)]))
    put(
        tmp_path / "users.parquet",
        {"user": [big + n for n in range(6)], "city": [1.5, None, float("nan"), 1.0, 2.0, 2.5]},
    )
    put(tmp_path / "items.parquet", items(image=[None if n % 2 else float(n) for n in range(10)]))
    samples, report = make(tmp_path, f"log.{kind}", ITEMS + USERS + SEEN)
    assert samples.vocabulary.values["user_id"].to_pylist() == [str(big + n) for n in range(6)]
    assert sorted(samples.vocabulary.values["city"].to_pylist()) == ["1", "1.5", "2", "2.5"]
    assert report.images == 5
    assert {row["image_id"] for row in rows_in(samples)} == {-1, 0, 2, 4, 6, 8}


NAN = float("nan")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (log(user=[2.0**53 + 2] * ROWS), r"'user' of .*log.parquet holds '?9007199254740994.0'? in row 1"),
        (log(item=[["a"]] * ROWS), r"'item' of .*log.parquet is of type list"),
        (log(user=[True] * ROWS), r"'user' of .*log.parquet is of type bool"),
        (log(user=[1.0] * 9 + [NAN] * 51), r"'user' of .*log.parquet is empty in row 10, or holds NaN"),
        (log(user=["u"] * 9 + ["nan"] * 51), r"'user' of .*log.parquet is empty in row 10"),
        (log(click=[1.0] * 9 + [NAN] * 51), r"label column 'click' of .*log.parquet is empty in row 10, or holds NaN"),
        (log(click=[-1, 1] * 30), r"'click' of .*log.parquet holds -1.* in row 1; a label is 0 or 1"),
        (log(click=["yes", "no"] * 30), r"'click' of .*log.parquet holds 'yes' in row 1; a label is 0 or 1"),
        (log(click=[[1]] * ROWS), r"'click' of .*log.parquet is of type list"),
        (log(click=[None] * ROWS), r"'click' of .*log.parquet is empty in row 1"),
        (log(time=[START * 1000] * ROWS), r"'time' of .*log.parquet holds 1700000000000 in row 1; .*milliseconds"),
        (log(time=[START * 10**6] * ROWS), r"looks like microseconds: divide by 1000000; times are whole seconds"),
        (log(time=[START * 10**9] * ROWS), r"looks like nanoseconds"),
        (log(time=[20231115145320] * ROWS), r"holds 20231115145320 in row 1; that looks like a date and time"),
        (log(time=[20231115, 20231201] * 30), r"holds 20231115 in row 1; that looks like a date without dashes"),
        (log(time=["2026/10/01"] * ROWS), r"'time' of .* holds '2026/10/01' in row 1; .*2023-11-14 22:13:20"),
        (log(time=["2026-10-01 10:00:00 UTC"] * ROWS), r"holds '2026-10-01 10:00:00 UTC' in row 1; times are"),
        (log(time=["2026-02-30"] * ROWS), r"'time' of .*log.parquet cannot be read"),
        (log(time=[datetime.time(10)] * ROWS), r"'time' of .*log.parquet is of type time"),
        (log(time=[1.0] * 9 + [NAN] * 51), r"'time' of .*log.parquet is empty in row 10; every row needs a time"),
    ],
)
def test_what_is_wrong_in_a_log_is_named(tmp_path: Path, table: Table, message: str) -> None:
    put(tmp_path / "log.parquet", table)
    with pytest.raises(BadInput, match=message):
        make(tmp_path)
    if not any(isinstance(value, list | bool) for column in table.values() for value in column):  # which CSV has not
        put(tmp_path / "log.csv", table)
        with pytest.raises(BadInput, match=message.replace("log.parquet", "log.csv")):
            make(tmp_path, "log.csv")


@pytest.mark.parametrize(
    "changed",
    [
        {"image": [["a"]] * 10},
        {"shop": [["a", "b"]] * 10},
        {"shop": [{"id": 1}] * 10},
        {"title": [["a", "b"]] * 10},
        {"image": [2.0**53 + 2 * n for n in range(10)]},
        {"item": [2.0**53 + 2 * n for n in range(10)]},
        {"image": ["front.jpg"] * 10},
        {"item": [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]},
        {"item": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "8.0"]},
    ],
)
def test_what_is_wrong_in_an_item_table_is_named(tmp_path: Path, changed: Table) -> None:
    put(tmp_path / "log.parquet", log())
    put(tmp_path / "items.parquet", items(**changed))
    with pytest.raises(BadInput, match=f"'{next(iter(changed))}' of .*items.parquet"):
        make(tmp_path)


ISO = datetime.datetime.fromtimestamp(START, datetime.UTC).replace(tzinfo=None)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("times", "step"),
    [
        ([float(START + 10 * n) + 0.25 for n in range(ROWS)], 10),
        ([str(ISO + datetime.timedelta(seconds=10 * n)) for n in range(ROWS)], 10),
        ([(ISO + datetime.timedelta(seconds=10 * n)).isoformat() + "Z" for n in range(ROWS)], 10),
        ([str(ISO + datetime.timedelta(hours=8, seconds=10 * n)) + "+08:00" for n in range(ROWS)], 10),
        ([ISO + datetime.timedelta(seconds=10 * n, milliseconds=n) for n in range(ROWS)], 10),
        ([str(ISO.date() + datetime.timedelta(days=n)) for n in range(ROWS)], 86400),
        ([ISO.date() + datetime.timedelta(days=n) for n in range(ROWS)], 86400),
    ],
)
def test_times_that_are_read(tmp_path: Path, times: list[Any], step: int, kind: str) -> None:
    put(tmp_path / f"log.{kind}", log(time=times))
    found = sorted(row["timestamp"] for row in rows_in(make(tmp_path, f"log.{kind}")[0]))
    first = START if step == 10 else START - START % 86400
    assert found == [first + step * n for n in range(ROWS)]


def test_a_fraction_may_come_late_among_times(tmp_path: Path) -> None:
    times = [str(ISO + datetime.timedelta(seconds=10 * n)) for n in range(ROWS)]
    put(tmp_path / "log.csv", log(time=[*times[:-2], times[-2] + ".5", str(ISO.date() + datetime.timedelta(days=1))]))
    assert sum(make(tmp_path, "log.csv")[1].rows.values()) == ROWS


def test_a_log_and_behaviours_of_two_units_are_noticed(tmp_path: Path) -> None:
    done = log(action=["buy"] * ROWS)
    put(tmp_path / "log.parquet", log())
    for times, message in (
        ([START * 1000] * ROWS, "done.parquet holds 1700000000000 in row 1; that looks like milliseconds"),
        ([START // 60 + n for n in range(ROWS)], "times of .*log.parquet are .*2023-11-14.* one of them is not in sec"),
        ([START + 10**6] * ROWS, "Not one row of .*done.parquet is earlier than an impression of its user"),
    ):
        put(tmp_path / "done.parquet", done | {"time": times})
        with pytest.raises(BadInput, match=message):
            make(tmp_path, more=ITEMS + OWN)
    put(tmp_path / "done.parquet", done | {"user": [f"x{n}" for n in range(ROWS)]})
    with pytest.raises(BadInput, match=r"Not one user of .*done.parquet has a row in .*log.parquet"):
        make(tmp_path, more=ITEMS + OWN)
    put(tmp_path / "done.parquet", done | {"time": [START - 10 + n for n in range(ROWS)]})
    assert make(tmp_path, more=ITEMS + OWN)[1].mean_history > 0


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


def test_parts_have_types_of_their_own(tmp_path: Path) -> None:
    """A column may be empty in one part, and of floats in the next."""
    put(tmp_path / "items.parquet", {})
    os.remove(tmp_path / "items.parquet")
    first, second = ({name: values[a:b] for name, values in items().items()} for a, b in ((0, 5), (5, 10)))
    put(tmp_path / "items" / "0.parquet", first | {"image": pa.nulls(5), "shop": pa.nulls(5)})
    put(tmp_path / "items" / "1.parquet", second | {"item": [float(i) for i in second["item"]]})
    put(tmp_path / "log" / "0.parquet", {name: values[:30] for name, values in log().items()})
    texts = {name: list(map(str, values[30:])) for name, values in log().items()}
    put(tmp_path / "log" / "1.parquet", texts | {"click": [float(x) for x in texts["click"]]})
    _, report = make(tmp_path, "log", ITEMS.replace("items.parquet", "items") + SEEN)
    assert (sum(report.rows.values()), report.users, report.items, report.images) == (ROWS, 6, 10, 5)


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
        (lambda data: data.replace(b",", b"\t"), r"log.csv separates its columns by tabs.*sep='\\t'"),
        (lambda data: data.replace(b",", b";"), r"log.csv separates its columns by semicolons.*sep=';'"),
        (lambda data: data + b"1,2,soon,1\n", r"'time' of .*log.csv holds 'soon' in row 61; times are"),
        (lambda data: data + b"1,2,,1\n", r"'time' of .*log.csv is empty in row 61"),
        (lambda data: data + b"1,2,1700000900,maybe\n", r"'click' of .*log.csv holds 'maybe' in row 61"),
        (lambda data: data + b"1,2\n", r"log.csv cannot be read: .*Expected 4 columns, got 2"),
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
        (lambda data: b"PAR1" + data, r"log.csv is no CSV file"),
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
    assert sum(build(load_schema(tmp_path / "s.toml"), tmp_path / "out").rows.values()) == ROWS


def test_the_file_of_a_folder_is_named(tmp_path: Path) -> None:
    put(tmp_path / "log" / "a.csv", log())
    put(tmp_path / "log" / "b.csv", log(click=[1] * 9 + [7] * 51))
    with pytest.raises(BadInput, match=r"'click' of .*log/b.csv holds 7.* in row 10"):
        make(tmp_path, "log")
    put(tmp_path / "log" / "b.csv", {name: values for name, values in log().items() if name != "time"})
    with pytest.raises(BadInput, match=r"log/b.csv has no column 'time'"):
        make(tmp_path, "log")


def test_tables_that_match_nobody_are_said(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log())
    put(tmp_path / "users.parquet", {"user": [f"u{n}" for n in range(6)], "city": ["c"] * 6})
    with pytest.raises(
        BadInput, match=r"Not one user of .*log.parquet is in .*users.parquet \(the first here is '0', there 'u0'"
    ):
        make(tmp_path, more=ITEMS + USERS)
    put(tmp_path / "users.parquet", {"user": [0, 1, 2, 3], "city": ["c"] * 4})
    report = make(tmp_path, more=ITEMS + USERS)[1]
    assert (report.notes["users_without_a_row_in_the_user_table"], report.first) == (
        2,
        {"users_without_a_row_in_the_user_table": "4"},
    )
    put(tmp_path / "codes.parquet", {"image_id": [1, 2], "sid": ["a", "b"]})
    codes = '[images]\npath = "codes.parquet"\nimage = "image_id"\nids = ["sid"]\n'
    with pytest.raises(
        BadInput, match=r"Not one image of the items is in .*codes.parquet; the first that is not is 100"
    ):
        make(tmp_path, more=ITEMS + codes)


MANIFEST = ITEMS.replace('"image"\n', '"image"\nimage_manifest = "m.parquet"\n')


def test_names_of_images_may_have_folder_and_suffix(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log())
    names = ["SKU0.png", "a/b/SKU1.jpeg", "SKU2", "SKU.3.webp", "SKU.4", "gone.png", None, "SKU7", "SKU8", "SKU9"]
    keys = ["SKU0", "SKU1", "SKU2", "SKU.3", "SKU.4", "SKU6", "SKU7", "SKU8", "SKU9"]
    put(tmp_path / "items.parquet", items(image=names))
    put(tmp_path / "m.parquet", {"image_id": list(range(9)), "key": keys})
    samples, report = make(tmp_path, more=MANIFEST + SEEN)
    found = {int(row["raw_item_id"]): row["image_id"] for row in rows_in(samples)}
    assert found == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: -1, 6: -1, 7: 6, 8: 7, 9: 8}
    assert report.first == {"items_whose_image_is_not_in_the_manifest": "gone.png"}
    first = samples.image_manifest_hash
    put(tmp_path / "m.parquet", {"image_id": list(range(9)), "key": [f"other{n}" for n in range(9)]})
    with pytest.raises(
        BadInput, match=r"Not one image .* whose first key is 'other0'; the first that is not is 'SKU0.png'"
    ):
        make(tmp_path, more=MANIFEST + SEEN)
    put(tmp_path / "m.parquet", {"image_id": [float(n) for n in range(9)], "key": keys})
    assert make(tmp_path, more=MANIFEST + SEEN)[0].image_manifest_hash not in ("", first)


def test_a_label_that_is_the_same_everywhere_is_said(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log(click=[0] * ROWS))
    assert make(tmp_path, more=ITEMS)[1].notes == {"rows_that_all_have_one_label_click": ROWS}


def test_items_without_images_are_said(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log())
    put(tmp_path / "items.parquet", items(image=[NAN] * 10))
    samples, report = make(tmp_path)
    assert report.notes == {"items_of_which_not_one_has_an_image": 10}
    assert not samples.has_images


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("path", ["", 'path = "LOG"\nitem = "item"\n'])
def test_a_log_may_hold_the_columns_of_its_items_and_users(tmp_path: Path, kind: str, path: str) -> None:
    of_items = {name: [values[i] for i in log()["item"]] for name, values in items().items() if name != "item"}
    table = log(city=[f"c{user % 2}" for user in log()["user"]]) | of_items
    put(tmp_path / f"log.{kind}", table)
    put(tmp_path / "users.parquet", {"user": list(range(6)), "city": [f"c{n % 2}" for n in range(6)]})
    inside = ITEMS.replace('path = "items.parquet"\nitem = "item"\n', path.replace("LOG", f"log.{kind}"))
    of_users = USERS.replace('path = "users.parquet"\nuser = "user"\n', "")
    one, report = make(tmp_path, f"log.{kind}", inside + of_users + SEEN)
    assert report.notes == {}
    rows = rows_in(one)
    two, _ = make(tmp_path, f"log.{kind}", ITEMS + USERS + SEEN)
    assert rows == rows_in(two)
    assert one.vocabulary_hash == two.vocabulary_hash
    table["shop"][-1] = "new"
    put(tmp_path / f"log.{kind}", table)
    changed, report = make(tmp_path, f"log.{kind}", inside + SEEN)
    item = str(table["item"][-1])
    assert report.first == {"items_whose_columns_change_in_the_log_of_which_the_last_row_counts": item}
    new = changed.vocabulary.values["shop"].to_pylist().index("new") + 1
    assert all((row["shop"] == new) == (row["raw_item_id"] == item) for row in rows_in(changed))


def test_samples_are_not_built_over_others(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log())
    samples, _ = make(tmp_path)
    schema = load_schema(tmp_path / "s.toml")
    with pytest.raises(BadInput, match=r"out holds samples already. .*--overwrite"):
        build(schema, samples.folder)
    assert Samples(samples.folder).hash == samples.hash


def test_two_builds_do_not_share_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log())
    samples, _ = make(tmp_path)
    schema, refused = load_schema(tmp_path / "s.toml"), list[Any]()

    def second(what: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(BadInput, match=r"Another 'features build' is writing to") as error:
                build(schema, samples.folder, overwrite=True)
            refused.append(error)

    build(schema, samples.folder, progress=second, overwrite=True)
    assert len(refused) == 1
    assert Samples(samples.folder).hash == samples.hash
    assert not np.any([name.startswith(".") for name in os.listdir(samples.folder)])
