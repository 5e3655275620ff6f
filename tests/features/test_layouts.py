"""Both layouts hold the same samples: rows, batches and counts, beside plain, slow ones."""

from __future__ import annotations

import json
import re
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
from crossmedia.features.batch import Batch, Jagged
from crossmedia.features.cli import features
from crossmedia.features.layout import histories_file, rows_file, sample_files
from crossmedia.features.reading import samples as samples_module
from crossmedia.features.reading.distinct import distinct
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.slices import Slices, list_values
from crossmedia.features.splits import SPLITS
from crossmedia.features.writing import files as writing
from crossmedia.features.writing import partitions
from crossmedia.features.writing.build import build_samples

SCHEMA = """
layout = "LAYOUT"
[log]
path = "log.parquet"
user = "user"
item = "item"
time = "time"
LABELS
[items]
path = "items.parquet"
item = "item"
image = "image"
ids = ["shop"]
text = ["title"]
[behaviours]
BEHAVIOURS
[split]
SPLIT
"""
LABELS = '[log.labels]\nlike = "stars >= 4"\nlove = "stars >= 5"'
NEGATIVES = "[negatives]\nper_positive = 2"
OWN_LOG = 'path = "behaviours.parquet"\nuser = "user"\nitem = "item"\ntime = "time"\naction = "action"\nmax_length = 4'
FROM_LOG = 'from_log = { seen = "all", liked = "stars >= 4" }\nmax_length = 4'
SHARES = {"user_tail": "test = 0.25\nvalidation = 0.25", "time": "test = 0.3\nvalidation = 0.3", "leave_one_out": ""}

ITEMS = 12
users, items, times = st.integers(0, 5), st.integers(0, ITEMS - 1), st.integers(1000, 1025)
cases = st.fixed_dictionaries(
    {
        "log": st.lists(st.tuples(users, items, times, st.integers(1, 5)), min_size=15, max_size=50),
        "behaviours": st.lists(st.tuples(users, items, times, st.sampled_from(["click", "buy"])), max_size=60),
        "split": st.sampled_from(list(SHARES)),
        "negatives": st.booleans(),
        "own_log": st.booleans(),
        "held_out": st.booleans(),
        "row_group": st.integers(3, 20),
        "partition": st.sampled_from([15, 1000]),
        "sparse_images": st.booleans(),
    }
)


def lay_out(folder: Path, case: dict[str, Any]) -> dict[str, Path]:
    """Write the tables of a case, and the schema of each layout."""
    user, item, time, stars = zip(*case["log"], strict=True)
    names = {"user": [f"u{n}" for n in user], "item": [f"i{n}" for n in item]}
    pq.write_table(pa.table({**names, "time": time, "stars": stars}), folder / "log.parquet")
    done = case["behaviours"] or [(0, 0, 1000, "click")]
    user, item, time, action = zip(*done, strict=True)
    names = {"user": [f"u{n}" for n in user], "item": [f"i{n}" for n in item]}
    pq.write_table(pa.table({**names, "time": time, "action": action}), folder / "behaviours.parquet")
    step = 2**58 if case["sparse_images"] else 3
    image = [None if n % 4 == 0 else step * (ITEMS - n) for n in range(ITEMS)]
    table = {"item": [f"i{n}" for n in range(ITEMS)], "image": pa.array(image, pa.int64())}
    table |= {
        "shop": [f"s{n % 3}" for n in range(ITEMS)],
        "title": [" ".join(["fine"] * (n % 3)) for n in range(ITEMS)],
    }
    pq.write_table(pa.table(table), folder / "items.parquet")
    split = f'method = "{case["split"]}"\n{SHARES[case["split"]]}'
    split += "\nhold_out_items = 0.2\nhold_out_seed = 1" if case["held_out"] else ""
    text = SCHEMA.replace("LABELS", NEGATIVES if case["negatives"] else LABELS).replace("SPLIT", split)
    # Rules over stars need the column that a log of positives has, too.
    text = text.replace("BEHAVIOURS", OWN_LOG if case["own_log"] else FROM_LOG)
    schemas = {}
    for layout in ("inline", "by_user"):
        schemas[layout] = folder / f"{layout}.toml"
        schemas[layout].write_text(text.replace("LAYOUT", layout))
    return schemas


