"""The simulator's promises, and the report over a small comparison on the real photos."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT, DaemonProcess, run_command
from in_browser import in_browser

from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples

GROCERY = ROOT / "examples" / "grocery"


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate", GROCERY / "simulate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(GROCERY)  # as where it is run
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def logs(simulate: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    simulate.simulate(folder, 1)
    shutil.copy(GROCERY / "samples.toml", folder)
    return folder


@pytest.fixture(scope="module")
def samples(logs: Path) -> Samples:
    build_samples(load_schema(logs / "samples.toml"), logs / "samples")
    return Samples(logs / "samples")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_seed_decides_everything(simulate: ModuleType, logs: Path, tmp_path: Path) -> None:
    simulate.simulate(tmp_path, 1)
    for name in ("impressions.csv", "behaviours.csv", "items.csv", "users.csv", "truth.json"):
        assert (tmp_path / name).read_bytes() == (logs / name).read_bytes()


def test_late_items_are_unseen_before_the_test_part(logs: Path, samples: Samples) -> None:
    late = set(json.loads((logs / "truth.json").read_text())["late_items"])
    for split in ("train", "validation"):
        assert not late & {int(i) for i in samples.frame(split, ["raw_item_id"])["raw_item_id"].to_pylist()}
    known = {int(i) for i in samples.vocabulary.values["item_id"].to_pylist()}
    assert not late & known
    test = np.array([int(i) in late for i in samples.frame("test", ["raw_item_id"])["raw_item_id"].to_pylist()])
    places = samples.frame("test", ["item_id"])["item_id"].to_numpy()
    assert ((places == 0) == test).all(), "unseen items are the late ones, and no others"
    assert 0.35 < test.mean() < 0.5


def test_the_reference_is_the_auc_of_the_true_probabilities_on_the_test_rows(logs: Path, samples: Samples) -> None:
    from crossmedia.trainer.metrics import auc

    truth = json.loads((logs / "truth.json").read_text())
    impressions = rows(logs / "impressions.csv")
    by_time = {int(r["time"]): p for r, p in zip(impressions, truth["probabilities"], strict=True)}
    table = samples.frame("test", ["timestamp", "label", "item_id"])
    p = np.array([by_time[t] for t in table["timestamp"].to_pylist()])
    y, unseen = table["label"].to_numpy(), table["item_id"].to_numpy() == 0
    assert auc(y, p) == pytest.approx(truth["reference"]["test"]["all"], abs=1e-4)
    assert auc(y[unseen], p[unseen]) == pytest.approx(truth["reference"]["test"]["unseen_items"], abs=1e-4)


def test_every_column_has_its_effect(simulate: ModuleType, logs: Path) -> None:
    """The true logit, rebuilt from the written files and the coefficients, leaves only the history's part over.

    Of an item with two photos each counts half, whichever it is; of the price and of each tag the weight is found, too.
    """
    truth = json.loads((logs / "truth.json").read_text())
    effects = {name: np.array(values) for name, values in truth["effects"].items()}
    items = {r["item_id"]: r for r in rows(logs / "items.csv")}
    city = {r["user_id"]: int(r["city"][4:]) for r in rows(logs / "users.csv")}
    impressions = rows(logs / "impressions.csv")
    shop = sys.modules["shop"]
    statistics = {int(p.stem): shop.pixel_statistics(p) for p in sorted((GROCERY / "images").glob("*.jpg"))}
    raw = np.array([list(s.values()) for s in statistics.values()])
    standard = dict(zip(statistics, (raw - raw.mean(0)) / raw.std(0), strict=True))
    prices = np.log1p([float(r["price"] or "nan") for r in items.values()])
    price = dict(zip(items, np.nan_to_num((prices - np.nanmean(prices)) / np.nanstd(prices)), strict=True))

    def of_photos(item: dict[str, str]) -> list[float]:
        """Statistics of a photo that is alone, of the first and of the second of two; zeros for what is not there."""
        first, second = (standard[int(item[n])] if item[n] else np.zeros(3) for n in ("image_id", "second_image_id"))
        none = np.zeros(3)
        return [*np.concatenate([none, first, second] if item["second_image_id"] else [first, none, none])]

    def of_tags(item: dict[str, str]) -> list[float]:
        has = [tag in item["tags"].split("|") for tag in shop.TAGS]
        return [tag / max(1, sum(has)) for tag in has]

    design: list[list[float]] = []
    for r in impressions:
        item, user = items[r["item_id"]], int(r["user_id"][1:])
        title, review = (np.array([int(w[1:]) for w in item[k].split()]) for k in ("title", "review"))
        design.append(
            [
                effects["activity"][user],
                effects["city"][city[r["user_id"]]],
                effects["shop"][int(item["shop_id"][4:])],
                effects["category"][int(item["cate_id"][4:])],
                effects["title"][title].sum(),
                effects["review"][review].sum() / 2,
                *of_photos(item),
                price[r["item_id"]],
                truth["quality"][r["item_id"]],
                *of_tags(item),
                1.0,
            ]
        )
    p = np.array(truth["probabilities"]).clip(1e-6, 1 - 1e-6)
    found, *_ = np.linalg.lstsq(np.array(design), np.log(p / (1 - p)), rcond=None)
    assert np.abs(found[:6] - 1).max() < 0.25, "user, city, shop, category, title and review count once each"
    taste = effects["taste"].mean(0)
    assert np.abs(found[6:9] - taste).max() < 0.1, "the pixels count by the mean taste"
    assert np.abs(found[9:15].reshape(2, 3) - taste / 2).max() < 0.1, "and by half of it in each of two photos"
    assert found[15] == pytest.approx(effects["price"][0], abs=0.05)
    assert effects["price"][0] == shop.PRICE_WEIGHT
    assert found[16] == pytest.approx(1, abs=0.1), "an item's own quality counts once"
    assert np.abs(found[17:29] - effects["tag"]).max() < 0.1
    assert effects["tag"].std() > 0.2


def test_some_items_have_two_photos_no_price_or_no_tags(logs: Path) -> None:
    """All photos are real, and each is of one item; cells are empty where there is nothing."""
    items = rows(logs / "items.csv")
    photos = [r[name] for r in items for name in ("image_id", "second_image_id") if r[name]]
    assert sorted(map(int, photos)) == sorted(int(path.stem) for path in (GROCERY / "images").glob("*.jpg"))
    assert sum(bool(r["second_image_id"]) for r in items) == 30
    assert sum(not r["image_id"] for r in items) == 5
    assert 0 < sum(not r["price"] for r in items) <= 12
    assert {len(r["tags"].split("|")) for r in items if r["tags"]} >= {1, 2, 3}
    assert 10 < sum(not r["tags"] for r in items) < 100


def test_plain_logs_are_those_of_the_results(simulate: ModuleType, tmp_path: Path) -> None:
    """What docs/results.md tells was measured on them."""
    simulate.simulate(tmp_path, 1, plain=True)
    files = ("items.csv", "users.csv", "impressions.csv", "behaviours.csv")
    digest = hashlib.sha256(b"".join((tmp_path / name).read_bytes() for name in files)).hexdigest()
    assert digest.startswith("ea9ea695962bf700")
    assert json.loads((tmp_path / "reference.json").read_text())["test"]["all"] == pytest.approx(0.8303, abs=5e-5)
    shutil.copy(GROCERY / "plain.toml", tmp_path)
    report = build_samples(load_schema(tmp_path / "plain.toml"), tmp_path / "samples")
    assert (report.items, report.images) == (248, 243)


def test_behaviours_follow_clicks(logs: Path) -> None:
    clicked = {(r["user_id"], r["item_id"]) for r in rows(logs / "impressions.csv") if r["click"] == "1"}
    assert {(r["user_id"], r["item_id"]) for r in rows(logs / "behaviours.csv")} <= clicked
    assert {r["action"] for r in rows(logs / "behaviours.csv")} == {"click", "fav", "cart", "buy"}
    for r in rows(logs / "impressions.csv"):
        assert r["click"] == "1" or (r["fav"], r["cart"], r["buy"]) == ("0", "0", "0")


@pytest.fixture(scope="module")
def page(logs: Path, samples: Samples, daemon: DaemonProcess) -> Path:
    folder = logs / "runs"
    run_command(
        *("trainer", "compare", f"--samples={samples.folder}", f"--server={daemon.address}", "--models=din"),
        *("--seeds=1", "--epochs=1", f"--reference={logs / 'reference.json'}", f"--out={folder}"),
    )
    out = logs / "report.html"
    run_command(
        "trainer", "report", str(folder), f"--server={daemon.address}", f"--out={out}", "--seed=8", "--title=A <title>"
    )
    return out


def test_the_report_needs_no_network_and_hides_nothing(page: Path) -> None:
    html = page.read_text()
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", html)
    assert html.count("<script") == 1  # the one that sorts tables
    assert "A &lt;title&gt;" in html
    assert "best possible (true probabilities)" in html
    assert html.count("data:image/jpeg;base64,") > 40
    assert "no image" in html, "items without a photo are shown as such"
    assert len(re.findall(r'<span class="name">item [0-9]+</span>', html)) > 20, "photos are called by their items"
    assert re.search(r'alt="photo of item [0-9]+ \(image [0-9]+\)"', html)
    assert re.search(r"It counts users with rows of both labels: [0-9,]+ of [0-9,]+ users\.", html)
    for heading in ("never shown in training", "Learning curves", "nearest neighbours", "What din looked at"):
        assert heading in html


def test_the_report_says_what_came_out_in_one_number(page: Path) -> None:
    """The difference of the AUC in pairs of 100, beside the metrics that it is from."""
    html = page.read_text()
    (number,) = re.findall(r'<span class="number">([^<]*)</span>', html)
    comparison = json.loads((page.parent / "runs" / "compare.json").read_text())
    ids, images = (row["all"]["auc"]["mean"] for row in comparison["rows"] if not row["baseline"])
    assert number == f"{100 * (images - ids):+.1f}"
    assert "With pictures, din puts so many" in html
    assert "With one seed the intervals are over users and items alone" in html


def test_the_report_says_what_it_was_made_from(page: Path, samples: Samples) -> None:
    html = page.read_text()
    for name in ("train", "validation", "test"):
        label = np.asarray(samples.frame(name, ["label"])["label"])
        item = np.asarray(samples.frame(name, ["item_id"])["item_id"])
        user = np.asarray(samples.frame(name, ["user_id"])["user_id"])
        cells = [
            f"{len(label):,}",
            f"{label.sum():,}",
            *(f"{100 * share:.1f} %" for share in (label.mean(), (item == 0).mean(), (user == 0).mean())),
        ]
        (row,) = re.findall(rf"<tr><td>{name}</td>(.*?)</tr>", html, flags=re.DOTALL)
        assert re.findall(r"<td>([^<]*)</td>", row) == cells
    run = json.loads((page.parent / "runs" / "compare.json").read_text())["runs"][0]
    for said in (run["commit"], run["date"], "epochs=1", "batch_size=128", samples.hash, samples.vocabulary_hash):
        assert said in html, said
    constant = run["test"]["all"]["base_log_loss"]
    rate = run["test"]["all"]["positives"] / run["test"]["all"]["rows"]
    assert constant == pytest.approx(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))
    assert f">{constant:.4f}<" in html


def test_the_report_says_which_way_is_better(page: Path) -> None:
    html = page.read_text()
    for heading in ("AUC ↑", "GAUC ↑", "log loss ↓", "RelaImpr % ↑", "AUC, unseen ↑", "samples/s ↑", "bytes/row ↓"):
        assert f"<th>{heading}</th>" in html
    explained = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", html)
    assert {"AUC ↑", "GAUC ↑", "log loss ↓", "RelaImpr ↑"} <= {name for name, text in explained if len(text) > 30}


def test_the_report_shows_attention_on_one_scale(page: Path) -> None:
    """As many positive rows as negative; the bar of a weight is its size, not its share of the row's largest."""
    html = page.read_text()
    assert html.count("Positive row, predicted") == html.count("Negative row, predicted") == 3
    assert re.search(r"Attention (does (nothing|little) here|tells behaviours apart): in 400 such rows", html)
    caption = r'<figcaption>(?:<span class="name">[^<]*</span>)?([+-][0-9.]+)</figcaption>'
    bars = re.findall(rf'width: (\d+)%"></span></div>\s*{caption}', html)
    assert len(bars) > 12
    for width, weight in bars:
        assert int(width) == pytest.approx(min(100.0, 100 * abs(float(weight))), abs=1)


