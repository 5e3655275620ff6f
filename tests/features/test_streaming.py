"""Logs in parts: the same samples however they are divided; negatives, held-out items, vocabularies that grow."""

from __future__ import annotations

import csv
import itertools
import os
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossmedia.errors import BadInput
from crossmedia.features.cli import features
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.splits import SPLITS
from crossmedia.features.writing import partitions
from crossmedia.features.writing.build import build_samples
from crossmedia.features.writing.report import BuildReport
from crossmedia.features.writing.target import WORK_FOLDER

HEAD = '[log]\npath = "LOG"\nuser = "user"\nitem = "item"\ntime = "time"\n'
LABELS = '[log.labels]\nlike = "stars >= 4"\n'
ITEMS = '[items]\npath = "items.csv"\nitem = "item"\nimage = "image"\nids = ["shop"]\ntext = ["title"]\n'
HISTORY = '[behaviours]\nfrom_log = { seen = "all" }\nmax_length = 5\n'
BY_TIME = '[split]\nmethod = "time"\ntest = 0.3\nvalidation = 0.2\n'
BY_USER = '[split]\nmethod = "user_tail"\ntest = 0.25\nvalidation = 0.2\n'
LEAVE_ONE_OUT = '[split]\nmethod = "leave_one_out"\n'
NEGATIVES = "[negatives]\nper_positive = 3\nseed = 7\n"
ON_SALE = "within_days = 1\n"
HELD_OUT = "hold_out_items = 0.3\nhold_out_seed = 2\n"

Log = list[tuple[str, str, int, int]]


