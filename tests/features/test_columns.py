"""Every kind of column: ids, numbers, lists, texts, several images, spaces; of items, users and impressions."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from shop_tables import ITEMS, LOG, SEEN, SPACES, USERS, make_folder, shop_items, shop_log, shop_users
from small_tables import ROWS, START, Table, put
from unfolded import cell, keys_of, unfolded

from crossmedia.errors import BadInput
from crossmedia.features.batch import Jagged
from crossmedia.features.cells import entries
from crossmedia.features.cli import features
from crossmedia.features.numbers import NumberScale
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.splits import SPLITS
from crossmedia.features.writing import counting, item_table
from crossmedia.features.writing.build import build_samples
from crossmedia.features.writing.counting import NumberCounts
from crossmedia.keys import Column


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    make_folder(tmp_path)
    return Samples(tmp_path / "out")


def raw(samples: Samples, column: str, places: list[int]) -> list[str | None]:
    values = samples.vocabulary.values[column].to_pylist()
    return [values[place - 1] if place else None for place in places]


def test_every_kind_of_column_is_what_the_tables_say(samples: Samples) -> None:
    assert list(samples.row_ids) == ["user_id", "city", "slot"]
    assert (samples.row_numbers, list(samples.row_lists)) == (("years", "shown"), ["likes", "words"])
    assert list(samples.item_ids) == ["item_id", "shop", "age"]
    assert (samples.item_numbers, list(samples.item_lists)) == (("price", "stars"), ["tags", "colours"])
    assert samples.of_log == ("slot", "shown", "words")
    scales, items, users, rows = samples.vocabulary.encoding.numbers, shop_items(), shop_users(), shop_log()
    for split in SPLITS:
        for batch in samples.batches(split, 7):
            names = samples.frame(split, ["timestamp", "raw_user_id", "raw_item_id"]).to_pylist()
            by_time = {row["timestamp"]: row for row in names}
            for n, row in enumerate(unfolded(batch)):
                at = (row["timestamp"] - START) // 10
                item, user = (
                    int(by_time[row["timestamp"]]["raw_item_id"]),
                    int(by_time[row["timestamp"]]["raw_user_id"]),
                )
                assert raw(samples, "slot", [row["slot"]]) == [str(at % 4)]
                assert same(row["shown"], scales["shown"], rows["shown"][at])
                assert raw(samples, "words", row["words"]) == rows["words"][at].split()
                years = users["years"][user] if user < 5 else None
                assert same(row["years"], scales["years"], years)
                assert raw(samples, "likes", row["likes"]) == ((users["likes"][user] or []) if user < 5 else [])
                for name in ("price", "stars"):
                    assert same(row[name], scales[name], items[name][item])
                tags = [tag for tag in items["tags"][item] if tag is not None]
                assert [tag or "?" for tag in raw(samples, "tags", row["tags"])] == tags
                assert raw(samples, "colours", row["colours"]) == (["red", "blue"] if item % 2 else [])
                words = [] if item == 5 else ["夏季", "季红", "红色", str(item)]
                assert raw(samples, "title", row["title"]) == words
                assert (row["age"] == 0) == (item == 3)
                front = [100 + item, 200 + item] if item % 3 else []
                images = front + ([] if item == 4 else [300 + item])
                assert row["vectors photo"] == row["vectors clip"] == images
                assert row["vectors title"] == [item]
                assert keys_of(batch.items.vectors["photo"], int(batch.target[n])) == images
            photo, title = batch.items.vectors["photo"], batch.items.vectors["title"]
            assert raw(samples, "image_id", photo.unique_index.tolist()) == [str(i) for i in photo.unique]
            assert len(title.unique_index) == 0
    counts = samples.occurrences()
    for name, values in samples.vocabulary.values.items():
        assert len(counts[name]) == len(values) + 1, name
    shown = [row for batch in samples.batches("train", 100) for row in unfolded(batch)]
    for name in ("tags", "slot", "age", "likes", "words"):
        places = [place for row in shown for place in np.atleast_1d(row[name]).tolist()]
        if name in ("tags", "age"):
            places += [p for row in shown for one in row[f"hist_{name}"] for p in np.atleast_1d(one).tolist()]
        assert counts[name].tolist() == np.bincount(places, minlength=len(counts[name])).tolist(), name


def same(found: float, scale: NumberScale, value: float | None) -> bool:
    """Whether a number is what its scale makes of the table's."""
    if value is None:
        return math.isnan(found)
    shown = math.copysign(math.log1p(abs(value)), value) if scale.how == "log1p" else value
    return abs(found - (shown - scale.mean) / scale.deviation) < 1e-5


