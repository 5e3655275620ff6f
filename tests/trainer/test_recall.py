"""Recall of cold pictures beside plain loops, on made samples and on real purchases; nothing cold is known."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from align_samples import FROM_LOG, OF_THEIR_OWN, build, impressions
from conftest import ROOT, run_command
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_samples import WITHOUT_HISTORIES, make_samples

from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.align.behaviours import FloatArray
from crossmedia.trainer.align.keys import ItemParts
from crossmedia.trainer.align.pair_options import PairOptions
from crossmedia.trainer.align.pairs import pairs_of
from crossmedia.trainer.align.recall import LAST, ColdQueries, cold_queries, groups_by_key, recall

PARTS: tuple[Literal["validation", "test"], ...] = ("validation", "test")


@pytest.fixture(scope="module", params=[FROM_LOG, OF_THEIR_OWN])
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    log = impressions(np.random.default_rng(3), 1500, 12, 90, 20)
    return build(tmp_path_factory.mktemp("recalled"), log, 90, request.param)


def table(samples: Samples) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = samples.items.read(["raw_item_id", "image_id"]).to_pylist()
    return found


def plain_queries(samples: Samples, part: str, groups: list[int]) -> list[tuple[list[int], int]]:
    """Histories, without what is missing in front, and targets, both as images; groups are of items."""
    parts, items = ItemParts.of(samples), table(samples)
    cold = parts.new if part == "test" else parts.held_out
    known = ~parts.new if part == "test" else parts.warm
    known_images = {image for row in np.flatnonzero(known) for image in items[row]["image_id"]}
    known_groups = {groups[row] for row in np.flatnonzero(known)}
    skipped = {
        place for place, name in enumerate(samples.vocabulary.values["action"].to_pylist(), 1) if name == "skipped"
    }
    found = []
    for split in ["test"] if part == "test" else ["train", "validation"]:
        for row in whole_rows(samples.folder, split):
            item, images = row["item_row"], items[row["item_row"]]["image_id"]
            history = [done for done, action in zip(row["items"], row["actions"], strict=True) if action not in skipped]
            good = row["label"] and cold[item] and images and images[0] not in known_images
            good = good and groups[item] not in known_groups
            last = [items[done]["image_id"][0] for done in history[-LAST:] if items[done]["image_id"]]
            if good and last and groups[item] not in {groups[done] for done in history}:
                found.append((last, images[0]))
    return found


def whole_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """Rows of the files with the rows of the item table that their histories have, and what was done with these."""
    rows, users = (pq.ParquetFile(folder / f"{split}{kind}.parquet") for kind in ("", ".histories"))
    found = []
    for group in range(rows.num_row_groups):
        of_user = users.read_row_group(group).to_pylist()
        for row in rows.read_row_group(group).to_pylist():
            user, of = of_user[row["history_user"]], slice(row["history_start"], row["history_end"])
            found.append({**row, "items": user["hist_item_row"][of], "actions": user["hist_action"][of]})
    return found


def own_groups(samples: Samples) -> list[int]:
    """Items of one first image are one."""
    return [item["image_id"][0] if item["image_id"] else -1 - row for row, item in enumerate(table(samples))]


def by_tens(samples: Samples) -> list[int]:
    return [int(item["raw_item_id"]) // 10 for item in table(samples)]


def refused(samples: Samples, part: Literal["validation", "test"] = "validation", **options: Any) -> str:
    with pytest.raises(BadInput, match=f"no query of the {part} part") as error:
        cold_queries(samples, part, "photo", **options)
    return str(error.value)


def test_why_there_is_no_query_is_said_with_what_helps(samples: Samples, tmp_path: Path) -> None:
    nothing = dict.fromkeys(["click", "buy", "cart", "skipped"], 0.0)
    kinds = samples.vocabulary.values["action"].to_pylist()
    assert "every kind of behaviour counts 0" in refused(samples, weights={name: nothing[name] for name in kinds})
    together = np.zeros(len(table(samples)), dtype=np.int64)
    said = refused(samples, groups=together)
    assert "none has a picture that is its own" in said
    assert "hold_out_items" not in said
    log = impressions(np.random.default_rng(3), 120, 4, 4, 3)
    (tmp_path / "four").mkdir()
    four = build(tmp_path / "four", log, 4)
    held_out = {item["raw_item_id"] for item, out in zip(table(four), ItemParts.of(four).held_out, strict=True) if out}
    few = build(tmp_path, [row for row in log if str(row[1]) not in held_out], 4)
    assert "is held out of the pairs, and none was drawn. Give more items" in refused(few)
    assert "hold_out_items in [split]" in refused(few, "test")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("grouped", [False, True])
def test_queries_are_those_of_plain_loops(samples: Samples, part: Literal["validation", "test"], grouped: bool) -> None:
    groups = by_tens(samples) if grouped else own_groups(samples)
    plain = plain_queries(samples, part, groups)
    if not plain:
        assert grouped, "without groups there are some"
        with pytest.raises(BadInput, match=f"no query of the {part} part"):
            cold_queries(samples, part, "photo", groups=np.array(groups))
        return
    found = cold_queries(samples, part, "photo", groups=np.array(groups) if grouped else None)
    histories = [[key for key in row if key != -1] for row in found.histories.tolist()]
    assert list(zip(histories, found.pool[found.targets].tolist(), strict=True)) == plain
    assert len(found) == len(plain)
    group_of = {image: groups[row] for row, item in enumerate(table(samples)) for image in item["image_id"]}
    assert len(set(found.pool.tolist())) == len(found.pool)
    for number, row in enumerate(found.history_groups):
        assert found.pool_groups[found.targets[number]] not in row
        alike = np.isin(found.pool_groups, row)
        own = {group_of[key] for key in histories[number]}
        assert {int(key) for key in found.pool[alike]} == {int(key) for key in found.pool if group_of[key] in own}


@pytest.mark.parametrize("part", PARTS)
def test_the_pool_is_no_part_of_the_pairs(samples: Samples, part: Literal["validation", "test"]) -> None:
    pool = cold_queries(samples, part, "photo").pool
    pairs = pairs_of(samples, PairOptions(per_user_day=10**6, hard_negatives=True, window_h=10_000), "photo")
    assert len(pool) > 3
    for keys in (pairs.left, pairs.right, pairs.negatives):
        assert not np.isin(pool, keys).any()
    other = cold_queries(samples, "test" if part == "validation" else "validation", "photo").pool
    assert not np.isin(pool, other).any()


class Drawn:
    """Vectors whose cosines are exact, so that many are alike: of two numbers that are 0, 3, 4, 5 in some order."""

    choices = np.array([[0, 0], [5, 0], [0, 5], [3, 4], [4, 3], [-5, 0], [8, 6]], dtype=np.float32)

    def __init__(self, numbers: list[int]):
        self.numbers = np.array(numbers)

    def __call__(self, keys: Int64Array) -> FloatArray:
        found: FloatArray = self.choices[self.numbers[keys]]
        return found


def plain_recall(queries: ColdQueries, vectors: Drawn, at: int) -> Fraction:
    total = Fraction(0)
    for history, target, groups in zip(queries.histories, queries.targets, queries.history_groups, strict=True):
        query = sum(vectors(np.array([key]))[0] for key in history if key != -1)
        scores = []
        for place, key in enumerate(queries.pool):
            vector = vectors(np.array([key]))[0]
            length = float(np.linalg.norm(vector) * np.linalg.norm(query))
            cosine = round(float(vector @ query) / length, 5) if length else 0.0
            scores.append(-9.0 if queries.pool_groups[place] in groups else cosine)
        better = sum(score > scores[target] for score in scores)
        alike = sum(score == scores[target] for score in scores)
        total += max(Fraction(0), min(Fraction(1), Fraction(at - better, alike)))
    return total / len(queries)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 5), st.sampled_from([1, 3, 7]))
@example(184, 4, 3, 7)  # (18, 9) is as near to (3, 4) as to (5, 0), but for rounding
def test_recall_is_that_of_plain_loops(seed: int, size: int, asked: int, kinds: int) -> None:
    """Where there are few kinds of vectors, many candidates have one cosine."""
    rng, keys = np.random.default_rng(seed), 12
    pool, pool_groups = np.sort(rng.permutation(keys)[:size]), rng.integers(0, 5, size)
    targets = rng.integers(0, size, asked)
    histories, groups = rng.integers(-1, keys, (asked, LAST)), rng.integers(-1, 5, (asked, LAST))
    groups[groups == pool_groups[targets][:, None]] = -1
    vectors = Drawn(rng.integers(0, kinds, keys).tolist())
    queries = ColdQueries(histories, targets, pool, groups, pool_groups)
    for at, share in recall(queries, vectors, at=(1, 3, 50)).items():
        assert share == pytest.approx(float(plain_recall(queries, vectors, at)), abs=1e-6)


def test_blocks_of_queries_are_one(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, rng = cold_queries(samples, "test", "photo"), np.random.default_rng(0)
    values = rng.normal(size=(1000, 8)).astype(np.float32)
    whole = recall(queries, lambda keys: values[keys], at=(3, 10))
    monkeypatch.setattr("crossmedia.trainer.align.recall.QUERIES_AT_ONCE", 7)
    assert recall(queries, lambda keys: values[keys], at=(3, 10)) == pytest.approx(whole)
    assert 0 < whole[3] < whole[10] < 1


def test_vectors_that_say_nothing_find_what_chance_finds(samples: Samples) -> None:
    queries = cold_queries(samples, "test", "photo")
    found = recall(queries, lambda keys: np.ones((len(keys), 4), dtype=np.float32), at=(3, 10**6))
    hidden = np.isin(queries.pool_groups, -1).sum()
    shares = [3 / (len(queries.pool) - np.isin(queries.pool_groups, row).sum()) for row in queries.history_groups]
    assert not hidden
    assert found[3] == pytest.approx(np.mean(shares))
    assert found[10**6] == pytest.approx(1)


def test_what_does_not_fit_is_refused(samples: Samples, tmp_path: Path) -> None:
    queries = cold_queries(samples, "test", "photo")
    with pytest.raises(BadInput, match="at is 0"):
        recall(queries, lambda keys: np.ones((len(keys), 1), dtype=np.float32), at=(0,))
    with pytest.raises(BadInput, match="groups is 3"):
        cold_queries(samples, "test", "photo", groups=np.arange(3))
    with pytest.raises(BadInput, match=r"no space 'phot'.*'photo'"):
        cold_queries(samples, "test", "phot")
    bare = Samples(make_samples(tmp_path, 20, 200, {i: i for i in range(20)}, WITHOUT_HISTORIES))
    with pytest.raises(BadInput, match="no histories"):
        cold_queries(bare, "test")
    assert len(pairs_of(bare, PairOptions(), "image")), "clicks of the rows make pairs without histories"


@pytest.mark.data
def test_real_purchases(test_data: Path, tmp_path: Path) -> None:
    """Pairs are purchases of one user before the test days; queries are of articles first met after them."""
    hm = test_data / "hm_fashion"
    script = [sys.executable, str(ROOT / "examples" / "fashion" / "prepare.py"), f"--hm={hm}", f"--out={tmp_path}"]
    subprocess.run(script, capture_output=True, text=True, check=True)
    run_command("features", "build", str(tmp_path / "samples.toml"), f"--out={tmp_path / 'samples'}")
    samples = Samples(tmp_path / "samples")
    last = max(samples.frame("train", ["timestamp"])["timestamp"].to_pylist())
    users = ["", *samples.vocabulary.values["user_id"].to_pylist()]
    bought: dict[tuple[str, int], str] = {}
    with gzip.open(hm / "purchases.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            bought.setdefault((row["user"], int(row["article"])), row["day"])
    until = str(np.datetime64(last, "s").astype("datetime64[D]"))
    pairs = pairs_of(samples, PairOptions(), "photo")
    assert len(pairs) > 20_000
    for user, left, right in zip(pairs.users.tolist(), pairs.left.tolist(), pairs.right.tolist(), strict=True):
        days = [np.datetime64(bought[users[user], key]) for key in (left, right)]
        assert np.timedelta64(0) <= days[1] - days[0] <= np.timedelta64(2, "D")
        assert str(days[1]) <= until
    known = {*pairs.left.tolist(), *pairs.right.tolist()}
    products = groups_by_key(samples, 7)
    for part in PARTS:
        articles, by_product = (cold_queries(samples, part, "photo", groups=of) for of in (None, products))
        assert not known & set(articles.pool.tolist())
        assert set(by_product.pool.tolist()) < set(articles.pool.tolist())
        assert not {key // 1000 for key in by_product.pool.tolist()} & {key // 1000 for key in known}
        assert len(by_product) < len(articles) == len(plain_queries(samples, part, own_groups(samples)))
