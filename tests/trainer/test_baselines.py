"""The means that models are to beat: equal to a slow plain version, of training rows alone, beside every comparison."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from made_samples import SCHEMA

from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.trainer.baseline_lines import baseline_lines
from crossmedia.trainer.baselines import ITEM, ITEM_USER, NAMES, SHRINKAGES, baselines, fitted
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.compare import compare
from crossmedia.trainer.fit import fit
from crossmedia.trainer.intervals import JudgedRows
from crossmedia.trainer.metrics import auc
from crossmedia.trainer.metrics.bootstrap import paired_interval
from crossmedia.trainer.settings import CompareConfig, FitConfig

PLAIN = SCHEMA[: SCHEMA.index("[items]")] + SCHEMA[SCHEMA.index("[split]") :]
ITEMS, USERS, ROWS = 60, 50, 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks that item and user decide; some of both are new in the last rows, and some of them few."""
    place, rng = tmp_path_factory.mktemp("clicks"), np.random.default_rng(3)
    of_item, of_user = rng.normal(size=ITEMS + 9), rng.normal(size=USERS + 9)
    with open(place / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        for n in range(ROWS):
            late = n > ROWS * 0.75
            item = int(min(ITEMS - 1, rng.geometric(0.05))) if not late else int(rng.integers(ITEMS + 9))
            user = int(rng.integers(USERS + (9 if late else 0)))
            click = rng.random() < 1 / (1 + math.exp(-(of_item[item] + of_user[user] - 1)))
            writer.writerow([f"u{user}", f"i{item}", 1000 + n, int(click)])
    (place / "samples.toml").write_text(PLAIN)
    build_samples(load_schema(place / "samples.toml"), place / "samples")
    return place / "samples"


def by_hand(samples: Samples, split: str) -> dict[str, list[float]]:
    """The same with dictionaries, a row at a time, and every k tried on the validation part."""
    rows = {part: samples.frame(part).to_pylist() for part in ("train", "validation", split)}
    share = sum(row["label"] for row in rows["train"]) / len(rows["train"])

    def mean_of(column: str, value: int, k: float) -> float:
        own = [row["label"] for row in rows["train"] if value and row[column] == value]
        return float((sum(own) + k * share) / (len(own) + k))

    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    def predicted(part: str, k_item: float, k_user: float) -> dict[str, list[float]]:
        found = defaultdict(list)
        of: dict[Any, float] = {}
        for row in rows[part]:
            for key in (("item_id", row["item_id"], k_item), ("user_id", row["user_id"], k_user)):
                if key not in of:
                    of[key] = mean_of(*key)
            item, user = of["item_id", row["item_id"], k_item], of["user_id", row["user_id"], k_user]
            found["constant"].append(share)
            found[ITEM].append(item)
            found[ITEM_USER].append(1 / (1 + math.exp(-(logit(item) + logit(user) - logit(share)))))
        return found

    labels = np.array([row["label"] for row in rows["validation"]])
    k_item = max(SHRINKAGES, key=lambda k: auc(labels, np.array(predicted("validation", k, 1)[ITEM])))
    k_user = max(SHRINKAGES, key=lambda k: auc(labels, np.array(predicted("validation", k_item, k)[ITEM_USER])))
    return predicted(split, k_item, k_user)


@pytest.mark.parametrize("validate_on", ["all-items", "unseen-items"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_they_are_what_a_slow_plain_version_gives(folder: Path, validate_on: str, split: str) -> None:
    samples = samples_of(folder, validate_on)
    found, plain = baselines(samples, "", split), by_hand(samples, split)
    for name in NAMES:
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-12)
    unknown = np.asarray(samples.frame(split, ["item_id"])["item_id"].combine_chunks()) == 0
    assert split == "validation" or unknown.any()
    assert len(np.unique(found[ITEM][unknown])) <= 1  # the share, whatever was clicked


def test_no_label_of_the_test_part_and_of_validation_only_the_choice_of_k_is_seen(folder: Path, tmp_path: Path) -> None:
    before, own = fitted(Samples(folder)), tmp_path / "samples"
    for changed in ("test", "validation"):
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(folder, own)
        table = pq.read_table(own / f"{changed}.parquet")
        place = table.column_names.index("label")
        turned = 1 - np.asarray(table["label"].combine_chunks())
        table = table.set_column(
            place, table.schema.field("label"), [turned.astype(table["label"].type.to_pandas_dtype())]
        )
        pq.write_table(table, own / f"{changed}.parquet")
        after = fitted(Samples(own))
        np.testing.assert_array_equal(after.items.positives, before.items.positives)
        np.testing.assert_array_equal(after.users.positives, before.users.positives)
        same = (after.items.shrinkage, after.users.shrinkage) == (before.items.shrinkage, before.users.shrinkage)
        assert same == (changed == "test")


def test_labels_that_are_all_alike_still_give_probabilities(folder: Path, tmp_path: Path) -> None:
    rows = [["u1", f"i{n % 3}", 1000 + n, 0] for n in range(200)]
    with open(tmp_path / "impressions.csv", "w", newline="") as file:
        csv.writer(file).writerows([["user", "item", "time", "click"], *rows])
    (tmp_path / "samples.toml").write_text(PLAIN)
    build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "none")
    for values in baselines(Samples(tmp_path / "none")).values():
        assert np.all((values > 0) & (values < 1e-5))


def test_a_comparison_has_their_rows_and_measures_models_against_them(folder: Path, tmp_path: Path) -> None:
    base = FitConfig(str(folder), images=False, epochs=2, batch_size=64, width=4, out=str(tmp_path / "c"))
    found = compare(CompareConfig(base, ("lr",), 2))
    *means, lr = found["rows"]
    assert [row["model"] for row in means] == list(NAMES)
    assert means[0]["all"]["auc"]["mean"] == 0.5
    test = JudgedRows.of(Samples(folder), "")
    mean = baselines(Samples(folder))[ITEM_USER]
    assert means[2]["all"]["auc"]["mean"] == pytest.approx(auc(test.labels, mean), abs=1e-12)
    files = [tmp_path / "c" / f"lr-ids-{seed}" / "predictions.parquet" for seed in (0, 1)]
    runs = [pq.read_table(file)["probability"].to_numpy() for file in files]
    by_hand = paired_interval(test.labels, runs, [mean], test.users, test.items, metric="auc")
    over = lr["all"]["auc_over_mean"]
    assert (over["mean"], over["low"], over["high"]) == pytest.approx((by_hand.mean, by_hand.low, by_hand.high))
    # What is in the file is not made twice, and tables of the file have the rows, too.
    again = compare(CompareConfig(base, ("lr",), 2))
    assert again["rows"] == found["rows"]
    lines = [json.loads(line) for line in (tmp_path / "c" / "results.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == [*NAMES, "lr", "lr"]
    printed = CliRunner().invoke(trainer, ["results", str(tmp_path / "c" / "results.jsonl")]).stdout
    for name in NAMES:
        assert f"\n{name} " in printed
    page = tmp_path / "page.html"
    for place in (tmp_path / "c", tmp_path / "c" / "lr-ids-0"):
        done = CliRunner().invoke(trainer, ["report", str(place), f"--out={page}"])
        assert done.exit_code == 0, done.output
        assert all(f"<td>{name}</td>" in page.read_text() for name in NAMES)


def test_predictions_of_another_run_give_no_interval(folder: Path, tmp_path: Path) -> None:
    """And who reads it is told: the lines came from a file of results, the folder is of other settings."""
    base = FitConfig(str(folder), images=False, epochs=1, batch_size=64, width=4, out=str(tmp_path / "c"))
    results = tmp_path / "results.jsonl"
    compare(CompareConfig(base, ("lr",), 1, results))
    found = compare(CompareConfig(replace(base, out=str(tmp_path / "d")), ("lr",), 1, results))
    assert "low" not in found["rows"][-1]["all"]["auc_over_mean"]
    assert "lr ids only has no interval over users and items" in " ".join(found["doubts"])
    other = tmp_path / "d" / "lr-ids-0"
    fit(replace(base, model="lr", seed=5, out=str(other)))
    found = compare(CompareConfig(replace(base, out=str(tmp_path / "d")), ("lr",), 1, results))
    assert "low" not in found["rows"][-1]["all"]["auc_over_mean"]


def test_lines_of_baselines_are_of_rows_and_label_and_of_nothing_else(folder: Path) -> None:
    plain = baseline_lines(FitConfig(str(folder), epochs=9, negative_rate=0.5, seed=3), "clicks")
    assert [line["model"] for line in plain] == list(NAMES)
    bare = {"commit", "date"}
    same = baseline_lines(FitConfig(str(folder)), "clicks")
    for one, other in zip(plain, same, strict=True):
        assert {k: v for k, v in one.items() if k not in bare} == {k: v for k, v in other.items() if k not in bare}