def test_numbers_are_fitted_on_training_rows_only(tmp_path: Path) -> None:
    make_folder(tmp_path)
    samples = Samples(tmp_path / "out")
    train = samples.frame("train", ["timestamp", "raw_item_id"]).to_pylist()
    scale = samples.vocabulary.encoding.numbers
    shown = [shop_log()["shown"][(row["timestamp"] - START) // 10] for row in train]
    logs = np.log1p([value for value in shown if value is not None])
    assert scale["shown"].mean == pytest.approx(logs.mean())
    assert scale["shown"].deviation == pytest.approx(logs.std())
    stars = np.array([shop_items()["stars"][int(row["raw_item_id"])] for row in train])
    assert scale["stars"].mean == pytest.approx(stars.mean())
    assert scale["stars"].deviation == pytest.approx(stars.std())
    values = samples.frame("train", ["stars"])["stars"].to_numpy()
    assert (abs(values.mean()) < 1e-6, abs(values.std() - 1) < 1e-6) == (True, True)
    # Another value in a test row changes no scale.
    last = shop_log()
    test_rows = [(t - START) // 10 for t in samples.frame("test", ["timestamp"])["timestamp"].to_pylist()]
    put(tmp_path / "log.parquet", last | {"shown": [1e9 if n in test_rows else v for n, v in enumerate(last["shown"])]})
    make_folder(tmp_path)
    assert Samples(tmp_path / "out").vocabulary.encoding.numbers == scale


def test_buckets_hold_equal_shares_of_the_training_rows_and_missing_is_none_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 4000
    table = {"user": rng.integers(0, 40, n), "item": rng.integers(0, 30, n), "time": START + np.arange(n)}
    table |= {"click": rng.integers(0, 2, n), "price": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(size=n))}
    put(tmp_path / "log.parquet", table)
    (tmp_path / "s.toml").write_text(
        '[log]\npath = "log.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\nlabels = { click = "click" }\n'
        'numbers = { price = "buckets:10" }\n[split]\nmethod = "time"\n'
    )
    build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out")
    samples = Samples(tmp_path / "out")
    assert samples.row_ids["price"] == 11
    places = samples.frame("train", ["price"])["price"].to_numpy()
    counts = np.bincount(places, minlength=11)
    assert counts[0] == np.isnan(table["price"][: len(places)]).sum()
    assert counts[1:].max() - counts[1:].min() <= 1
    assert counts.tolist() == samples.vocabulary.counts["price"].tolist()
    names = samples.vocabulary.values["price"].to_pylist()
    assert names[0].startswith("below ")
    assert names[-1].startswith("from ")
    below = float(names[0].removeprefix("below "))
    trained = np.sort(table["price"][: len(places)])
    assert trained[counts[1] - 1] < below * 1.0001
    assert trained[counts[1]] > below * 0.9999


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=60), st.integers(2, 12))
def test_buckets_are_in_order_and_none_of_training_is_empty(values: list[float], n: int) -> None:
    found, counts = np.unique(np.array(values) + 0.0, return_counts=True)
    scale = NumberScale.fit(f"buckets:{n}", found, counts)
    places = scale.places(found)
    assert (np.diff(places) >= 0).all()
    assert set(places.tolist()) == set(range(1, len(scale.bucket_names) + 1))
    assert len(set(scale.bucket_names)) == len(scale.bucket_names) <= n
    assert scale.places(np.array([np.nan])).tolist() == [0]


def test_a_number_that_most_rows_have_leaves_a_bucket_for_the_others() -> None:
    """Were buckets to begin with the number at their rank, all of these would be in one."""
    scale = NumberScale.fit("buckets:20", np.array([0.0, 1.0, 7.0]), np.array([970, 20, 10]))
    assert scale.bucket_names == ["below 1", "from 1"]
    assert NumberScale.fit("buckets:2", np.array([0.0, 1.0]), np.array([6, 4])).edges == (1.0,)
    fair = NumberScale.fit("buckets:2", np.arange(10.0), np.ones(10, dtype=np.int64))
    assert np.bincount(fair.places(np.arange(10.0)))[1:].tolist() == [5, 5]


