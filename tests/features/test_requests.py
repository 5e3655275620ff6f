"""A request gives the numbers that the samples of the same row have."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shop_tables import ITEMS, LOG, SEEN, SPACES, USERS, make_folder, shop_items, shop_log, shop_users, write_tokenizer
from small_tables import ROWS, START, put
from unfolded import Row, unfolded

from crossmedia.errors import BadInput
from crossmedia.features.reading.request import RequestColumns, RequestReader
from crossmedia.features.reading.samples import Samples
from crossmedia.features.splits import SPLITS
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.names import ImageNames

NOW = START + 10_000


def columns_of(samples: Samples, **changed: Any) -> RequestColumns:
    """What a model of all columns of the samples knows."""
    given: dict[str, Any] = {
        "ids": tuple(samples.row_ids),
        "numbers": samples.row_numbers,
        "lists": tuple(samples.row_lists),
        "of_log": samples.of_log,
        "item_ids": tuple(samples.item_ids),
        "item_numbers": samples.item_numbers,
        "item_lists": tuple(samples.item_lists),
        "text": tuple(samples.text_columns),
        "spaces": {name: space.key for name, space in samples.spaces.items()},
        "images": samples.image_vocabulary_size > 0,
        "max_history": samples.max_history,
    }
    return RequestColumns(**given | changed)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    make_folder(tmp_path)
    return Samples(tmp_path / "out")


def images_of(item: int) -> list[Any]:
    table = shop_items()
    return [*(table["front"][item] or []), table["back"][item]]


def item_columns(items: list[int]) -> dict[str, list[Any]]:
    """The raw values of some items, as a service has them."""
    table = shop_items()
    found: dict[str, list[Any]] = {"item_id": list(items), "image_id": [images_of(item) for item in items]}
    return found | {
        name: [table[name][item] for item in items] for name in ("shop", "price", "stars", "age", "tags", "colours")
    }


def request(
    at: int, user: int, candidates: list[int], seen: list[tuple[int, int]], n: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The user and the candidates of row ``n`` of the log; ``seen`` are items and times."""
    users, rows = shop_users(), shop_log()
    one = {"user_id": user, "slot": rows["slot"][n], "shown": rows["shown"][n], "words": rows["words"][n]}
    known = user < len(users["user"])
    one |= {name: users[name][user] if known else None for name in ("city", "years", "likes")}
    one |= {f"hist_{name}": values for name, values in item_columns([item for item, _ in seen]).items()}
    one |= {"hist_action": ["seen"] * len(seen), "hist_time": [time for _, time in seen]}
    titles = [shop_items()["title"][item] for item in candidates]
    return one, item_columns(candidates) | {"title": titles}


def equal(one: Row, other: Row, *, without: tuple[str, ...] = ()) -> None:
    for name, value in one.items():
        if name not in without:
            assert shown(value) == shown(other[name]), name


def shown(value: Any) -> Any:
    if isinstance(value, list):
        return [shown(one) for one in value]
    return "missing" if isinstance(value, float) and math.isnan(value) else value


