"""The files of samples hold what the logs say, each item once; what is read is the same however they are cut."""

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
from unfolded import first_image, unfolded

from crossmedia.errors import BadInput
from crossmedia.features.cli import features
from crossmedia.features.distinct import distinct
from crossmedia.features.layout import ITEMS_FILE, histories_file, rows_file, sample_files
from crossmedia.features.reading import samples as samples_module
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.slices import Slices, list_values
from crossmedia.features.splits import SPLITS
from crossmedia.features.writing import files as writing
from crossmedia.features.writing import partitions
from crossmedia.features.writing.build import build_samples

SCHEMA = """
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


def lay_out(folder: Path, case: dict[str, Any]) -> Path:
    """Write the tables of a case, and the schema."""
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
    (folder / "samples.toml").write_text(text)
    return folder / "samples.toml"


def build(folder: Path, case: dict[str, Any], name: str = "out") -> Samples | None:
    """Samples; None when a split is left without a row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "ROWS", case["partition"])
        patch.setattr(writing, "ROW_GROUP", case["row_group"])
        try:
            build_samples(load_schema(lay_out(folder, case)), folder / name, overwrite=True)
        except BadInput as error:
            if not re.search("leaves (no row|every history empty)|Not one (user|row) of .*behaviours", str(error)):
                raise
            return None
    return Samples(folder / name)


NAMES = ("user_id", "item_id", "shop", "title", "timestamp")
OF_HISTORY = ("hist_item_id", "hist_shop", "hist_action", "hist_time")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases, batch_size=st.sampled_from([1, 4, 16, 1000]))
def test_batches_in_order_are_the_rows_of_the_frame(tmp_path: Path, case: dict[str, Any], batch_size: int) -> None:
    samples = build(tmp_path, case)
    if samples is None:
        return
    whole = build(tmp_path, case | {"row_group": 1000, "partition": 1000}, "whole")
    assert whole is not None
    for split in SPLITS:
        rows = samples.frame(split).to_pylist()
        assert rows == samples.frame(split, [*samples.frame(split).column_names]).to_pylist()
        assert Counter(map(str, rows)) == Counter(map(str, whole.frame(split).to_pylist()))
        assert samples.head(split, 2) == rows[:2]
        assert all(max(row["hist_time"], default=0) < row["timestamp"] for row in rows)
        for row in rows:  # what an item has is what the table says, by its key
            number = int(row["raw_item_id"][1:])
            step = 2**58 if case["sparse_images"] else 3
            assert row["image_id"] == (-1 if number % 4 == 0 else step * (ITEMS - number))
            assert len(row["title"]) == number % 3
        found = []
        for batch in samples.batches(split, batch_size):
            for arrays in (batch.ids, batch.items.ids):
                assert all(values.dtype == np.int64 and values.flags.writeable for values in arrays.values())
            for values in (batch.target, batch.history.values, batch.action, batch.history_age_s, batch.timestamp):
                assert values.dtype == np.int64
                assert values.flags.writeable, "torch takes no read-only array"
            used = {*batch.target.tolist(), *batch.history.values.tolist()}
            assert used == set(range(len(batch.items))), "no item that only another batch has"
            assert (np.diff(batch.items.rows) > 0).all()
            found += unfolded(batch)
        assert len(found) == len(rows)
        for one, row in zip(found, rows, strict=True):
            assert {name: one[name] for name in (*NAMES, *OF_HISTORY)} == {n: row[n] for n in (*NAMES, *OF_HISTORY)}
            assert first_image(one["vectors image"]) == row["image_id"]
            assert [first_image(keys) for keys in one["hist_vectors image"]] == row["hist_image_id"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases, batch_size=st.sampled_from([1, 4, 16]), together=st.sampled_from([1, 2000, 1 << 20]))
def test_shuffled_batches_hold_every_row_once_with_its_own_history(
    tmp_path: Path, case: dict[str, Any], batch_size: int, together: int
) -> None:
    samples = build(tmp_path, case)
    if samples is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples_module, "SHUFFLE_BYTES", together)
        shuffled = [row for batch in samples.batches("train", batch_size, shuffle_seed=0) for row in unfolded(batch)]
    plain = [row for batch in samples.batches("train", batch_size) for row in unfolded(batch)]
    assert Counter(map(str, shuffled)) == Counter(map(str, plain))