HOSTILE = {
    "price": (["nan"] * 4, 'numbers = ["price"]', ""),
    "stars": ([None] * 4, 'numbers = { stars = "buckets:4" }', ""),
    "tags": (pa.array([[None, None]] * 4, pa.list_(pa.null())), 'lists = ["tags"]', ""),
    "title": (["", " ", None, "!?"], 'text = ["title"]', ""),
    "shop": ([None] * 4, 'ids = ["shop"]', ""),
    "code": ([1.0, 2.0, 3.0, np.inf], 'ids = ["code"]', "holds inf in row 4; an id is finite. Leave the cell empty"),
    "size": ([1.0, -np.inf, 3.0, 4.0], 'numbers = ["size"]', "holds -inf in row 2; a number is finite, and fits"),
    "both": (pa.array([[{"a": 1}]] * 4), 'lists = ["both"]', "is of type struct<a: int64>; ids are whole numbers"),
    "deep": (pa.array([[["a"]]] * 4), 'lists = ["deep"]', "is of type list<element: string>; ids are whole numbers"),
    "part": (pa.array([[1.5]] * 4), 'lists = ["part"]', "holds 1.5 in row 1; an id names something, and a fraction"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_holds_nothing_is_noted_and_what_is_no_value_is_refused(tmp_path: Path, name: str) -> None:
    column, columns, said = HOSTILE[name]
    log = {"user": [1, 2] * 40, "item": [0, 1, 2, 3] * 20, "time": list(range(80)), "click": [0, 0, 1, 1] * 20}
    put(tmp_path / "log.parquet", log)
    put(tmp_path / "items.parquet", {"item": list(range(4)), name: column})
    (tmp_path / "s.toml").write_text(
        '[log]\npath = "log.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\nlabels = { click = "click" }\n'
        f'[items]\npath = "items.parquet"\nitem = "item"\n{columns}\n'
    )
    if said:
        with pytest.raises(BadInput, match=re.escape(f"The column {name!r} of {tmp_path / 'items.parquet'} {said}")):
            build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out")
        return
    report = build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out")
    assert report.notes_in_words() == [
        f"4 items of which not one has anything in the column {name}: no model learns anything of {name!r}; leave it "
        "out of the schema, or fill its cells"
    ]
    assert len(next(Samples(tmp_path / "out").batches("train", 64))) > 10


def test_an_item_with_very_many_tags_is_read_whole(tmp_path: Path) -> None:
    log = {"user": [1, 2] * 40, "item": [0, 1, 2, 3] * 20, "time": list(range(80)), "click": [0, 0, 1, 1] * 20}
    put(tmp_path / "log.parquet", log)
    put(
        tmp_path / "items.parquet",
        {"item": list(range(4)), "tags": ["|".join(map(str, range(100_000))), "1", "2|1", ""]},
    )
    (tmp_path / "s.toml").write_text(
        '[log]\npath = "log.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\nlabels = { click = "click" }\n'
        '[items]\npath = "items.parquet"\nitem = "item"\nlists = { tags = "|" }\n'
    )
    build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out")
    batch = next(Samples(tmp_path / "out").batches("train", 64))
    assert sorted(batch.items.lists["tags"].lengths.tolist()) == [0, 1, 2, 100_000]


def test_lists_that_arrow_cannot_count_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_table, "MOST_ENTRIES", 2)
    with pytest.raises(
        BadInput, match=r"has 3 entries over all items, and 2 can be stored\. Leave out what says least"
    ):
        item_table.as_arrow(Jagged.of_lengths(np.arange(3), np.array([1, 2])), np.int32)


def test_counts_of_numbers_do_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=5000).round(3)
    monkeypatch.setattr(counting, "MERGE_AT", 500)
    found = []
    for parts in (1, 7):
        counts = NumberCounts()
        for part in np.array_split(values, parts):
            counts.add(part)
        found.append((counts.values.tolist(), counts.counts.tolist()))
    assert found[0] == found[1]
    assert 200 < len(found[0][0]) <= 500
    kept = np.repeat(*map(np.array, found[0]))
    assert abs(np.median(kept) - np.median(values)) < 0.1


