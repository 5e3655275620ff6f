"""Tables as people have them: types of ids, times and labels, tables that match nobody, logs of one file."""

from __future__ import annotations

import datetime
import io
import os
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from small_tables import (
    ISO,
    ITEMS,
    OWN,
    ROWS,
    SEEN,
    START,
    USERS,
    Table,
    items,
    log,
    make,
    put,
    rows_in,
)

from crossmedia.errors import BadInput
from crossmedia.features.cli import features
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples

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
        {"user": [big + n for n in range(6)], "city": [1.0, None, float("nan"), 1.0, 2.0, 3.0]},
    )
    put(tmp_path / "items.parquet", items(image=[None if n % 2 else float(n) for n in range(10)]))
    samples, report = make(tmp_path, f"log.{kind}", ITEMS + USERS + SEEN)
    assert samples.vocabulary.values["user_id"].to_pylist() == [str(big + n) for n in range(6)]
    assert sorted(samples.vocabulary.values["city"].to_pylist()) == ["1", "2", "3"]
    assert report.images == 5
    assert {row["image_id"] for row in rows_in(samples)} == {-1, 0, 2, 4, 6, 8}


NAN = float("nan")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (log(user=[2.0**53 + 2] * ROWS), r"'user' of .*log.parquet holds '?9007199254740994.0'? in row 1"),
        (log(item=[["a"]] * ROWS), r"'item' of .*log.parquet is of type list"),
        (log(user=[True] * ROWS), r"'user' of .*log.parquet is of type bool"),
        (log(user=[1.0] * 9 + [NAN] * 51), r"'user' of .*log.parquet is empty in row 10.*, or holds NaN"),
        (log(user=["u"] * 9 + ["nan"] * 51), r"'user' of .*log.parquet is empty in row 10"),
        (log(click=[1.0] * 9 + [NAN] * 51), r"label column 'click' of .*log.parquet is empty in row 10.* or holds NaN"),
        (log(click=[-1, 1] * 30), r"'click' of .*log.parquet holds -1.* in row 1.*; a label is 0 or 1"),
        (log(click=["yes", "no"] * 30), r"'click' of .*log.parquet holds 'yes' in row 1.*; a label is 0 or 1"),
        (log(click=[[1]] * ROWS), r"'click' of .*log.parquet is of type list"),
        (log(click=[None] * ROWS), r"'click' of .*log.parquet is empty in row 1"),
        (log(time=[START * 1000] * ROWS), r"'time' of .*log.parquet holds 1700000000000 in row 1.*milliseconds"),
        (log(time=[START * 10**6] * ROWS), r"looks like microseconds: divide by 1000000; times are whole seconds"),
        (log(time=[START * 10**9] * ROWS), r"looks like nanoseconds"),
        (log(time=[20231115145320] * ROWS), r"holds 20231115145320 in row 1.*; that looks like a date and time"),
        (log(time=[20231115, 20231201] * 30), r"holds 20231115 in row 1.*; that looks like a date without dashes"),
        (log(time=["2026/10/01"] * ROWS), r"'time' of .* holds '2026/10/01' in row 1.*2023-11-14 22:13:20"),
        (log(time=["2026-10-01 10:00:00 UTC"] * ROWS), r"holds '2026-10-01 10:00:00 UTC' in row 1.*; times are"),
        (log(time=["2026-02-30"] * ROWS), r"'time' of .*log.parquet cannot be read"),
        (log(time=[datetime.time(10)] * ROWS), r"'time' of .*log.parquet is of type time"),
        (log(time=[1.0] * 9 + [NAN] * 51), r"'time' of .*log.parquet is empty in row 10.*; every row needs a time"),
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


