"""The fashion example on a part of the real purchases and photos, from the commands to its table."""

from __future__ import annotations

import csv
import gzip
import json
import re
import runpy
import subprocess
import sys
import tarfile
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_command

from crossmedia import FitConfig, fit
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_store

pytestmark = pytest.mark.data
FASHION = ROOT / "examples" / "fashion"
ARTICLES = 250
DAY_S = 86_400


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def hm(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Purchases of the articles that were bought most, with their photos."""
    folder = tmp_path_factory.mktemp("hm")
    purchases = rows(test_data / "hm_fashion" / "purchases.csv.gz")
    most = {article for article, _ in Counter(row["article"] for row in purchases).most_common(ARTICLES)}
    for name in ("purchases", "articles"):
        kept = [row for row in rows(test_data / "hm_fashion" / f"{name}.csv.gz") if row["article"] in most]
        with gzip.open(folder / f"{name}.csv.gz", "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)
    with tarfile.open(test_data / "hm_fashion" / "photos_160w_q82.tar") as tar:
        photos = [member for member in tar.getmembers() if Path(member.name).stem in most]
        tar.extractall(folder / "photos", photos, filter="data")
    return folder


@pytest.fixture(scope="module")
def prepared(hm: Path) -> Path:
    script = [sys.executable, str(FASHION / "prepare.py"), f"--hm={hm}", f"--out={hm / 'fashion'}"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert f"of {ARTICLES} articles" in done.stdout
    run_command("features", "build", str(hm / "fashion" / "samples.toml"), f"--out={hm / 'samples'}")
    return hm


def test_negatives_were_on_sale_that_week(hm: Path, prepared: Path) -> None:
    """Every one was bought within seven days; an article has one price, that of its first sale."""
    bought: dict[str, list[int]] = {}
    for row in rows(hm / "purchases.csv.gz"):
        bought.setdefault(row["article"], []).append((date.fromisoformat(row["day"]) - date(1970, 1, 1)).days)
    samples, negatives = Samples(prepared / "samples"), 0
    for split in ("train", "validation", "test"):
        for row in samples.frame(split, ["label", "timestamp", "raw_item_id"]).to_pylist():
            apart = min(abs(day - row["timestamp"] // DAY_S) for day in bought[row["raw_item_id"]])
            assert apart <= (0 if row["label"] else 7)
            negatives += not row["label"]
    assert negatives > 1000
    with open(prepared / "fashion" / "articles.csv", newline="", encoding="utf-8") as file:
        first = {row["article"]: row["price"] for row in reversed(rows(hm / "purchases.csv.gz"))}
        for row in csv.DictReader(file):
            assert row["price"] == first[row["article"]]
            assert row["article"] == f"{int(row['image_id']):010d}"


def run_script(name: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(FASHION / name), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def stores(prepared: Path) -> Path:
    """Photos, titles, true attributes and noise, a store each; samples without attributes."""
    articles = prepared / "fashion" / "articles.csv"
    run_command(
        "imgserver", "precompute", f"--store={prepared / 'store'}", f"--catalogue={prepared / 'photos'}", "--dim=16"
    )
    text = [f"--texts={articles}", "--text=text", "--key=article", "--dim=16"]
    run_command("imgserver", "precompute", f"--store={prepared / 'titles'}", *text)
    for name, options in (("attributes", ()), ("noise", ("--random=8",))):
        file = prepared / f"{name}.parquet"
        run_script("vectors.py", f"--articles={articles}", f"--out={file}", *options)
        run_command("imgserver", "import", str(file), f"--name={name}", f"--store={prepared / name}")
    run_command("features", "build", str(prepared / "fashion" / "bare.toml"), f"--out={prepared / 'bare'}")
    return prepared


def test_the_cosine_of_true_attributes_is_the_share_that_two_articles_have_in_common(stores: Path) -> None:
    with open(stores / "fashion" / "articles.csv", newline="", encoding="utf-8") as file:
        articles = list(csv.DictReader(file))[:40]
    with open_store(stores / "attributes") as client:
        vectors = client.get([int(row["image_id"]) for row in articles]).values.astype(np.float32)
    names = ("product_type", "graphical_appearance", "colour_group")
    values = np.array([[row[name] for name in names] for row in articles])
    alike = (values[:, None] == values[None]).mean(axis=2)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, alike, atol=1e-3)
    assert 0 < alike.mean() < 1


def test_recall_of_new_articles(stores: Path) -> None:
    """One line a store; attributes find more than noise does."""
    results = stores / "recall.jsonl"
    named = [f"{name}={stores / name}" for name in ("attributes", "noise")]
    said = run_script("recall.py", f"--samples={stores / 'samples'}", f"--results={results}", *named)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["name"] for line in lines] == ["attributes", "noise"]
    assert [line["version"].split("@")[0] for line in lines] == ["attributes", "noise"]
    assert "| attributes | " in said
    true, noise = (line["recall"]["articles"]["10"] for line in lines)
    assert true > noise


@pytest.mark.parametrize("model", ["din", "dicm"])
def test_without_vectors_a_model_is_the_one_behind_it(prepared: Path, tmp_path: Path, model: str) -> None:
    """So that the study trains one of them."""
    study = runpy.run_path(str(FASHION / "study.py"))
    found = []
    for name in (model, study["WITHOUT_VECTORS"][model]):
        config = FitConfig(
            samples=str(prepared / "samples"),
            out=str(tmp_path / name),
            model=name,
            images=False,
            options=study["OPTIONS"][name],
            **{**study["RECIPE"], "epochs": 1, "validate_on": "all-items", "batch_size": 64},
        )
        found.append(fit(config)["test"]["all"])
    assert found[0] == found[1]


def test_the_study(stores: Path) -> None:
    results = stores / "results.jsonl"
    options = [f"--samples={stores / 'samples'}", f"--bare={stores / 'bare'}", f"--photos={stores / 'store'}"]
    options += [f"--titles={stores / 'titles'}", f"--instead=true attributes={stores / 'attributes'}"]
    options += [f"--results={results}", f"--out={stores / 'runs'}", "--seeds=1"]
    names = ["ids + photos + titles", "ids + true attributes"]
    study = ["study.py", *options, f"--variants={'; '.join(names)}"]
    done = run_script(*study)
    table = [line for line in done.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table[1:]] == [f"| {name}" for name in names]
    assert all(cell.count(" / ") == 1 for line in table[1:] for cell in line.strip("| ").split(" | ")[2:])
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["vector_version"].split("@")[0] for line in lines] == [
        "photo=efficientnet_lite0",
        "photo=attributes",
    ]
    for line in lines:
        test = line["test"]
        assert test["seen_items"]["rows"] + test["unseen_items"]["rows"] == test["all"]["rows"]
        assert 0 < test["unseen_products"]["rows"] <= test["unseen_items"]["rows"]
    again = run_script(*study, "--table", f"--over={names[0]}").splitlines()
    assert again[:-1] == [line for line in done.splitlines() if "training" not in line]
    assert again[-1].startswith(f"| {names[1]} over {names[0]} | 1 | ")
    (first, second) = (line["test"]["all"]["auc"] for line in lines)
    gained, low, high = (float(text) for text in re.findall(r"-?\d\.\d{4}", again[-1])[:3])
    assert gained == pytest.approx(second - first, abs=1e-4)
    assert low < gained < high
    of_mean = run_script(*study, "--table", "--over=item + user mean").splitlines()
    assert [line.split(" | ")[0] for line in of_mean[-2:]] == [f"| {name} over item + user mean" for name in names]