def random_log(rows: int = 400, users: int = 17, items: int = 30, start: int = 1000) -> Log:
    rng = np.random.default_rng(rows)
    return [
        (f"u{rng.integers(users)}", f"i{rng.integers(items)}", start + n // 3, int(rng.integers(1, 6)))
        for n in range(rows)
    ]


def lay_out(folder: Path, log: Log, schema: str, items: int = 30, parts: int = 1) -> Path:
    """Write the log as a CSV file, or as a folder of Parquet files, and what else a schema names."""
    folder.mkdir(exist_ok=True)
    if parts == 1:
        with open(folder / "log.csv", "w", newline="") as file:
            csv.writer(file).writerows([("user", "item", "time", "stars"), *log])
    else:
        (folder / "log").mkdir(exist_ok=True)
        for number, rows in enumerate(np.array_split(np.arange(len(log)), parts)):
            columns = zip(*(log[row] for row in rows.tolist()), strict=True)
            table = pa.table(dict(zip(("user", "item", "time", "stars"), map(list, columns), strict=True)))
            pq.write_table(table, folder / "log" / f"part-{number}.parquet")
    with open(folder / "items.csv", "w", newline="") as file:
        table = [(f"i{n}", "" if n % 5 == 0 else 500 - n, f"s{n % 4}", f"Thing {n % 7}") for n in range(items)]
        csv.writer(file).writerows([("item", "image", "shop", "title"), *table])
    (folder / "samples.toml").write_text(schema.replace("LOG", "log.csv" if parts == 1 else "log"))
    return folder / "samples.toml"


def make(folder: Path, log: Log, schema: str, **options: Any) -> tuple[Samples, BuildReport]:
    parts = options.pop("parts", 1)
    report = build_samples(
        load_schema(lay_out(folder, log, schema, parts=parts)), folder / "out", overwrite=True, **options
    )
    return Samples(folder / "out"), report


def rows_of(samples: Samples) -> list[list[str]]:
    """Every row of every split as text, in an order of their own."""
    return [sorted(map(str, samples.frame(split).to_pylist())) for split in SPLITS]


@pytest.mark.parametrize(
    "schema",
    [
        HEAD + LABELS + ITEMS + HISTORY + BY_USER,
        HEAD + LABELS + ITEMS + HISTORY + BY_TIME,
        HEAD + NEGATIVES + ITEMS + HISTORY + BY_USER + HELD_OUT,
        HEAD + NEGATIVES + ON_SALE + ITEMS + HISTORY + BY_USER + HELD_OUT,
    ],
    ids=["user_tail", "time", "negatives", "on_sale"],
)
def test_samples_do_not_depend_on_how_the_log_is_divided(
    tmp_path: Path, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = random_log()
    whole, report = make(tmp_path / "whole", log, schema)
    assert report.partitions == 1
    monkeypatch.setattr(partitions, "ROWS", 90)
    divided, again = make(tmp_path / "divided", log, schema, parts=3)
    assert again.partitions > 3
    assert rows_of(divided) == rows_of(whole)
    assert divided.vocabulary_hash == whole.vocabulary_hash
    for name, counts in whole.vocabulary.counts.items():
        assert divided.vocabulary.counts[name].tolist() == counts.tolist()
    for name in ("rows", "positive_rate", "users", "items", "images", "mean_history", "unknown", "notes"):
        assert getattr(again, name) == getattr(report, name), name


def test_columns_of_the_impression_beside_drawn_negatives_are_noted(tmp_path: Path) -> None:
    """The price that the positive was bought for stands at each of its negatives: the label could be read off it.

    What does not depend on the item, such as the stars of this log, tells nothing.
    """
    kind = "negatives_that_have_the_impression_columns_of_their_positive"
    rest = ITEMS + HISTORY + BY_USER
    _, report = make(tmp_path / "plain", random_log(), HEAD + NEGATIVES + rest)
    assert kind not in report.notes
    _, report = make(tmp_path / "labels", random_log(), HEAD + 'numbers = ["stars"]\n' + LABELS + rest)
    assert kind not in report.notes
    _, report = make(tmp_path / "stars", random_log(), HEAD + 'numbers = ["stars"]\n' + NEGATIVES + rest)
    assert kind not in report.notes
    priced = [(user, item, time, int(item[1:]) % 7) for user, item, time, _ in random_log()]
    samples, report = make(tmp_path / "price", priced, HEAD + 'numbers = ["stars"]\n' + NEGATIVES + rest)
    rows = [row for split in SPLITS for row in samples.frame(split).to_pylist()]
    assert report.notes[kind] == sum(row["label"] == 0 for row in rows) > 0
    noted = next(text for text in report.notes_in_words() if "impression columns" in text)
    assert "of their positive: stars; a column that differs from item to item" in noted


def test_a_log_of_more_partitions_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "ROWS", 10)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    already = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (already + 60, limits[1]))
        _, report = make(tmp_path, random_log(2000, users=300), HEAD + LABELS + BY_USER)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert report.partitions > 100
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 20))
    with pytest.raises(BadInput, match="takes 257 open files; the system allows 20"):
        partitions.Partitions(tmp_path, "log", 1)


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    schema = HEAD + NEGATIVES + ITEMS + HISTORY + BY_USER
    first, _ = make(tmp_path / "a", random_log(), schema)
    second, _ = make(tmp_path / "b", random_log(), schema)
    other, _ = make(tmp_path / "c", random_log(), schema.replace("seed = 7", "seed = 8"))
    assert first.hash == second.hash != other.hash


logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=30, max_size=60)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=logs)
def test_a_negative_is_never_an_item_that_its_user_has(tmp_path: Path, pairs: list[tuple[int, int]]) -> None:
    log = [(f"u{user}", f"i{item}", 1000 + n, 5) for n, (user, item) in enumerate(pairs)]
    try:
        samples, report = make(tmp_path, log, HEAD + NEGATIVES + BY_USER)
    except BadInput as error:
        if "leaves no row" not in str(error):
            raise
        return
    mine: dict[str, set[str]] = {}
    for user, item, _, _ in log:
        mine.setdefault(user, set()).add(item)
    every = {item for _, item, _, _ in log}
    at = {time: (user, item) for user, item, time, _ in log}
    short = 0
    for split in SPLITS:
        groups = itertools.groupby(samples.frame(split).to_pylist(), key=lambda row: row["timestamp"])
        for time, found in groups:
            rows = list(found)
            user, item = at[time]
            assert [row["label"] for row in rows] == [1] + [0] * (len(rows) - 1)
            assert rows[0]["raw_item_id"] == item
            negatives = [row["raw_item_id"] for row in rows[1:]]
            assert len(set(negatives)) == len(negatives)
            assert not set(negatives) & mine[user]
            assert len(negatives) == min(3, len(every - mine[user]))
            short += 3 - len(negatives)
    assert report.notes.get("negatives_that_a_user_has_no_item_left_for", 0) == short