def test_a_shuffled_batch_mixes_the_users_of_several_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups hold some users each; drawn from one alone, batches are alike, and training on them is worse."""
    log = [(n // 40, n % ITEMS, 1000 + n, n % 5 + 1) for n in range(2000)]
    case = {"log": log, "behaviours": [], "split": "user_tail", "row_group": 100, "partition": 10_000}
    samples = build(tmp_path, {**case, "negatives": False, "own_log": False, "held_out": False, "sparse_images": False})
    assert samples is not None

    def users_in_a_batch() -> float:
        batches = samples.batches("train", 64, shuffle_seed=0)
        return float(np.mean([len(np.unique(batch.ids["user_id"])) for batch in batches if len(batch) == 64]))

    assert users_in_a_batch() > 30
    monkeypatch.setattr(samples_module, "SHUFFLE_BYTES", 1)
    assert users_in_a_batch() < 15


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
def test_histories_hold_what_their_row_group_needs_and_nothing_else(tmp_path: Path, case: dict[str, Any]) -> None:
    samples = build(tmp_path, case)
    if samples is None:
        return
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
    samples = build(tmp_path, case)
    if samples is None:
        return
    image_place = {int(image): n for n, image in enumerate(samples.vocabulary.values["image_id"].to_pylist(), 1)}
    expected = {name: Counter[int]() for name in ("user_id", "item_id", "shop", "action", "title", "image_id")}
    for row in samples.frame("train").to_pylist():
        expected["user_id"][row["user_id"]] += 1
        expected["action"].update(row["hist_action"])
        expected["title"].update(row["title"])
        for name in ("item_id", "shop"):
            expected[name].update([row[name], *row[f"hist_{name}"]])
        expected["image_id"].update(image_place.get(i, 0) for i in [row["image_id"], *row["hist_image_id"]])
    found = samples.occurrences()
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


def test_the_hash_covers_the_histories_and_the_items(tmp_path: Path) -> None:
    hashes = set()
    case = regular_case()
    for number, (action, shop) in enumerate([("click", "s0"), ("cart", "s0"), ("click", "s9")]):
        # Actions only occur in histories; one name in another's place leaves all rows as they are.
        behaviours = [(u, i, t, action if a == "click" and t > 1050 else a) for u, i, t, a in case["behaviours"]]
        folder = tmp_path / str(number)
        folder.mkdir()
        schema = lay_out(folder, case | {"behaviours": behaviours})
        items = pq.read_table(folder / "items.parquet")
        changed = pa.array([shop if name == "s0" else name for name in items["shop"].to_pylist()])
        pq.write_table(items.set_column(items.column_names.index("shop"), "shop", changed), folder / "items.parquet")
        build_samples(load_schema(schema), folder / "out")
        samples = Samples(folder / "out")
        hashes.add(samples.hash)
        names = sample_files(histories=True)
        assert samples.size_bytes == sum((folder / "out" / name).stat().st_size for name in names)
        assert len(names) == 7
    assert len(hashes) == 3


def test_samples_without_histories_take_the_place_of_others(tmp_path: Path) -> None:
    schema = lay_out(tmp_path, regular_case())
    build_samples(load_schema(schema), tmp_path / "out")
    assert (tmp_path / "out" / histories_file("train")).exists()
    schema.write_text(schema.read_text().replace("[behaviours]\n" + OWN_LOG, ""))
    build_samples(load_schema(schema), tmp_path / "out", overwrite=True)
    samples = Samples(tmp_path / "out")
    assert (samples.actions, samples.max_history) == (0, 0)
    assert not (tmp_path / "out" / histories_file("train")).exists()
    batch = next(iter(samples.batches("train", 5, shuffle_seed=1)))
    assert (batch.history.values.tolist(), batch.history.offsets.tolist()) == ([], [0] * 6)
    assert len(batch.action) == len(batch.history_age_s) == 0
    assert not any(name.startswith("hist_") for name in samples.frame("test").column_names)


def test_files_that_do_not_belong_together_are_said(tmp_path: Path) -> None:
    samples = build(tmp_path, regular_case())
    assert samples is not None
    other = build(tmp_path, regular_case(log=regular_case()["log"][:-1]), "other")
    assert other is not None
    kept = (samples.folder / ITEMS_FILE).read_bytes()
    (samples.folder / ITEMS_FILE).write_bytes((other.folder / ITEMS_FILE).read_bytes())
    with pytest.raises(BadInput, match=r"items.parquet is of another build"):
        next(iter(Samples(samples.folder).batches("train", 8)))
    table = pq.read_table(other.folder / ITEMS_FILE)
    own = pq.read_schema(samples.folder / "train.parquet").metadata
    metadata = table.schema.metadata | {b"vocabulary_hash": own[b"vocabulary_hash"], b"items_hash": b"0123456789ab"}
    pq.write_table(table.replace_schema_metadata(metadata), samples.folder / ITEMS_FILE)  # other items, one vocabulary
    with pytest.raises(BadInput, match=r"items.parquet is of another build: its items_hash is 0123456789ab"):
        next(iter(Samples(samples.folder).batches("train", 8)))
    (samples.folder / ITEMS_FILE).write_bytes(kept[:-1000])
    with pytest.raises(BadInput, match=r"items.parquet cannot be read"):
        next(iter(Samples(samples.folder).batches("train", 8)))
    (samples.folder / ITEMS_FILE).write_bytes(kept)
    (samples.folder / histories_file("train")).write_bytes((samples.folder / histories_file("test")).read_bytes())
    with pytest.raises(BadInput, match=r"train.histories.parquet does not belong to train.parquet beside it"):
        samples.rows("train")
    (samples.folder / histories_file("train")).unlink()
    with pytest.raises(
        BadInput, match=r"train.histories.parquet cannot be read: .*[^.]\. Copy the samples again, or run"
    ):
        samples.rows("train")
    meta = json.loads((samples.folder / "samples.json").read_text())
    for field, value in (
        ("labels", 5),
        ("labels", "click"),
        ("labels", []),
        ("ids", ["user_id", 3]),
        ("ids", ["user_id", "colour"]),
        ("item_text", {"title": 1}),
        ("spaces", {"image": {"key": 3}}),
        ("spaces", ["image"]),
        ("max_history", "50"),
        ("has_images", "no"),
        ("samples_hash", None),
        ("schema_version", 1),
        ("schema_version", [1]),
    ):
        (samples.folder / "samples.json").write_text(json.dumps(meta | {field: value}))
        with pytest.raises(BadInput, match=r"samples\.json|have format"):
            Samples(samples.folder)
    for text in ("[]", "null", "[" * 100_000, json.dumps({k: v for k, v in meta.items() if k != "labels"})):
        (samples.folder / "samples.json").write_text(text)
        with pytest.raises(BadInput, match=r"is no samples folder \(samples.json"):
            Samples(samples.folder)
    for version in ("1", "2", "99"):
        (samples.folder / "samples.json").write_text(json.dumps({"schema_version": version}))
        with pytest.raises(BadInput, match=f"have format {version}; this release reads 3. Run 'features build' again"):
            Samples(samples.folder)


def test_a_layout_is_refused_in_words(tmp_path: Path) -> None:
    schema = lay_out(tmp_path, regular_case())
    schema.write_text('layout = "by_user"\n' + schema.read_text())
    with pytest.raises(BadInput, match=r"top level: there is one layout now.* Leave layout out"):
        load_schema(schema)


def test_inspect_shows_what_there_is(tmp_path: Path) -> None:
    samples = build(tmp_path, regular_case())
    assert samples is not None
    done = CliRunner().invoke(features, ["inspect", str(samples.folder), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["items"] == samples.items.rows == ITEMS
    assert found["rows"][0]["hist_item_id"]
    assert found["spaces"] == {"image": {"key": "image", "id_space": "items.parquet", "names": []}}
    assert found["splits"]["train"]["mean_history"] > 1
    done = CliRunner().invoke(features, ["inspect", str(samples.folder)])
    assert f"{ITEMS} items" in " ".join(done.output.split())


@given(
    numbers=st.lists(st.sampled_from([0, 1, 7, 50, 2**40, 2**62]) | st.integers(0, 10), max_size=30),
    dense=st.booleans(),
)
def test_distinct_numbers_equal_a_set(numbers: list[int], dense: bool) -> None:
    numbers = [number % 100 if dense else number for number in numbers]
    found, index = distinct(np.array(numbers, dtype=np.int64))
    assert found.tolist() == sorted(set(numbers))
    assert found[index].tolist() == numbers


def test_slices_of_a_column_that_is_a_part_of_another() -> None:
    lists = pa.array([[1, 2], [], [3], [4, 5, 6]])[1:]
    slices, values = Slices.of(lists), list_values(lists)
    chosen, offsets = slices.entries(np.array([2, 0, 1]))
    assert values[chosen].tolist() == [4, 5, 6, 3]
    assert offsets.tolist() == [0, 3, 3, 4]
    assert slices.uses(len(values)).tolist() == [1, 1, 1, 1]
