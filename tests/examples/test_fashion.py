"""The fashion example on a part of the real purchases and photos, from the commands to its table."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
import tarfile
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from conftest import ROOT, run_command

from crossmedia.features.reading.samples import Samples

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


def test_the_commands_of_the_example(prepared: Path) -> None:
    photos, titles = prepared / "store", prepared / "titles"
    run_command("imgserver", "precompute", f"--store={photos}", f"--catalogue={prepared / 'photos'}", "--dim=16")
    text = [f"--texts={prepared / 'fashion' / 'articles.csv'}", "--text=text", "--key=article", "--dim=16"]
    run_command("imgserver", "precompute", f"--store={titles}", *text)
    run_command("features", "build", str(prepared / "fashion" / "bare.toml"), f"--out={prepared / 'bare'}")
    assert list(Samples(prepared / "bare").item_ids) == ["item_id"]
    results = prepared / "results.jsonl"
    study = [sys.executable, str(FASHION / "study.py"), f"--samples={prepared / 'samples'}", f"--photos={photos}"]
    study += [f"--titles={titles}", f"--results={results}", f"--out={prepared / 'runs'}", "--seeds=1"]
    study += [f"--bare={prepared / 'bare'}", "--variants=ids + attributes; ids + photos + titles"]
    done = subprocess.run(study, capture_output=True, text=True, check=True)
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table[1:]] == ["| ids + attributes", "| ids + photos + titles"]
    assert all(cell.count(" / ") == 1 for line in table[1:] for cell in line.strip("| ").split(" | ")[2:])
    assert len(results.read_text().splitlines()) == 2
    again = subprocess.run([*study, "--table"], capture_output=True, text=True, check=True)
    assert again.stdout.splitlines() == [line for line in done.stdout.splitlines() if "training" not in line]