def build_both(folder: Path, case: dict[str, Any]) -> dict[str, Samples] | None:
    """Samples in each layout; None when a split is left without a row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "ROWS", case["partition"])
        patch.setattr(writing, "ROW_GROUP", case["row_group"])
        try:
            for layout, schema in lay_out(folder, case).items():
                build_samples(load_schema(schema), folder / layout, overwrite=True)
        except BadInput as error:
            if not re.search("leaves no row|Not one (user|row) of .*behaviours", str(error)):
                raise
            return None
    return {layout: Samples(folder / layout) for layout in ("inline", "by_user")}


def flat(batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a batch by name."""
    found: dict[str, Any] = {**batch.labels, **batch.ids, "timestamp": batch.timestamp, "age": batch.history_age_s}
    jagged = {f"hist {name}": value for name, value in batch.history.items()} | batch.text
    if batch.images is not None:
        found |= {"unique": batch.images.unique, "places": batch.images.unique_index, "target": batch.images.target}
        jagged["images"] = batch.images.history
    for name, value in jagged.items():
        assert isinstance(value, Jagged)
        found |= {name: value.values, f"{name} offsets": value.offsets}
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases, batch_size=st.sampled_from([1, 4, 16, 1000]), seed=st.sampled_from([None, 0]))
def test_both_layouts_give_the_same_samples(
    tmp_path: Path, case: dict[str, Any], batch_size: int, seed: int | None
) -> None:
    both = build_both(tmp_path, case)
    if both is None:
        return
    inline, by_user = both["inline"], both["by_user"]
    assert (inline.layout, by_user.layout) == ("inline", "by_user")
    assert inline.vocabulary_hash == by_user.vocabulary_hash
    for split in SPLITS:
        frame = inline.frame(split)
        assert by_user.frame(split).equals(frame)
        assert by_user.frame(split, ["hist_time", "label"]).equals(frame.select(["hist_time", "label"]))
        rows = frame.to_pylist()
        assert by_user.head(split, 2) == inline.head(split, 2) == rows[:2]
        assert all(max(row["hist_time"], default=0) < row["timestamp"] for row in rows)
        pairs = zip(*(s.batches(split, batch_size, shuffle_seed=seed, epoch=3) for s in (inline, by_user)), strict=True)
        seen = 0
        for mine, other in pairs:
            arrays, others = flat(mine), flat(other)
            assert arrays.keys() == others.keys()
            for name, values in arrays.items():
                assert values.dtype == others[name].dtype
                assert values.dtype in (np.int64, np.float32), name
                assert values.flags.writeable
                assert others[name].flags.writeable, "torch takes no read-only array"
                assert values.tobytes() == others[name].tobytes(), name
            assert mine.images is not None
            used = {*mine.images.target.tolist(), *mine.images.history.values.tolist()} - {-1}
            assert used == set(range(len(mine.images.unique))), "no image that only another batch has"
            if seed is None:  # the rows of the file
                assert mine.timestamp.tolist() == [row["timestamp"] for row in rows[seen : seen + len(mine)]]
                ages = [row["timestamp"] - time for row in rows[seen : seen + len(mine)] for time in row["hist_time"]]
                assert mine.history_age_s.tolist() == ages
                images = [image for row in rows[seen : seen + len(mine)] for image in row["hist_image_id"]]
                assert np.append(mine.images.unique, -1)[mine.images.history.values].tolist() == images
            seen += len(mine)
        assert seen == len(rows)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases, batch_size=st.sampled_from([1, 4, 16]), together=st.sampled_from([1, 2000, 1 << 20]))
def test_shuffled_batches_hold_every_row_once_with_its_own_history(
    tmp_path: Path, case: dict[str, Any], batch_size: int, together: int
) -> None:
    both = build_both(tmp_path, case)
    for layout, seed in (("inline", 0), ("by_user", 1)) if both else ():
        assert both is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(samples_module, "SHUFFLE_BYTES", together)
            shuffled = [rows_of(batch) for batch in both[layout].batches("train", batch_size, shuffle_seed=seed)]
        plain = [rows_of(batch) for batch in both[layout].batches("train", batch_size)]
        assert Counter(row for rows in shuffled for row in rows) == Counter(row for rows in plain for row in rows)


def rows_of(batch: Batch) -> list[tuple[Any, ...]]:
    """Each row's time, ids, label and history with its images."""
    assert batch.images is not None
    known = np.append(batch.images.unique, -1)
    items, images = batch.history["item_id"], known[batch.images.history.values]
    return [
        (
            int(batch.timestamp[row]),
            *(int(ids[row]) for ids in batch.ids.values()),
            *(float(labels[row]) for labels in batch.labels.values()),
            int(known[batch.images.target[row]]),
            tuple(items.values[items.offsets[row] : items.offsets[row + 1]].tolist()),
            tuple(images[items.offsets[row] : items.offsets[row + 1]].tolist()),
        )
        for row in range(len(batch))
    ]