def test_negatives_are_drawn_evenly(tmp_path: Path) -> None:
    log = [(f"u{n // 10}", f"i{n % 10 + 10 * (n // 10 % 3)}", 1000 + n, 5) for n in range(6000)]
    samples, _ = make(tmp_path, log, HEAD + NEGATIVES + BY_USER)
    drawn = Counter(
        row["raw_item_id"] for split in SPLITS for row in samples.frame(split).to_pylist() if not row["label"]
    )
    assert len(drawn) == 30
    expected = 3 * len(log) / 30
    assert all(abs(count - expected) < 6 * expected**0.5 for count in drawn.values())


DAY_S = 86_400


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=logs, within=st.integers(1, 3))
def test_negatives_are_what_others_have_within_some_days(
    tmp_path: Path, pairs: list[tuple[int, int]], within: int
) -> None:
    """Against a plain search, from days before 1970 on; of two items that were on sale each is drawn."""
    days = [n // 4 - 5 for n in range(len(pairs))]
    log = [(f"u{u}", f"i{i}", days[n] * DAY_S + n % 4 * 20_000, 5) for n, (u, i) in enumerate(pairs)]
    try:
        samples, _ = make(tmp_path, log, HEAD + NEGATIVES + f"within_days = {within}\n" + BY_USER)
    except BadInput as error:
        if "leaves no row" not in str(error):
            raise
        return
    owner = {time: user for user, _, time, _ in log}
    for split in SPLITS:
        for time, found in itertools.groupby(samples.frame(split).to_pylist(), key=lambda row: row["timestamp"]):
            mine = {item for user, item, _, _ in log if user == owner[time]}
            there = {item for _, item, at, _ in log if abs(at // DAY_S - time // DAY_S) <= within}
            drawn = [row["raw_item_id"] for row in found][1:]
            assert set(drawn) <= there - mine
            assert len(drawn) == len(set(drawn)) == min(3, len(there - mine))


def test_an_item_that_many_buy_is_no_negative_more_often(tmp_path: Path) -> None:
    """Ten items are on sale each day; i0 is bought nine times as often as each of the others, and drawn as often."""
    log = [(f"u{n}", "i0" if n % 2 else f"i{1 + n // 2 % 9}", 600 * n, 5) for n in range(6000)]
    samples, _ = make(tmp_path, log, HEAD + NEGATIVES + "within_days = 2\n" + BY_TIME)
    drawn = Counter(
        row["raw_item_id"] for split in SPLITS for row in samples.frame(split).to_pylist() if not row["label"]
    )
    # A buyer of i0 draws of the other nine; a buyer of another, of nine too, i0 among them.
    expected = {f"i{n}": 3 * 3000 / 9 + (3 * 3000 * 8 / 9 / 9 if n else 0) for n in range(10)}
    assert all(abs(drawn[item] - count) < 6 * count**0.5 for item, count in expected.items())


tied_logs = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1000, 1012), st.integers(1, 5)), min_size=4, max_size=50
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=tied_logs, negatives=st.booleans())
def test_leave_one_out_equals_a_plain_split(tmp_path: Path, log: list[Any], negatives: bool) -> None:
    rows = [(f"u{user}", f"i{item}", time, stars) for user, item, time, stars in log]
    expected: dict[str, list[tuple[Any, ...]]] = {split: [] for split in SPLITS}
    users = list(dict.fromkeys(row[0] for row in rows))
    for user in users:
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])  # ties stay in the log's order
        if len(own) > 1:
            expected["test"].append(own.pop())
        if len(own) > 1:
            expected["validation"].append(own.pop())
        expected["train"] += own
    schema = HEAD + (NEGATIVES if negatives else LABELS) + HISTORY + LEAVE_ONE_OUT
    if not expected["validation"]:
        with pytest.raises(BadInput, match="leaves no row for validation"):
            make(tmp_path, rows, schema)
        return
    samples, _ = make(tmp_path, rows, schema)
    names = samples.vocabulary.values["user_id"].to_pylist()  # every user has a training row
    for split in SPLITS:
        found = samples.frame(split).to_pylist()
        positives = [row for row in found if row["label"]] if negatives else found
        keys = [(names[row["user_id"] - 1], row["raw_item_id"], row["timestamp"]) for row in positives]
        assert sorted(keys) == sorted(row[:3] for row in expected[split])
        for row, group in itertools.groupby(found, key=lambda row: (row["user_id"], row["timestamp"])):
            assert next(group)["label"] or not negatives, f"the negatives of {row} stand behind their positive"


