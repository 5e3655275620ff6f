from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unfolded import first_image, unfolded

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.splits import SPLITS
from crossmedia.features.writing.build import build_samples

SCHEMA = """
[log]
path = "impressions.csv"
user = "user"
item = "item"
time = "time"
[log.labels]
click = "click"
good = "stars >= 4"
[items]
path = "items.csv"
item = "item"
image = "image"
ids = ["shop"]
text = ["title"]
[users]
path = "users.csv"
user = "user"
ids = ["city"]
[behaviours]
path = "behaviours.csv"
user = "user"
item = "item"
time = "time"
action = "action"
max_length = 3
[split]
method = "time"
test = 0.3
validation = 0.2
"""


def write(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def make_logs(folder: Path, impressions: list[Any], behaviours: list[Any], schema: str = SCHEMA) -> Path:
    write(folder / "impressions.csv", ["user", "item", "time", "click", "stars"], impressions)
    write(folder / "behaviours.csv", ["user", "item", "time", "action"], behaviours)
    rows = [(f"i{i}", "" if i % 4 == 0 else 100 + i, f"s{i % 3}", f"Nice-Thing {i}, red!") for i in range(10)]
    write(folder / "items.csv", ["item", "image", "shop", "title"], rows)
    write(folder / "users.csv", ["user", "city"], [(f"u{i}", f"c{i % 2}") for i in range(4)])
    (folder / "samples.toml").write_text(schema)
    return folder / "samples.toml"


users, item_numbers, times = st.integers(0, 3), st.integers(0, 9), st.integers(1000, 1030)
impression_lists = st.lists(
    st.tuples(users, item_numbers, times, st.integers(0, 1), st.integers(1, 5)), min_size=12, max_size=40
)
behaviour_lists = st.lists(
    st.tuples(users, item_numbers, times, st.sampled_from(["click", "buy"])), min_size=1, max_size=50
)


def decoded(samples: Samples, name: str, place: int) -> str | None:
    return samples.vocabulary.values[name][place - 1].as_py() if place else None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(impressions=impression_lists, behaviours=behaviour_lists)
def test_samples_equal_a_plain_builder(tmp_path: Path, impressions: list[Any], behaviours: list[Any]) -> None:
    log = [(f"u{u}", f"i{i}", t, c, s) for u, i, t, c, s in impressions]
    done = [(f"u{u}", f"i{i}", t, a) for u, i, t, a in behaviours]
    if len({t for _, _, t, _, _ in log}) < 8:
        return  # too few seconds for three parts
    try:
        build_samples(load_schema(make_logs(tmp_path, log, done)), tmp_path / "out", overwrite=True)
    except BadInput as error:
        if not re.search("leaves no row|Not one (user|row) of .*behaviours.csv", str(error)):
            raise
        return
    samples = Samples(tmp_path / "out")
    found = [(split, row) for split in SPLITS for row in samples.frame(split).to_pylist()]
    assert len(found) == len(log)
    boundaries = {split: [row["timestamp"] for s, row in found if s == split] for split in SPLITS}
    assert max(boundaries["train"]) < min(boundaries["validation"])
    assert max(boundaries["validation"]) < min(boundaries["test"])
    users = list(dict.fromkeys(row[0] for row in log))  # rows stand user by user, users in the order of the log
    log.sort(key=lambda row: users.index(row[0]))
    by_time = {split: [r for r in log if min(ts) <= r[2] <= max(ts)] for split, ts in boundaries.items()}
    for split in SPLITS:
        for raw, row in zip(by_time[split], [r for s, r in found if s == split], strict=True):
            user, item, at, click, stars = raw
            assert (row["timestamp"], row["label"], row["label_good"]) == (at, click, int(stars >= 4))
            assert row["raw_item_id"] == item
            assert decoded(samples, "user_id", row["user_id"]) in (user, None)
            assert decoded(samples, "item_id", row["item_id"]) in (item, None)
            assert row["image_id"] == (-1 if int(item[1:]) % 4 == 0 else 100 + int(item[1:]))
            earlier = sorted((b for b in done if b[0] == user and b[2] < at), key=lambda b: b[2])[-3:]
            assert row["hist_time"] == [b[2] for b in earlier]
            assert all(t < at for t in row["hist_time"]), "nothing of the impression's own second or later"
            for b, place, action, image in zip(
                earlier, row["hist_item_id"], row["hist_action"], row["hist_image_id"], strict=True
            ):
                assert decoded(samples, "item_id", place) in (b[1], None)
                assert decoded(samples, "action", action) in (b[3], None)
                assert image == (-1 if int(b[1][1:]) % 4 == 0 else 100 + int(b[1][1:]))
    train_items = {r[1] for r in by_time["train"]} | {
        decoded(samples, "item_id", p) for s, row in found if s == "train" for p in row["hist_item_id"]
    }
    assert set(samples.vocabulary.values["item_id"].to_pylist()) == train_items
    counts = samples.item_counts()
    for place, name in enumerate(samples.vocabulary.values["item_id"].to_pylist(), start=1):
        assert counts[place] == sum(r[1] == name for r in by_time["train"])


def regular_logs(rows: int = 60) -> tuple[list[Any], list[Any]]:
    impressions = [(f"u{n % 4}", f"i{n * 7 % 10}", 1000 + 10 * n, int(n % 3 == 0), n % 5 + 1) for n in range(rows)]
    behaviours = [(f"u{n % 4}", f"i{n * 3 % 10}", 1005 + 10 * n, "click" if n % 2 else "buy") for n in range(rows)]
    return impressions, behaviours


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    build_samples(load_schema(make_logs(tmp_path, *regular_logs())), tmp_path / "out")
    return Samples(tmp_path / "out")


@pytest.mark.parametrize("batch_size", [1, 7, 18, 1000])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches_hold_every_row_once_and_equal_the_file(samples: Samples, batch_size: int, seed: int | None) -> None:
    plain = {row["timestamp"]: row for row in samples.frame("train").to_pylist()}
    seen = []
    for batch in samples.batches("train", batch_size, shuffle_seed=seed):
        keys = batch.items.vectors["image"]
        assert (np.diff(keys.unique) > 0).all()
        assert (np.diff(batch.items.rows) > 0).all()
        assert sorted({*batch.target.tolist(), *batch.history.values.tolist()}) == list(range(len(batch.items)))
        for found in unfolded(batch):
            row = plain[found["timestamp"]]
            seen.append(row["timestamp"])
            assert (found["click"], found["good"]) == (row["label"], row["label_good"])
            assert first_image(found["vectors image"]) == row["image_id"]
            assert [first_image(one) for one in found["hist_vectors image"]] == row["hist_image_id"]
            for name in ("user_id", "city", "item_id", "shop", "title"):
                assert found[name] == row[name]
            for name in ("hist_item_id", "hist_shop", "hist_action", "hist_time"):
                assert found[name] == row[name]
        for image, place in zip(keys.unique, keys.unique_index, strict=True):
            assert decoded(samples, "image_id", int(place)) in (str(image), None)
    assert sorted(seen) == sorted(plain)
    if seed is not None:
        other = [
            int(t)
            for batch in samples.batches("train", batch_size, shuffle_seed=seed, epoch=1)
            for t in batch.timestamp
        ]
        assert other != seen
        again = [int(t) for batch in samples.batches("train", batch_size, shuffle_seed=seed) for t in batch.timestamp]
        assert again == seen


def test_user_tail_takes_the_last_rows_of_each_user(tmp_path: Path) -> None:
    schema = SCHEMA.replace('"time"\ntest = 0.3\nvalidation = 0.2', '"user_tail"\ntest = 0.2\nvalidation = 0.1')
    impressions, behaviours = regular_logs(80)
    report = build_samples(load_schema(make_logs(tmp_path, impressions, behaviours, schema)), tmp_path / "out")
    assert report.rows == {"train": 56, "validation": 8, "test": 16}
    times = {s: Samples(tmp_path / "out").frame(s, ["timestamp"])["timestamp"].to_pylist() for s in SPLITS}
    for user in range(4):
        own = [1000 + 10 * n for n in range(80) if n % 4 == user]
        assert [t for t in times["test"] if t in own] == own[16:]
        assert [t for t in times["validation"] if t in own] == own[14:16]


def test_histories_can_come_from_the_log(tmp_path: Path) -> None:
    start, end = SCHEMA.index("[behaviours]"), SCHEMA.index("[split]")
    rules = '[behaviours]\nfrom_log = { liked = "stars >= 4", poor = "stars < 2" }\n'
    impressions, behaviours = regular_logs()
    build_samples(
        load_schema(make_logs(tmp_path, impressions, behaviours, SCHEMA[:start] + rules + SCHEMA[end:])), tmp_path / "o"
    )
    samples = Samples(tmp_path / "o")
    assert sorted(samples.vocabulary.values["action"].to_pylist()) == ["liked", "poor"]
    for row in samples.frame("test").to_pylist():
        user = impressions[(row["timestamp"] - 1000) // 10][0]
        earlier = [r for r in impressions if r[0] == user and r[2] < row["timestamp"] and (r[4] >= 4 or r[4] < 2)]
        assert row["hist_time"] == [r[2] for r in earlier]
        names = [decoded(samples, "action", place) for place in row["hist_action"]]
        assert names == ["liked" if r[4] >= 4 else "poor" for r in earlier]


def break_file(folder: Path, name: str, old: str, new: str) -> None:
    file = folder / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "samples.toml",
            'item = "item"\ntime',
            'item = "itm"\ntime',
            r"impressions.csv has no column 'itm'; .*user, item, ti",
        ),
        ("samples.toml", 'path = "users.csv"', 'path = "nobody.csv"', r"nobody.csv does not exist"),
        ("samples.toml", "[users]", "[user]", r"the key 'user' is unknown. Did you mean 'users'"),
        (
            "samples.toml",
            "max_length = 3",
            "max_len = 3",
            r"\[behaviours\]: the key 'max_len' is unknown.*'max_length'",
        ),
        ("samples.toml", '"stars >= 4"', '"stars => 4"', r"labels.good is 'stars => 4'; write a rule"),
        ("samples.toml", "test = 0.3", "test = 1.3", r"must be above 0 and below 1"),
        ("samples.toml", "test = 0.3", "test = nan", r"must be above 0 and below 1"),
        ("samples.toml", '"time"\ntest', '"times"\ntest', r"method is 'times'"),
        ("samples.toml", "[split]", "[split", r"not valid TOML"),
        (
            "impressions.csv",
            "u0,i0,1000,1,",
            "u0,i0,1000,7,",
            r"'click' of .* holds 7 in row 1.*; a label is 0 or 1.*rule",
        ),
        ("impressions.csv", "u0,i0,1000,", ",i0,1000,", r"'user' of .*impressions.csv is empty in row 1"),
        (
            "impressions.csv",
            "u0,i0,1000,",
            "u0,i0,soon,",
            r"'time' of .* holds 'soon' in row 1.*; times are whole seconds",
        ),
        (
            "items.csv",
            "i1,101",
            "i1,photo.jpg",
            r"'image' of .*items.csv holds 'photo.jpg' in row 2.*; image ids are whole",
        ),
        ("items.csv", "i1,101", "i0,101", r"'item' of .*items.csv must name each row once"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    schema = make_logs(tmp_path, *regular_logs())
    break_file(tmp_path, name, old, new)
    with pytest.raises(BadInput, match=message):
        build_samples(load_schema(schema), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('["shop"]', '["label"]', "label"),
        ('["city"]', '["label_good"]', "label_good"),
        ('["shop"]', '["image_id"]', "image_id"),
        ('["shop"]', '["time"]', "time"),  # hist_time is when a behaviour was
        ('["title"]', '["raw_item_id"]', "raw_item_id"),
        ('["city"]', '["action"]', "action"),
        ('["city"]', '["hist_shop"]', "hist_shop"),
        ("[split]", "[split]\nhold_out_items = 0.2", "held_out"),
    ],
)
def test_a_column_that_would_be_written_over_another_is_said(tmp_path: Path, old: str, new: str, name: str) -> None:
    text = SCHEMA.replace('["city"]', '["held_out"]') if name == "held_out" else SCHEMA
    assert old in text
    (tmp_path / "samples.toml").write_text(text.replace(old, new))
    with pytest.raises(BadInput, match=f"samples have a column '{name}' of their own"):
        load_schema(tmp_path / "samples.toml")
    # Without images, behaviours and items held out these are names like any other.
    log = '[log]\npath = "l.csv"\nuser = "u"\nitem = "i"\ntime = "t"\nlabels = { click = "c" }\n'
    users = '[users]\npath = "u.csv"\nuser = "u"\nids = ["action", "held_out", "time", "image_id"]\n'
    (tmp_path / "samples.toml").write_text(log + users)
    assert load_schema(tmp_path / "samples.toml").of_users.ids == ("action", "held_out", "time", "image_id")


def test_a_column_used_twice_is_said(tmp_path: Path) -> None:
    (tmp_path / "samples.toml").write_text(SCHEMA.replace('["title"]', '["shop"]'))
    with pytest.raises(BadInput, match="uses the column 'shop' twice"):
        load_schema(tmp_path / "samples.toml")


def test_empty_logs_are_said(tmp_path: Path) -> None:
    schema = make_logs(tmp_path, *regular_logs())
    (tmp_path / "impressions.csv").write_text("user,item,time,click,stars\n")
    with pytest.raises(BadInput, match=r"impressions.csv has no rows"):
        build_samples(load_schema(schema), tmp_path / "out")
    (tmp_path / "impressions.csv").write_text("")
    with pytest.raises(BadInput, match=r"impressions.csv is empty"):
        build_samples(load_schema(schema), tmp_path / "out")


def test_item_tables_of_other_items_are_said(tmp_path: Path) -> None:
    schema = make_logs(tmp_path, *regular_logs())
    rows = (tmp_path / "items.csv").read_text().splitlines()
    (tmp_path / "items.csv").write_text("\n".join([rows[0], *("x" + row for row in rows[1:])]))
    with pytest.raises(BadInput, match=r"Not one item of .*impressions.csv is in .*items.csv"):
        build_samples(load_schema(schema), tmp_path / "out")


def test_batches_of_no_rows_are_refused(samples: Samples) -> None:
    for size in (0, -1):
        with pytest.raises(BadInput, match=f"batch_size is {size}"):
            next(samples.batches("train", size))


def test_a_folder_without_samples_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no samples folder"):
        Samples(tmp_path)


def test_commands(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from crossmedia.features.cli import features

    schema, out = make_logs(tmp_path, *regular_logs()), tmp_path / "out"
    runner = CliRunner()
    built = runner.invoke(features, ["build", str(schema), "--out", str(out), "--json"])
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["rows"] == {"train": 30, "validation": 12, "test": 18}
    again = ["build", str(schema), "--out", str(out)]
    refused = runner.invoke(features, again)
    assert refused.exit_code == 2
    assert "holds samples already. Give another --out, or --overwrite" in refused.output
    (tmp_path / "users.csv").write_text("user,city\nu0,上海\n")
    replaced = runner.invoke(features, [*again, "--overwrite"])
    assert replaced.exit_code == 0, replaced.output
    assert "note: 3 users without a row in the user table; the first is 'u1'" in replaced.output
    shown = json.loads(runner.invoke(features, ["inspect", str(out), "--json"]).stdout)
    found = shown["splits"]["test"]
    assert found["rows"] == 18
    rows = Samples(out).frame("test").to_pylist()
    assert found["positive_rate"]["good"] == sum(row["label_good"] for row in rows) / 18
    assert found["unknown"]["shop"] == sum(row["shop"] == 0 for row in rows) / 18
    assert found["mean_history"] == sum(len(row["hist_time"]) for row in rows) / 18
    assert found["history_share"]["1-9"] == sum(1 <= len(row["hist_time"]) <= 9 for row in rows) / 18
    assert shown["rows"][0]["raw_item_id"].startswith("i")
    screen = runner.invoke(features, ["inspect", str(out)]).stdout
    assert "mean history" in screen
    assert "上海" in screen
    failed = runner.invoke(features, ["build", str(tmp_path / "none.toml"), "--json"])
    assert failed.exit_code == 2
    assert json.loads(failed.stdout.splitlines()[0])["error"] == "BadInput"


@pytest.mark.data
def test_movielens_small(test_data: Path, tmp_path: Path) -> None:
    source = test_data / "movielens_small3"
    (tmp_path / "ml.toml").write_text(
        f'[log]\npath = "{source}/ratings.csv.gz"\nuser = "userId"\nitem = "movieId"\ntime = "timestamp"\n'
        f'[log.labels]\nlike = "rating >= 4"\n[items]\npath = "{source}/movies.csv"\nitem = "movieId"\n'
        'image = "movieId"\ntext = ["genres"]\n[behaviours]\nfrom_log = { liked = "rating >= 4" }\n'
    )
    report = build_samples(load_schema(tmp_path / "ml.toml"), tmp_path / "out")
    assert sum(report.rows.values()) == 297_744
    assert report.rows["test"] == 58_816
    assert abs(report.positive_rate["like"] - 0.494) < 0.001