def test_a_shuffled_batch_mixes_the_users_of_several_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups hold some users each; drawn from one alone, batches are alike, and training on them is worse."""
    log = [(n // 40, n % ITEMS, 1000 + n, n % 5 + 1) for n in range(2000)]
    case = {"log": log, "behaviours": [], "split": "user_tail", "row_group": 100, "partition": 10_000}
    both = build_both(
        tmp_path, {**case, "negatives": False, "own_log": False, "held_out": False, "sparse_images": False}
    )
    assert both is not None

    def users_in_a_batch() -> float:
        batches = both["inline"].batches("train", 64, shuffle_seed=0)
        return float(np.mean([len(np.unique(batch.ids["user_id"])) for batch in batches if len(batch) == 64]))

    assert users_in_a_batch() > 30
    monkeypatch.setattr(samples_module, "SHUFFLE_BYTES", 1)
    assert users_in_a_batch() < 15


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
def test_histories_by_user_hold_what_their_row_group_needs_and_nothing_else(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    both = build_both(tmp_path, case)
    if both is None:
        return
    samples = both["by_user"]
    for split in SPLITS:
        rows = pq.ParquetFile(samples.folder / rows_file(split))
        histories = pq.ParquetFile(samples.folder / histories_file(split))
        assert rows.metadata.num_row_groups == histories.metadata.num_row_groups
        for group in range(rows.metadata.num_row_groups):
            table, stored = rows.read_row_group(group).to_pylist(), histories.read_row_group(group).to_pylist()
            assert {row["history_user"] for row in table} == set(range(len(stored)))
            used = {(r["history_user"], n) for r in table for n in range(r["history_start"], r["history_end"])}
            assert used == {(user, n) for user, row in enumerate(stored) for n in range(len(row["hist_time"]))}
            assert all(row["hist_time"] == sorted(row["hist_time"]) for row in stored)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
def test_occurrences_equal_a_count_of_the_rows(tmp_path: Path, case: dict[str, Any]) -> None:
    both = build_both(tmp_path, case)
    if both is None:
        return
    samples = both["inline"]
    image_place = {int(image): n for n, image in enumerate(samples.vocabulary.values["image_id"].to_pylist(), 1)}
    expected = {name: Counter[int]() for name in ("user_id", "item_id", "shop", "action", "title", "image_id")}
    for row in samples.frame("train").to_pylist():
        expected["user_id"][row["user_id"]] += 1
        expected["action"].update(row["hist_action"])
        expected["title"].update(row["title"])
        for name in ("item_id", "shop"):
            expected[name].update([row[name], *row[f"hist_{name}"]])
        expected["image_id"].update(image_place.get(i, 0) for i in [row["image_id"], *row["hist_image_id"]])
    for found in (samples.occurrences(), both["by_user"].occurrences()):
        assert found.keys() == expected.keys()
        for name, counts in found.items():
            assert counts.shape == (samples.vocabulary.size(name),)
            assert counts.tolist() == [expected[name][place] for place in range(len(counts))]


def regular_case(**changes: Any) -> dict[str, Any]:
    log = [(n % 4, n * 7 % ITEMS, 1000 + n, n % 5 + 1) for n in range(120)]
    behaviours = [(n % 4, n * 5 % ITEMS, 995 + n, "click" if n % 3 else "buy") for n in range(120)]
    case = {"log": log, "behaviours": behaviours, "split": "user_tail", "negatives": False, "own_log": True}
    case |= {"held_out": False, "row_group": 16, "partition": 1000, "sparse_images": False}
    return case | changes


def test_the_hash_covers_the_histories(tmp_path: Path) -> None:
    hashes = set()
    for number, action in enumerate(["click", "cart"]):
        # Actions only occur in histories; one name in another's place leaves all rows as they are.
        behaviours = [
            (u, i, t, action if a == "click" and t > 1050 else a) for u, i, t, a in regular_case()["behaviours"]
        ]
        (tmp_path / str(number)).mkdir()
        both = build_both(tmp_path / str(number), regular_case(behaviours=behaviours))
        assert both is not None
        hashes |= {both["inline"].hash, both["by_user"].hash}
        assert both["by_user"].size_bytes == sum(
            (tmp_path / str(number) / "by_user" / name).stat().st_size for name in sample_files("by_user")
        )
    assert len(hashes) == 4


def test_another_layout_takes_the_place_of_the_first(tmp_path: Path) -> None:
    schemas = lay_out(tmp_path, regular_case())
    build_samples(load_schema(schemas["by_user"]), tmp_path / "out")
    assert Samples(tmp_path / "out").layout == "by_user"
    build_samples(load_schema(schemas["inline"]), tmp_path / "out", overwrite=True)
    assert Samples(tmp_path / "out").layout == "inline"
    assert not (tmp_path / "out" / histories_file("train")).exists()


def test_files_that_do_not_belong_together_are_said(tmp_path: Path) -> None:
    both = build_both(tmp_path, regular_case())
    assert both is not None
    samples = both["by_user"]
    (samples.folder / histories_file("train")).write_bytes((samples.folder / histories_file("test")).read_bytes())
    with pytest.raises(BadInput, match=r"train.histories.parquet does not belong to train.parquet beside it"):
        samples.rows("train")
    (samples.folder / histories_file("train")).unlink()
    with pytest.raises(BadInput, match=r"train.histories.parquet cannot be read"):
        samples.rows("train")
    meta = json.loads((samples.folder / "samples.json").read_text())
    for field, value in (
        ("labels", 5),
        ("labels", "click"),
        ("labels", []),
        ("id_columns", ["user_id", 3]),
        ("id_columns", ["user_id", "colour"]),
        ("text_columns", {"title": 1}),
        ("max_history", "50"),
        ("has_images", "no"),
        ("samples_hash", None),
        ("schema_version", 1),
        ("schema_version", [1]),
    ):
        (samples.folder / "samples.json").write_text(json.dumps(meta | {field: value}))
        with pytest.raises(BadInput, match=r"samples\.json|have format 1"):
            Samples(samples.folder)
    for text in ("[]", "null", "[" * 100_000, json.dumps({k: v for k, v in meta.items() if k != "labels"})):
        (samples.folder / "samples.json").write_text(text)
        with pytest.raises(BadInput, match=r"is no samples folder \(samples.json"):
            Samples(samples.folder)
    (samples.folder / "samples.json").write_text(json.dumps(meta | {"schema_version": "99"}))
    with pytest.raises(BadInput, match="have format 99; this release reads 1 and 2"):
        Samples(samples.folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"by_user"', '"users"', r'top level: layout is \'users\'; it must be "inline" or "by_user"'),
        ("[behaviours]\n" + OWN_LOG, "", r'layout is "by_user", but there is no \[behaviours\]'),
        ('["shop"]', '["history_end"]', r"samples have a column 'history_end' of their own"),
    ],
)
def test_a_wrong_layout_is_said(tmp_path: Path, old: str, new: str, message: str) -> None:
    schema = lay_out(tmp_path, regular_case())["by_user"]
    text = schema.read_text()
    assert old in text
    schema.write_text(text.replace(old, new))
    with pytest.raises(BadInput, match=message):
        load_schema(schema)


def test_inspect_shows_the_same(tmp_path: Path) -> None:
    assert build_both(tmp_path, regular_case()) is not None
    shown = []
    for layout in ("inline", "by_user"):
        done = CliRunner().invoke(features, ["inspect", str(tmp_path / layout), "--json"])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert (found.pop("layout"), Path(found.pop("folder")).name) == (layout, layout)
        shown.append(found)
    assert shown[0] == shown[1]
    assert shown[0]["rows"][0]["hist_item_id"]


@given(
    images=st.lists(st.sampled_from([-1, 0, 1, 7, 50, 2**40, 2**62]) | st.integers(-1, 10), max_size=30),
    dense=st.booleans(),
)
def test_distinct_images_equal_a_set(images: list[int], dense: bool) -> None:
    images = [image % 100 if image > 0 and dense else image for image in images]
    ids, index = distinct(np.array(images, dtype=np.int64))
    assert ids.tolist() == sorted(set(images) - {-1})
    assert np.append(ids, -1)[index].tolist() == images


def test_slices_of_a_column_that_is_a_part_of_another() -> None:
    lists = pa.array([[1, 2], [], [3], [4, 5, 6]])[1:]
    slices, values = Slices.of(lists), list_values(lists)
    chosen, offsets = slices.entries(np.array([2, 0, 1]))
    assert values[chosen].tolist() == [4, 5, 6, 3]
    assert offsets.tolist() == [0, 3, 3, 4]
    assert slices.uses(len(values)).tolist() == [1, 1, 1, 1]