@pytest.mark.parametrize("key", ["test", "validation"])
def test_leave_one_out_takes_no_shares(tmp_path: Path, key: str) -> None:
    schema = lay_out(tmp_path, [("u1", "i1", 1000, 3)], HEAD + LABELS + LEAVE_ONE_OUT + f"{key} = 0.2\n")
    with pytest.raises(BadInput, match=rf"\[split\]: {key} is a share, and leave_one_out takes one row .* Leave {key}"):
        build_samples(load_schema(schema), tmp_path / "out")


def test_items_held_out_are_in_test_rows_only(tmp_path: Path) -> None:
    log = random_log()
    samples, report = make(tmp_path, log, HEAD + LABELS + ITEMS + HISTORY + BY_USER + HELD_OUT)
    everything, plain = make(tmp_path / "plain", log, HEAD + LABELS + ITEMS + HISTORY + BY_USER)
    out = {row["raw_item_id"] for row in samples.frame("test").to_pylist() if row["held_out"]}
    assert 0 < len(out) < 30
    assert report.rows["test"] == plain.rows["test"], "the test part is the same"
    for split in ("train", "validation"):
        rows = samples.frame(split).to_pylist()
        assert rows
        assert not {row["raw_item_id"] for row in rows} & out
        theirs = [row for row in everything.frame(split).to_pylist() if row["raw_item_id"] not in out]
        assert len(rows) == len(theirs)
    assert not set(samples.vocabulary.values["item_id"].to_pylist()) & out
    assert all(0 not in row["hist_item_id"] for row in samples.frame("train").to_pylist())
    dropped = report.notes["rows_dropped_because_their_item_is_held_out"]
    assert dropped == sum(plain.rows.values()) - sum(report.rows.values())
    assert not everything.has_held_out


def test_extended_vocabularies_keep_every_place(tmp_path: Path) -> None:
    schema = HEAD + LABELS + ITEMS + HISTORY + BY_USER
    old, _ = make(tmp_path / "old", random_log(200, items=12), schema)
    new, report = make(tmp_path / "new", random_log(400, users=25, start=5000), schema, extend=tmp_path / "old" / "out")
    for name, values in old.vocabulary.values.items():
        assert new.vocabulary.values[name].to_pylist()[: len(values)] == values.to_pylist()
    assert len(new.vocabulary.values["item_id"]) > len(old.vocabulary.values["item_id"])
    assert (old.extends, new.extends) == ("", old.vocabulary_hash)
    images = new.vocabulary.values["image_id"].to_pylist()
    assert images != sorted(images, key=int), "new images come behind the old ones"
    for batch in new.batches("train", 64):
        keys = batch.items.vectors["image"]
        found = [images[place - 1] for place in keys.unique_index.tolist() if place]
        assert found == [str(i) for i, place in zip(keys.unique, keys.unique_index, strict=True) if place]
        assert len(found) == len(keys.unique)
    train = new.frame("train")["raw_item_id"].to_pylist()
    names, counts = new.vocabulary.values["item_id"].to_pylist(), new.item_counts()
    assert all(counts[place] == train.count(name) for place, name in enumerate(names, 1))
    assert report.unknown["train"]["item_id"] == 0.0
    with pytest.raises(BadInput, match="is no samples folder"):
        make(tmp_path / "x", random_log(), schema, extend=tmp_path)