def test_the_report_says_why_photos_are_absent(page: Path, tmp_path: Path) -> None:
    import os

    env = {**os.environ, "CROSSMEDIA_TRAINER_REPORT_SERVER": "localhost:1"}
    command = [
        sys.executable,
        "-m",
        "crossmedia.trainer",
        "report",
        str(page.parent / "runs"),
        f"--out={tmp_path / 'r.html'}",
    ]
    subprocess.run(command, check=True, env=env, timeout=120, capture_output=True)
    assert "Not drawn: No image server answers at localhost:1." in (tmp_path / "r.html").read_text()


def test_a_comparison_that_has_not_ended_says_so(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("{}\n")
    command = [sys.executable, "-m", "crossmedia.trainer", "report", str(tmp_path), f"--out={tmp_path / 'r.html'}"]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == 2
    assert "has not ended. The same 'trainer compare' goes on" in done.stderr


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 420])
def test_the_report_in_a_browser(page: Path, tmp_path: Path, width: int) -> None:
    """On a screen and on a phone: nothing is wider than the page, and no text, of charts too, is smaller than 10 px."""
    found = in_browser(page.read_text(), tmp_path, width)
    assert found["images"] == found["drawn"] > 40
    assert found["unsaid"] == 0
    assert found["charts"] == 2
    assert found["dots"] > 1
    assert not found["tooWide"]
    assert found["smallest"] >= 10
    assert found["requests"] == 0