def test_extended_samples_keep_scales_and_buckets(tmp_path: Path) -> None:
    make_folder(tmp_path)
    old = Samples(tmp_path / "out")
    put(tmp_path / "log.parquet", shop_log() | {"shown": [1000.0 + n for n in range(ROWS)]})
    put(tmp_path / "items.parquet", shop_items(age=[n * 100 for n in range(10)]))
    (tmp_path / "s.toml").write_text(LOG + ITEMS + USERS + SPACES + SEEN)
    build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "new", tmp_path / "out")
    new = Samples(tmp_path / "new")
    assert new.vocabulary.encoding.numbers == old.vocabulary.encoding.numbers
    assert new.vocabulary.values["age"].equals(old.vocabulary.values["age"])
    assert new.frame("train", ["shown"])["shown"].to_numpy().min() > 3
    (tmp_path / "s.toml").write_text((LOG + ITEMS + USERS + SPACES + SEEN).replace("log1p", "standard"))
    with pytest.raises(BadInput, match=r"column '(price|shown)' is 'standard' here and 'log1p' in the samples"):
        build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "x", tmp_path / "out")


@pytest.mark.parametrize(
    ("here", "instead", "said"),
    [
        (
            'ids = ["shop"]',
            'lists = { shop = "|" }',
            r"column 'shop' is among lists here, and among ids in the samples that",
        ),
        ('text = ["title"]', 'text = ["title"]\ntokens = "characters"', r"words of 'title' are found by 'characters'"),
    ],
)
def test_extended_samples_read_columns_as_those_before(tmp_path: Path, here: str, instead: str, said: str) -> None:
    """A table whose columns are of another kind would give the old weights another meaning."""
    items = '[items]\npath = "items.parquet"\nitem = "item"\nids = ["shop"]\ntext = ["title"]\n'
    make_folder(tmp_path, items + SEEN)
    (tmp_path / "s.toml").write_text(LOG + items.replace(here, instead) + SEEN)
    with pytest.raises(BadInput, match=said):
        build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "x", tmp_path / "out")
    (tmp_path / "s.toml").write_text(LOG + items + SEEN)
    assert build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "x", tmp_path / "out")


def test_one_file_holds_lists_numbers_and_images_of_its_items(tmp_path: Path) -> None:
    """Without an item table the last row of an item counts, lists included."""
    table = shop_log()
    table |= {
        "price": [float(n) for n in range(ROWS)],
        "tags": [[f"t{item}", None, "all\x1f\x1e1"] for item in table["item"]],  # as odd a tag as there is
        "pictures": [[item, 100 + item] for item in table["item"]],
    }
    put(tmp_path / "log.parquet", table)
    more = '[items]\nimage = "pictures"\nnumbers = ["price"]\nlists = ["tags"]\n'
    report = make_folder(tmp_path, more + SEEN)
    samples = Samples(tmp_path / "out")
    assert report.notes["items_whose_columns_change_in_the_log_of_which_the_last_row_counts"] == 10
    last = {str(item): n for n, item in enumerate(table["item"])}
    scale = samples.vocabulary.encoding.numbers["price"]
    for batch in samples.batches("test", 50):
        names = samples.frame("test", ["raw_item_id"])["raw_item_id"].to_pylist()
        for row, name in zip(unfolded(batch), names, strict=True):
            assert same(row["price"], scale, float(last[name]))
            assert raw(samples, "tags", row["tags"]) == [f"t{name}", "all\x1f\x1e1"]
            assert row["vectors image"] == [int(name), 100 + int(name)]
    assert list(samples.spaces) == ["image"]