def test_images_may_be_names_that_a_manifest_gives_ids(tmp_path: Path) -> None:
    schema = HEAD + LABELS + ITEMS.replace('"image"\n', '"title"\nimage_manifest = "m.parquet"\n') + BY_USER
    known = pa.table({"image_id": [40, 41, 42], "key": ["Thing 0", "Thing 1", "Thing 2"]})
    (tmp_path / "m").mkdir()
    pq.write_table(known, tmp_path / "m" / "m.parquet")
    samples, report = make(tmp_path / "m", random_log(), schema)
    found = {(int(row["raw_item_id"][1:]) % 7, row["image_id"]) for row in samples.frame("test").to_pylist()}
    assert found <= {(0, 40), (1, 41), (2, 42), (3, -1), (4, -1), (5, -1), (6, -1)}
    assert {image for _, image in found} == {40, 41, 42, -1}
    assert any("manifest" in kind for kind in report.notes), report.notes


def test_names_of_images_may_be_whole_numbers(tmp_path: Path) -> None:
    schema = HEAD + LABELS + ITEMS.replace('"image"\n', '"photo"\nimage_manifest = "m.parquet"\n') + BY_USER
    path = lay_out(tmp_path, random_log(), schema.replace("items.csv", "items.parquet"))
    table = {"item": [f"i{n}" for n in range(30)], "photo": list(range(30)), "shop": ["s"] * 30, "title": [""] * 30}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    pq.write_table(pa.table({"image_id": [70, 71, 72], "key": ["3", "4", "front"]}), tmp_path / "m.parquet")
    build_samples(load_schema(path), tmp_path / "out")
    images = {row["raw_item_id"]: row["image_id"] for row in Samples(tmp_path / "out").frame("train").to_pylist()}
    assert (images["i3"], images["i4"], images["i5"]) == (70, 71, -1)


def test_values_keep_their_spelling(tmp_path: Path) -> None:
    log = [(("007", "7", "NA", "u,1")[n % 4], f"{n % 5:03d}", 1000 + n, n % 5 + 1) for n in range(80)]
    samples, report = make(tmp_path, log, HEAD + LABELS + HISTORY + BY_USER)
    assert sorted(samples.vocabulary.values["user_id"].to_pylist()) == ["007", "7", "NA", "u,1"]
    assert sorted(samples.vocabulary.values["item_id"].to_pylist()) == ["000", "001", "002", "003", "004"]
    assert report.users == 4


def test_a_number_that_turns_up_late_is_read(tmp_path: Path) -> None:
    """Readers that guess a column's type from its first block fail on the first rating of 4.5."""
    log: list[Any] = [(f"u{n % 50}", f"i{n % 30}", 1000 + n, 4) for n in range(300_000)]
    log[-1] = (*log[-1][:3], 4.5)
    _, report = make(tmp_path, log, HEAD + LABELS + BY_USER)
    assert sum(report.rows.values()) == 300_000
    assert report.positive_rate["like"] == 1.0


def test_rows_of_values_that_training_does_not_know_are_counted(tmp_path: Path) -> None:
    log = [(f"u{n % 4}", f"i{n % 5 + (20 if n >= 150 else 0)}", 1000 + n, n % 5 + 1) for n in range(200)]
    samples, report = make(tmp_path, log, HEAD + LABELS + ITEMS + BY_TIME)
    rows = samples.frame("test").to_pylist()
    unknown = sum(row["item_id"] == 0 for row in rows) / len(rows)
    assert report.unknown["test"]["item_id"] == unknown > 0.5
    assert report.unknown["train"]["item_id"] == 0
    done = CliRunner().invoke(features, ["build", str(tmp_path / "samples.toml"), f"--out={tmp_path / 'o'}"])
    assert f"item_id {unknown:.1%}" in done.output