def test_a_class_sells_in_place_of_the_pixels(simulate: ModuleType, tmp_path: Path) -> None:
    truth = simulate.simulate(tmp_path, 1, plain=True, effect="department")
    assert truth["factors"] == ["Fruit", "Packages", "Vegetables"]
    with open(tmp_path / "items.csv", newline="", encoding="utf-8") as file:
        items = list(csv.DictReader(file))
    with open(GROCERY / "photos.csv", newline="", encoding="utf-8") as file:
        classes = {row["item_id"]: row["department"] for row in csv.DictReader(file)}
    assert all(item["department"] == classes.get(item["image_id"], "") for item in items)
    worth = dict(zip(truth["factors"], np.mean(truth["effects"]["taste"], axis=0), strict=True))
    logits = np.log(np.array(truth["probabilities"]) / (1 - np.array(truth["probabilities"])))
    with open(tmp_path / "impressions.csv", newline="", encoding="utf-8") as file:
        shown = [row["item_id"] for row in csv.DictReader(file)]
    of_item = {item["item_id"]: item["department"] for item in items}
    own = np.array([of_item[item] for item in shown])
    means = {name: logits[own == name].mean() for name in worth}
    best, worst = max(worth, key=worth.__getitem__), min(worth, key=worth.__getitem__)
    assert means[best] - means[worst] == pytest.approx(worth[best] - worth[worst], abs=0.35)


def test_a_class_that_photos_do_not_have_is_refused(simulate: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no column 'colour'"):
        simulate.simulate(tmp_path, 1, effect="colour")