def test_a_log_and_behaviours_of_two_units_are_noticed(tmp_path: Path) -> None:
    done = log(action=["buy"] * ROWS)
    put(tmp_path / "log.parquet", log())
    for times, message in (
        ([START * 1000] * ROWS, "done.parquet holds 1700000000000 in row 1.*; that looks like milliseconds"),
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
    put(tmp_path / "done.parquet", done | {"user": [NAN] * ROWS})
    with pytest.raises(BadInput, match=r"No row of .*done.parquet has a user, an item and an action"):
        make(tmp_path, more=ITEMS + OWN)
    put(tmp_path / "done.parquet", done | {"time": [START - 10 + n for n in range(ROWS)]})
    whole = make(tmp_path, more=ITEMS + OWN)[1]
    assert (whole.mean_history > 0, whole.notes) == (True, {})
    put(
        tmp_path / "done.parquet",
        done | {"time": [START - 10] * ROWS, "action": [*done["action"][:-3], None, None, ""]},
    )
    assert make(tmp_path, more=ITEMS + OWN)[1].notes == {"behaviours_without_user_item_or_action": 3}


def test_behaviours_of_items_that_nobody_knows_are_said(tmp_path: Path) -> None:
    done = log(action=["buy"] * ROWS, time=[START - 10] * ROWS)
    put(tmp_path / "log.parquet", log())
    kind = "behaviours_of_items_that_are_not_in_the_log"
    for of_items, said in ((ITEMS, f"{kind}_nor_in_the_item_table"), ("", kind)):
        put(tmp_path / "done.parquet", done | {"item": ["x-7", *map(str, done["item"][1:])]})
        report = make(tmp_path, more=of_items + OWN)[1]
        assert (report.notes, report.first) == ({said: 1}, {said: "x-7"})
        put(tmp_path / "done.parquet", done | {"item": [f"x-{n}" for n in range(ROWS)]})
        assert make(tmp_path, more=of_items + OWN)[1].notes == {said: ROWS}


def test_samples_of_two_builds_are_not_mixed(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log())
    make(tmp_path)
    other = (tmp_path / "out" / "test.parquet").read_bytes()
    put(tmp_path / "users.parquet", {"user": list(range(6)), "city": ["a"] * 6})
    samples, _ = make(tmp_path, more=ITEMS + USERS + SEEN)
    (tmp_path / "out" / "test.parquet").write_bytes(other)
    for read in (
        lambda: samples.frame("test"),
        lambda: samples.rows("test"),
        lambda: list(samples.batches("test", 8)),
        lambda: samples.head("test", 3),
    ):
        with pytest.raises(BadInput, match=r"samples file .*test.parquet is of another build"):
            read()
    table = pq.read_table(io.BytesIO(other)).replace_schema_metadata(None)  # as another tool writes it
    pq.write_table(table, tmp_path / "out" / "test.parquet")
    with pytest.raises(BadInput, match=r"samples in .*out are damaged.*city"):
        samples.frame("test", ["city"])
    shown = CliRunner().invoke(features, ["inspect", str(tmp_path / "out")])
    assert isinstance(shown.exception, BadInput | SystemExit), shown.output
    assert samples.rows("train")


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


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_images_of_an_image_table_are_ids_in_any_spelling(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "log.parquet", log())
    codes = f'[images]\npath = "codes.{kind}"\nimage = "image_id"\nids = ["sid"]\n'
    for spelled in ("{:05d}", "{}", "{}.0"):
        put(tmp_path / f"codes.{kind}", {"image_id": [spelled.format(100 + n) for n in range(10)], "sid": ["a"] * 10})
        samples, report = make(tmp_path, more=ITEMS + codes)
        assert (report.notes, samples.vocabulary.values["sid"].to_pylist()) == ({}, ["a"])
    put(tmp_path / f"codes.{kind}", {"image_id": ["100", "00100"], "sid": ["a", "b"]})
    with pytest.raises(BadInput, match=r"'image_id' of .*codes.\w+ must name each row once; 100 in row 2.* was there"):
        make(tmp_path, more=ITEMS + codes)
    put(tmp_path / f"codes.{kind}", {"image_id": ["100", "front.jpg"], "sid": ["a", "b"]})
    with pytest.raises(BadInput, match=r"'image_id' of .* holds 'front.jpg' in row 2.*; image ids are whole numbers"):
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
    assert report.first == {"images_of_items_that_are_not_in_the_manifest": "gone.png"}
    assert len(samples.spaces["image"].names) == 4
    put(tmp_path / "m.parquet", {"image_id": list(range(9)), "key": [f"other{n}" for n in range(9)]})
    with pytest.raises(
        BadInput, match=r"Not one image .* whose first key is 'other0'; the first that is not is 'SKU0.png'"
    ):
        make(tmp_path, more=MANIFEST + SEEN)
    put(tmp_path / "m.parquet", {"image_id": [float(n) for n in range(9)], "key": keys})
    assert make(tmp_path, more=MANIFEST + SEEN)[0].spaces["image"].names == samples.spaces["image"].names


def test_names_in_another_unicode_form_are_said(tmp_path: Path) -> None:
    names = [f"Café-{n}.jpg" for n in range(10)]
    assert all(unicodedata.is_normalized("NFC", name) for name in names)
    apart = [unicodedata.normalize("NFD", name) for name in names]
    put(tmp_path / "log.parquet", log(item=[names[n * 7 % 10] for n in range(ROWS)]))
    put(tmp_path / "items.parquet", items(item=names, image=names))
    put(tmp_path / "m.parquet", {"image_id": list(range(10)), "key": [name.removesuffix(".jpg") for name in apart]})
    said = (
        r"Not one image .* 'Café-0.jpg'\. 10 of them are there in another Unicode form, NFC or NFD: 'Caf\\xe9-0.jpg' is"
    )
    with pytest.raises(BadInput, match=said):
        make(tmp_path, more=MANIFEST + SEEN)
    keys = [name.removesuffix(".jpg") for name in (*apart[:1], *names[1:])]
    put(tmp_path / "m.parquet", {"image_id": list(range(10)), "key": keys})
    report = make(tmp_path, more=MANIFEST + SEEN)[1]
    assert report.notes == {
        "images_of_items_that_are_not_in_the_manifest": 1,
        "names_of_images_that_the_manifest_has_in_another_Unicode_form_NFC_or_NFD": 1,
    }
    assert report.notes_in_words()[1] == (
        r"1 name of images that the manifest has in another Unicode form NFC or NFD: 'Caf\xe9-0.jpg' is there as "
        r"'Cafe\u0301-0'; write both alike, such as with unicodedata.normalize('NFC', name)"
    )
    put(tmp_path / "items.parquet", items(item=apart))
    with pytest.raises(
        BadInput, match=r"Not one item of .*log.parquet is in .* 10 of them are there in another Unicode"
    ):
        make(tmp_path)


def test_a_label_that_is_the_same_everywhere_is_said(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log(click=[0] * ROWS))
    assert make(tmp_path, more=ITEMS)[1].notes == {"rows_that_all_have_one_label_click": ROWS}


def test_empty_texts_are_empty_cells(tmp_path: Path) -> None:
    """The same table is the same samples as CSV, which has no other empty cell, and as Parquet."""
    put(tmp_path / "users.parquet", {"user": list(range(6)), "city": ["", "a", "", "a", "b", "b"]})
    table = items(image=["", *map(str, range(101, 110))], shop=["", *["s"] * 9], title=["", *["t"] * 9])
    put(tmp_path / "items.parquet", table)
    put(tmp_path / "items.csv", table)
    put(tmp_path / "log.parquet", log())
    found = []
    for kind in ("parquet", "csv"):
        samples, report = make(tmp_path, more=ITEMS.replace("items.parquet", f"items.{kind}") + USERS + SEEN)
        assert samples.vocabulary.values["shop"].to_pylist() == ["s"]
        assert sorted(samples.vocabulary.values["city"].to_pylist()) == ["a", "b"]
        found.append((rows_in(samples), report.images))
    assert found[0] == found[1]
    assert found[0][1] == 9
    put(tmp_path / "log.parquet", log(user=["", *["a"] * 59]))
    with pytest.raises(BadInput, match=r"'user' of .*log.parquet is empty in row 1"):
        make(tmp_path)


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
        build_samples(schema, samples.folder)
    assert Samples(samples.folder).hash == samples.hash


def test_a_log_is_not_written_over(tmp_path: Path) -> None:
    put(tmp_path / "out" / "train.parquet", log())
    before = (tmp_path / "out" / "train.parquet").read_bytes()
    with pytest.raises(BadInput, match=r"out/train.parquet is no file of samples, and would be written over"):
        make(tmp_path, "out/train.parquet")
    assert (tmp_path / "out" / "train.parquet").read_bytes() == before
    assert os.listdir(tmp_path / "out") == ["train.parquet"]


def test_two_builds_do_not_share_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", log())
    samples, _ = make(tmp_path)
    schema, refused = load_schema(tmp_path / "s.toml"), list[Any]()

    def second(what: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(BadInput, match=r"Another 'features build' is writing to") as error:
                build_samples(schema, samples.folder, overwrite=True)
            refused.append(error)

    build_samples(schema, samples.folder, progress=second, overwrite=True)
    assert len(refused) == 1
    assert Samples(samples.folder).hash == samples.hash
    assert not np.any([name.startswith(".") for name in os.listdir(samples.folder)])