def test_a_request_gives_what_the_samples_have(samples: Samples) -> None:
    reader = RequestReader(columns_of(samples), samples.vocabulary)
    table = shop_log()
    checked = 0
    for split in ("train", "test"):
        raw = samples.frame(split, ["raw_item_id", "raw_user_id"]).to_pylist()
        rows = [row for batch in samples.batches(split, 16) for row in unfolded(batch)]
        for row, names in zip(rows, raw, strict=True):
            n = (row["timestamp"] - START) // 10
            seen = [(table["item"][(t - START) // 10], t) for t in row["hist_time"]]
            user, shown_items = request(n, int(names["raw_user_id"]), [int(names["raw_item_id"])], seen, n)
            (found,) = unfolded(reader.batch(user, shown_items, row["timestamp"]))
            # The title of a behaviour is not looked at, and a request has no label.
            equal(found, row, without=("hist_title",))
            checked += len(seen)
    assert checked > 20


def test_candidates_may_differ_in_what_belongs_to_the_impression(samples: Samples) -> None:
    reader = RequestReader(columns_of(samples), samples.vocabulary)
    user, shown_items = request(0, 1, [3, 4, 3], [(5, NOW - 10)], 1)
    slots, prices, words = [0, 1, 2], [5.0, None, 7.0], [["red"], [], ["w1", "red"]]
    apart = {"slot": slots, "shown": prices, "words": words}
    for name in apart:
        del user[name]
    batch = reader.batch(user, shown_items | apart, NOW)
    for n, row in enumerate(unfolded(batch)):
        own = {"slot": slots[n], "shown": prices[n], "words": words[n]}
        candidate = {name: values[n : n + 1] for name, values in shown_items.items()}
        (alone,) = unfolded(reader.batch(user | own, candidate, NOW))
        equal(row, alone)
    with pytest.raises(BadInput, match=r"request gives 'slot' of the user and of the candidates. Give it once"):
        reader.batch(user | {"slot": 1}, shown_items | apart, NOW)


def test_what_a_request_lacks_is_unknown_and_said_once(samples: Samples, caplog: pytest.LogCaptureFixture) -> None:
    reader = RequestReader(columns_of(samples), samples.vocabulary)
    with caplog.at_level(logging.WARNING):
        batch = reader.batch({"user_id": 1}, {"item_id": [1, None]}, NOW)
        reader.batch({"user_id": 1}, {"item_id": [1, 2]}, NOW)
    assert len(caplog.records) == 2
    assert np.isnan(batch.items.numbers["price"]).all()
    assert batch.items.ids["age"].tolist() == [0, 0]
    assert batch.numbers["years"].shape == (2,)
    assert batch.items.lists["tags"].values.tolist() == []
    assert len(batch.items.vectors["photo"].unique) == 0
    assert batch.items.vectors["title"].unique.tolist() == [1]
    assert batch.items.vectors["title"].of_items.lengths.tolist() == [1, 0]
    assert batch.history.values.tolist() == []


@pytest.mark.parametrize("none", [None, math.nan, np.nan, [], [None], -1])
def test_one_item_may_have_an_image_and_another_a_list_of_them(samples: Samples, none: Any) -> None:
    reader = RequestReader(columns_of(samples), samples.vocabulary)
    for images in ([[101, 102], 103, none], np.array([(101, 102), np.int64(103), none], dtype=object)):
        user = {"user_id": 1, "hist_item_id": [1, 2, 3], "hist_image_id": images}
        found = reader.batch(user, {"item_id": [1, 2, 3], "image_id": images}, NOW).items.vectors["photo"]
        assert found.unique[found.of_items.values].tolist() == 2 * [101, 102, 103]
        assert found.of_items.lengths.tolist() == 2 * [2, 1, 0]


def test_frames_and_single_images_are_taken_too(samples: Samples) -> None:
    reader = RequestReader(columns_of(samples), samples.vocabulary)
    table = pa.table({"item_id": [1, 2], "image_id": [101, None], "tags": [["a"], None], "price": [10, 20]})
    batch = reader.batch({"user_id": 1}, table, NOW)
    assert batch.items.vectors["photo"].unique.tolist() == [101]
    assert batch.items.vectors["photo"].of_items.lengths.tolist() == [1, 0]
    assert batch.items.lists["tags"].lengths.tolist() == [1, 0]
    assert not np.isnan(batch.items.numbers["price"]).any()


def test_names_of_images_and_items_are_found(tmp_path: Path) -> None:
    keys = [f"SKU-{n}" for n in range(10)]
    put(tmp_path / "log.parquet", shop_log(item=[keys[n * 7 % 10] for n in range(ROWS)]))
    put(tmp_path / "m.parquet", {"image_id": [70 + n for n in range(10)], "key": keys})
    put(tmp_path / "items.parquet", shop_items(item=keys, front=[[f"{key}.jpg"] for key in keys], back=keys))
    spaces = SPACES.replace('key = "item"', 'key = "item"\nmanifest = "m.parquet"')
    items = ITEMS.replace('ids = ["shop"]', 'image_manifest = "m.parquet"\nids = ["shop"]')
    (tmp_path / "s.toml").write_text(LOG + items + USERS + spaces + SEEN)
    make_folder(tmp_path, items + USERS + spaces + SEEN)
    samples, names = Samples(tmp_path / "out"), ImageNames.read(tmp_path / "m.parquet")
    reader = RequestReader(columns_of(samples), samples.vocabulary, names, {"title": names})
    candidates = {"item_id": ["SKU-3", "SKU-x"], "image_id": [["a/SKU-3.jpg", "SKU-4", "none"], "SKU-5"]}
    batch = reader.batch({"user_id": 1}, candidates, NOW)
    photo, title = batch.items.vectors["photo"], batch.items.vectors["title"]
    assert (photo.unique.tolist(), photo.of_items.lengths.tolist()) == ([73, 74, 75], [2, 1])
    assert (title.unique.tolist(), title.of_items.lengths.tolist()) == ([73], [1, 0])
    assert reader.unmatched.counts() == {
        "names of images that the manifest lacks": 1,
        "names of items that the manifest of the space title lacks": 1,
    }
    unnamed = RequestReader(columns_of(samples), samples.vocabulary)
    with pytest.raises(
        BadInput, match=r"'item_id' of the candidates holds 'SKU-3' in row 1; .*manifest of the space title"
    ):
        unnamed.batch({"user_id": 1}, {"item_id": ["SKU-3"]}, NOW)


@pytest.mark.parametrize("tokens", ["characters", "t.json"])
def test_a_title_is_read_as_the_samples_were(tmp_path: Path, tokens: str) -> None:
    write_tokenizer(tmp_path / "t.json")
    titles = ["red_dress", "Kleiderschrank", None, *["夏季红色连衣裙"] * 7]
    put(tmp_path / "items.parquet", shop_items(title=titles))
    make_folder(tmp_path, ITEMS.replace('text = ["title"]', f'text = ["title"]\ntokens = "{tokens}"') + SEEN)
    (tmp_path / "t.json").unlink()  # the samples have it
    samples = Samples(tmp_path / "out")
    reader = RequestReader(columns_of(samples), Vocabularies.read((samples.folder / "vocabulary.parquet").read_bytes()))
    batch = reader.batch({"user_id": 1}, {"item_id": list(range(10)), "title": titles}, NOW)
    found = {row["item_id"]: row["title"] for row in unfolded(batch)}
    rows = [row for split in SPLITS for part in samples.batches(split, 64) for row in unfolded(part)]
    assert {row["item_id"]: row["title"] for row in rows} == {n: found[n] for n in {row["item_id"] for row in rows}}
    names = samples.vocabulary.values["title"].to_pylist()
    assert ("red" in names, "kle" in names, "夏季" in names) == (True, tokens != "t.json", tokens != "t.json")


@pytest.mark.parametrize(
    ("user", "candidates", "message"),
    [
        ({"years": math.inf}, {}, r"'years' of the user holds inf in row 1; a number is finite"),
        ({"years": "old"}, {}, r"'years' of the user holds 'old' in row 1; 'years' is a column of numbers"),
        ({"hist_price": [1.0], "hist_time": [1, 2]}, {}, r"lists of several lengths"),
        ({}, {"tags": ["a|b"]}, r"'tags' of the candidates is of type string; .*lists"),
        ({}, {"tags": "a"}, r"'tags' of the candidates is of type str; give a list"),
        ({}, {"price": [[1.0]]}, r"'price' of the candidates is of type list"),
        (
            {},
            {"tags": [["a", 1]]},
            r"'tags' of the candidates holds \['a', 1\] beside values of another kind; where",
        ),
        ({}, {"front": [1]}, r"candidates have a column 'front'; the model knows: item_id"),
        ({}, {"image_id": [[-5]]}, r"'image_id' of the candidates holds -5 in row 1; image ids"),
    ],
)
def test_a_wrong_request_is_said(samples: Samples, user: Row, candidates: Row, message: str) -> None:
    reader = RequestReader(columns_of(samples), samples.vocabulary)
    with pytest.raises(BadInput, match=message):
        reader.batch({"user_id": 1} | user, {"item_id": [1]} | candidates, NOW)