def test_ten_images_an_item_cost_nothing_a_row(tmp_path: Path) -> None:
    n = 20_000
    rng = np.random.default_rng(0)
    table = {"user": rng.integers(0, 500, n), "item": rng.integers(0, 100, n), "time": START + np.arange(n)}
    put(tmp_path / "log.parquet", table | {"click": rng.integers(0, 2, n)})
    sizes = []
    for images in (1, 10):
        put(
            tmp_path / "items.parquet",
            {"item": list(range(100)), "image": [[1000 * k + i for k in range(images)] for i in range(100)]},
        )
        (tmp_path / "s.toml").write_text(
            '[log]\npath = "log.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\nlabels = { click = "click" }\n'
            '[items]\npath = "items.parquet"\nitem = "item"\nimage = "image"\n' + SEEN
        )
        sizes.append(build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out", overwrite=True).bytes_per_sample)
    assert sizes[1] < 1.02 * sizes[0]


def test_items_of_a_space_get_their_keys_by_a_manifest(tmp_path: Path) -> None:
    put(tmp_path / "log.parquet", shop_log(item=[f"SKU-{n * 7 % 10}" for n in range(ROWS)]))
    put(tmp_path / "items.parquet", shop_items(item=[f"SKU-{n}" for n in range(10)]))
    with pytest.raises(BadInput, match=r"space 'title' is keyed by item, and the item 'SKU-0' is no whole .*manifest"):
        make_folder(tmp_path)
    put(tmp_path / "m.parquet", {"image_id": [70 + n for n in range(9)], "key": [f"SKU-{n}" for n in range(9)]})
    spaces = SPACES.replace('key = "item"', 'key = "item"\nmanifest = "m.parquet"')
    report = make_folder(tmp_path, ITEMS + USERS + spaces + SEEN)
    samples = Samples(tmp_path / "out")
    assert report.notes["items_that_are_not_in_the_manifest_of_the_space_title"] == 1
    assert len(samples.spaces["title"].names) == 4
    assert samples.spaces["photo"].names == ()
    batch = next(iter(samples.batches("train", 1000)))
    found = {
        name: cell(batch.items.vectors["title"].of_items, n)
        for n, name in enumerate(names_of(samples, batch.items.rows))
    }
    assert found.pop("SKU-9", []) == []
    keys = batch.items.vectors["title"].unique
    assert {name: keys[index].tolist() for name, index in found.items()} == {n: [70 + int(n[4:])] for n in found}
    put(tmp_path / "m.parquet", {"image_id": [1], "key": ["other"]})
    with pytest.raises(BadInput, match=r"Not one item is in the manifest .*first key is 'other'; the first item is"):
        make_folder(tmp_path, ITEMS + USERS + spaces + SEEN)


def test_names_of_images_that_the_manifest_lacks_are_counted_and_their_column_is_said(tmp_path: Path) -> None:
    put(tmp_path / "m.parquet", {"image_id": [7, 8], "key": ["a", "b"]})
    front = [["a.jpg", None, "x/b.png"], ["no.jpg", "a", "none"], [""], None, ["no"], *[["b", "b"]] * 5]
    items = ITEMS.replace('"back"]', '"back"]\nimage_manifest = "m.parquet"')
    put(tmp_path / "items.parquet", shop_items(front=front, back=["a"] * 10))
    report = make_folder(tmp_path, items + USERS + SPACES + SEEN)
    assert report.notes["images_of_items_that_are_not_in_the_manifest"] == 3
    samples, found = Samples(tmp_path / "out"), dict[int, Any]()
    for batch in samples.batches("train", 64):
        found |= {row["vectors title"][0]: row["vectors photo"] for row in unfolded(batch)}
    assert {item: found[item] for item in range(6)} == {0: [7, 8, 7], 1: [7] * 2, 2: [7], 3: [7], 4: [7], 5: [8, 8, 7]}
    put(tmp_path / "items.parquet", shop_items(front=front, back=["z"] * 10))
    with pytest.raises(BadInput, match=r"Not one image of the column 'back' is in the manifest .* first key is 'a'"):
        make_folder(tmp_path, items + USERS + SPACES + SEEN)


def names_of(samples: Samples, rows: np.ndarray[Any, Any]) -> list[str]:
    names = samples.items.read(["raw_item_id"])["raw_item_id"].to_pylist()
    return [names[row] for row in rows.tolist()]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'numbers = ["years"]',
            'numbers = { years = "log" }',
            r"numbers.years is 'log'; it must be \"standard\", \"log1p\"",
        ),
        ('"buckets:4"', '"buckets:1"', r"numbers.age is 'buckets:1'; .*N from 2 to 1000"),
        ('"buckets:4"', "4", r"numbers.age is 4, which is of the wrong type"),
        ('lists = ["likes"]', "lists = [3]", r"lists must be a list of column names"),
        (
            'text = ["title"]',
            'text = ["title"]\ntokens = "char"',
            r"tokens is 'char'; it must be \"words\", \"characters\"",
        ),
        ('text = ["title"]', 'text = ["title"]\ntokens = "t.json"', r"tokenizer's file .*t.json cannot be read"),
        ('key = "item"', 'key = "user"', r'\[vectors.title\]: key is \'user\'; it must be "image" or "item"'),
        ("[vectors.title]", "[vectors.Title]", r"name of a space has small letters"),
        ('key = "item"', 'key = "image"\nmanifest = "m"', r"image_manifest in \[items\] gives them to images"),
        ('image = ["front", "back"]', "", r'key is "image", but \[items\] has no image column'),
        ('"front", "back"', '"front", "front"', r"\[items\]: image names the column 'front' twice"),
        ('ids = ["slot"]', 'ids = ["slot", "shop"]', r"uses the column 'shop' twice"),
        ('ids = ["slot"]', 'ids = ["item_row"]', r"samples have a column 'item_row' of their own"),
        ('price = "log1p"', 'key_title = "log1p"', r"samples have a column 'key_title' of their own"),
        (
            'text = ["title"]',
            'text = ["title"]\ntokens = "s.toml.json"',
            r"file .*s.toml.json is no tokenizer of Hugging",
        ),
        ('"standard"', '"standard"\nfoo = 1', r"Did you mean|is unknown|not valid TOML"),
    ],
)
def test_a_wrong_schema_is_said(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = LOG + ITEMS + USERS + SPACES + SEEN
    assert old in text
    (tmp_path / "s.toml.json").write_text("{}")
    (tmp_path / "s.toml").write_text(text.replace(old, new))
    for name, table in {"log": shop_log(), "items": shop_items(), "users": shop_users()}.items():
        put(tmp_path / f"{name}.parquet", table)
    with pytest.raises(BadInput, match=message):
        build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "out")