def test_a_build_that_fails_leaves_the_samples_that_were_there(tmp_path: Path) -> None:
    schema = HEAD + LABELS + ITEMS + BY_USER
    samples, _ = make(tmp_path, random_log(), schema)
    (samples.folder / WORK_FOLDER).mkdir()  # what a killed build left
    (samples.folder / WORK_FOLDER / "log-0000.arrow").write_bytes(b"half")
    log = random_log()
    with open(tmp_path / "log.csv", "a") as file:
        file.write("u1,i1,soon,3\n")
    with pytest.raises(BadInput, match=r"'time' of .*log.csv"):
        build_samples(load_schema(tmp_path / "samples.toml"), samples.folder, overwrite=True)
    assert not (samples.folder / WORK_FOLDER).exists()
    assert rows_of(Samples(samples.folder)) == rows_of(samples)
    again, _ = make(tmp_path, log, schema)
    assert again.hash == samples.hash


def test_a_build_that_is_killed_while_files_change_places_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = HEAD + LABELS + ITEMS + BY_USER
    make(tmp_path, random_log(), schema)
    moves = itertools.count()
    move = os.replace

    def dies(source: Path, target: Path) -> None:
        if next(moves) == 2:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, random_log(300), schema)
    with pytest.raises(BadInput, match="is no samples folder"):
        Samples(tmp_path / "out")
    monkeypatch.undo()
    again, _ = make(tmp_path, random_log(), schema)
    assert sum(again.rows(split) for split in SPLITS) == 400


@pytest.mark.data
def test_amazon_sequences_need_no_images(test_data: Path, tmp_path: Path) -> None:
    from examples.amazon.prepare import prepare

    source = test_data / "amazon_sequences"
    made = prepare(source / "Beauty.txt", source / "Beauty_item2attributes.json", tmp_path / "beauty")
    assert made == (22_363, 12_101, 198_502)
    report = build_samples(load_schema(tmp_path / "beauty" / "samples.toml"), tmp_path / "samples")
    assert sum(report.rows.values()) == 2 * 198_502
    assert report.positive_rate == {"positive": 0.5}
    samples = Samples(tmp_path / "samples")
    assert samples.image_vocabulary_size == 0
    assert samples.text_columns["attributes"] > 100
    batch = next(samples.batches("test", 512))
    assert batch.items.vectors == {}
    assert batch.history.values.size > 512


IMAGES = '[images]\npath = "codes.parquet"\nimage = "image_id"\nids = ["sid_1", "sid_2"]\n'


def test_ids_of_images_are_ids_of_their_items(tmp_path: Path) -> None:
    """As semantic ids are: an image may have none, and an item no image."""
    images = list(range(480, 497))
    codes = pa.table(
        {"image_id": images, "sid_1": [f"{i % 2}" for i in images], "sid_2": [f"{i % 2}-{i}" for i in images]}
    )
    folder = tmp_path / "codes"
    folder.mkdir()
    pq.write_table(codes, folder / "codes.parquet")
    samples, report = make(folder, random_log(), HEAD + LABELS + ITEMS + IMAGES + BY_USER)
    code_of = {row["image_id"]: row for row in codes.to_pylist()}
    seen = set()
    for row in samples.frame("test").to_pylist():
        code = code_of.get(row["image_id"])
        for name in ("sid_1", "sid_2"):
            place = row[name]
            found = samples.vocabulary.values[name][place - 1].as_py() if place else None
            assert found == (code[name] if code else None)
            seen.add(found)
    assert len(seen) > 3
    assert "items_whose_image_is_not_in_the_image_table" in report.notes
    assert {"sid_1", "sid_2"} <= set(samples.id_columns)


def test_a_table_of_images_needs_images(tmp_path: Path) -> None:
    schema = HEAD + LABELS + ITEMS.replace('image = "image"\n', "") + IMAGES + BY_USER
    (tmp_path / "samples.toml").write_text(schema)
    with pytest.raises(BadInput, match="no image column"):
        load_schema(tmp_path / "samples.toml")