def test_a_space_that_is_called_image_is_that_of_the_images(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(LOG + ITEMS + '[vectors.image]\nkey = "item"\n')
    with pytest.raises(BadInput, match=r'the space "image" is that of the images'):
        load_schema(tmp_path / "s.toml")
    (tmp_path / "s.toml").write_text(LOG + ITEMS + '[vectors.title]\nkey = "item"\n')
    assert list(load_schema(tmp_path / "s.toml").vectors) == ["image", "title"]


@pytest.mark.parametrize(
    ("table", "changed", "message"),
    [
        (
            "items",
            {"shop": [n + 0.5 for n in range(10)]},
            r"'shop' of .*items.parquet holds 0.5 in row 1; an id names .*numbers = \{ shop = \"standard\" \}",
        ),
        (
            "items",
            {"price": [1.0, math.inf] + [1.0] * 8},
            r"'price' of .*items.parquet holds inf in row 2; a number is finite, and fits 32 bits. Leave",
        ),
        ("log", {"item": [0.5] * ROWS}, r"'item' of .*log.parquet holds 0.5 in row 1; an id names .* written as text"),
        ("items", {"price": [1e300] * 10}, r"'price' of .* holds 1e\+300 in row 1; a number"),
        ("items", {"tags": [[1.0, 0.5]] * 10}, r"'tags' of .*items.parquet holds 0.5 in row 1; an id names"),
        ("items", {"price": ["12 EUR"] * 10}, r"'price' of .* holds '12 EUR' in row 1; 'price' is a column of numbers"),
        ("items", {"price": [[1.0]] * 10}, r"'price' of .*items.parquet is of type list"),
        (
            "items",
            {"tags": ["a|b"] * 10},
            r"'tags' of .*items.parquet is of type string; it is read as a column of lists. Give the text between its",
        ),
        ("items", {"tags": [[["a"]]] * 10}, r"'tags' of .*items.parquet is of type list"),
        ("items", {"tags": [[1.0, 2.0**60]] * 10}, r"'tags' of .*items.parquet holds .* in row 1; whole numbers from"),
        ("items", {"title": [["a"]] * 10}, r"'title' of .*items.parquet is of type list"),
        (
            "items",
            {"front": [["photo.jpg"]] * 10},
            r"'front' of .*items.parquet holds 'photo.jpg' in row 1; image ids are whole .*image_manifest",
        ),
        ("items", {"front": [[1]] * 8 + [[1, 2, -7], [1]]}, r"'front' of .*items.parquet holds -7 in row 9; image ids"),
        ("log", {"shown": [math.inf] * ROWS}, r"'shown' of .*log.parquet holds inf in row 1; a number is finite"),
        ("log", {"slot": [0.25] * ROWS}, r"'slot' of .*log.parquet holds 0.25 in row 1; an id names"),
        ("log", {"words": [b"\xff\xfe"] * ROWS}, r"'words' of .*log.parquet is of type binary; its bytes are no UTF-8"),
        ("users", {"years": [math.inf, -math.inf, 1, 1, 1]}, r"'years' of .*users.parquet holds inf in row 1"),
    ],
)
def test_bad_cells_are_said(tmp_path: Path, table: str, changed: Table, message: str) -> None:
    tables = {"log": shop_log(), "items": shop_items(), "users": shop_users()}
    put(tmp_path / f"{table}.parquet", tables[table] | changed)
    with pytest.raises(BadInput, match=message):
        make_folder(tmp_path)


def test_odd_cells_are_right(tmp_path: Path) -> None:
    """Lists of nulls, 100,000 tags, texts and numbers in one column of CSV, columns of nothing."""
    many = [f"t{n}" for n in range(100_000)]
    tags: list[Any] = [many, [None, None], None, [], ["", "a"], *[["a"]] * 5]
    nothing = pa.nulls(10)
    put(tmp_path / "items.parquet", shop_items(tags=tags, colours=nothing, front=nothing, price=nothing, title=nothing))
    report = make_folder(tmp_path)
    samples = Samples(tmp_path / "out")
    lengths: dict[str, int] = {}
    for batch in samples.batches("train", 64):
        names = names_of(samples, batch.items.rows)
        lengths |= {name: len(cell(batch.items.lists["tags"], n)) for n, name in enumerate(names)}
        assert np.isnan(batch.items.numbers["price"]).all()
        assert not len(batch.items.text["title"].values)
    assert {name: lengths[name] for name in "01234"} == {"0": 100_000, "1": 0, "2": 0, "3": 0, "4": 1}
    assert samples.item_lists["tags"] == 100_002
    assert report.rows["train"] > 0


def test_an_empty_cell_that_stands_over_entries_is_empty() -> None:
    """As Arrow allows it, and masks of numpy make it."""
    lists = pa.ListArray.from_arrays([0, 2, 4, 6], list("abcdef"), mask=pa.array([False, True, False]))
    for values in (lists, lists.cast(pa.large_list(pa.string()))):
        assert entries(Column(values, "tags", "x")).to_pylist() == [["a", "b"], [], ["e", "f"]]
        assert entries(Column(values.slice(1), "tags", "x")).to_pylist() == [[], ["e", "f"]]


def test_prices_in_csv_that_are_given_as_ids_are_noted(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,price\n" + "".join(f"{n},{n}.99\n" for n in range(10)))
    items = '[items]\npath = "items.csv"\nitem = "item"\nids = ["price"]\n'
    report = make_folder(tmp_path, items)
    assert report.notes == {"values_of_the_id_column_price_that_are_fractions": 10}
    assert 'write numbers = { price = "standard" }' in report.notes_in_words()[0]


def test_inspect_shows_every_kind(samples: Samples) -> None:
    done = CliRunner().invoke(features, ["inspect", str(samples.folder), "--json", "--rows", "100"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout, parse_constant=pytest.fail)  # NaN is no JSON
    assert found["numbers"] == {
        "price": "log1p",
        "stars": "standard",
        "age": "buckets:4",
        "years": "standard",
        "shown": "log1p",
    }
    assert found["spaces"]["title"]["key"] == "item"
    assert {row["price"] is None for row in found["rows"]} == {True, False}
    assert any(row["tags"] == ["a", "t3"] for row in found["rows"])
    assert any(row["age"] and row["age"].startswith("from ") for row in found["rows"])
    done = CliRunner().invoke(features, ["inspect", str(samples.folder), "--all", "--rows", "2"])
    assert "price is a number: log1p" in done.output
    assert "title is a space of vectors, by item" in done.output
    assert all(column in done.output for column in samples.vocabulary.values)
    assert [json.loads(line) for line in done.output.splitlines() if line.startswith("{")] == found["rows"][:2]


def test_inspect_is_a_screen(samples: Samples) -> None:
    done = CliRunner().invoke(features, ["inspect", str(samples.folder)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    assert "price (log1p)" in text
    assert "title by item" in text
    assert "unknown in the test part: " in text
    assert sum(line.startswith('{"') for line in lines) == 3
    assert lines[-1].startswith("--all shows every column")


def test_the_metadata_says_how_columns_are_read(samples: Samples) -> None:
    file = pq.read_schema(samples.folder / "vocabulary.parquet")
    found = json.loads(file.metadata[b"encoding"])
    assert found["tokens"] == {"title": "words"}
    assert found["lists"] == {"words": " ", "likes": "", "tags": "", "colours": "|"}
    assert found["numbers"]["price"]["how"] == "log1p"
    assert samples.vocabulary.hash == samples.vocabulary_hash
