"""Words of titles as concepts: a store of texts, a head of concepts, and a model of photos and titles."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from concept_cards import card_of, version_of
from conftest import run_command

import crossmedia
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.runs.checkpoint import load_cards
from crossmedia.trainer.scorer import Scorer

ITEMS, ROWS = 300, 3000
KINDS, STUFFS, CUTS = ("shirt", "dress", "trousers", "jacket"), ("silk", "denim", "wool"), ("short", "long", "wide")
SCHEMA = """
[log]
path = "log.csv"
user = "user"
item = "item"
time = "time"
labels = { click = "click" }
[items]
path = "items.csv"
item = "item"
image = "item"
[vectors.photo]
key = "image"
[vectors.title]
key = "item"
[behaviours]
from_log = { click = "click == 1" }
max_length = 4
[split]
method = "time"
test = 0.2
validation = 0.1
"""


def titles() -> list[str]:
    rng = np.random.default_rng(1)
    return [f"{CUTS[rng.integers(3)]} {STUFFS[rng.integers(3)]} {KINDS[rng.integers(4)]} no {n}" for n in range(ITEMS)]


def write(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items with titles, clicks that go by the word silk, samples, and a store of the titles' concepts."""
    folder = tmp_path_factory.mktemp("titles")
    write(folder / "items.csv", ["item", "title"], list(enumerate(titles())))
    rng, log = np.random.default_rng(2), []
    for n in range(ROWS):
        item = int(rng.integers(ITEMS))
        chance = 0.8 if "silk" in titles()[item] else 0.2
        log.append((int(rng.integers(40)), item, n, int(rng.random() < chance)))
    write(folder / "log.csv", ["user", "item", "time", "click"], log)
    (folder / "s.toml").write_text(SCHEMA)
    build_samples(load_schema(folder / "s.toml"), folder / "samples")
    crossmedia.precompute_texts(folder / "store", folder / "items.csv", text="title", key="item")
    command = ["imgserver", "concepts", "build", f"--store={folder}/store", f"--items={folder}/items.csv", "--key=item"]
    run_command(*command, "--text=title", f"--out={folder}/concepts")
    head = f"--head={folder}/concepts/head.safetensors"
    made = json.loads(run_command("imgserver", "precompute", f"--store={folder}/store", head, "--json").stdout)
    run_command("imgserver", "versions", f"--store={folder}/store", f"--activate={made['version']}")
    return folder


def test_words_of_titles_are_told_and_numbers_of_pixels_are_not(shop: Path) -> None:
    with ImageClient(open_local(shop / "store")) as client:
        card = client.concepts()
        silk = client.get(np.arange(ITEMS)).values[:, card.place("title: silk")]
    has = np.array(["silk" in title for title in titles()])
    assert silk[has].min() > silk[~has].max()
    told_by_others = {one.name for one in card.refused if one.why.startswith("what is told says it already")}
    assert {f"title: {word}" for word in (*STUFFS, *KINDS)} <= {*card.names, *told_by_others}
    assert not card.of_kind("anchor")
    refused = run_command(
        *("imgserver", "concepts", "build", f"--store={shop}/store", f"--items={shop}/items.csv", "--key=item"),
        *("--text=title", f"--out={shop}/other", f"--catalogue={shop}"),
        check=False,
    )
    assert refused.returncode == 2
    assert "has no pixels that are known; leave out --catalogue" in refused.stderr


def test_a_model_of_photos_and_titles_gives_reasons_of_both(shop: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    photos = {item: rng.normal(size=5).astype(np.float16) for item in range(ITEMS)}

    def transports() -> dict[str, Any]:
        mock = MockTransport(photos, version=version_of(5), card=card_of(5))
        return {"photo": mock, "title": open_local(shop / "store")}

    settings: dict[str, Any] = {"epochs": 6, "batch_size": 128, "learning_rate": 1e-2, "width": 4, "id_dropout": 0.5}
    result = fit(FitConfig(str(shop / "samples"), str(tmp_path / "run"), model="concepts", **settings), transports())
    assert result["test"]["all"]["auc"] > 0.7
    cards = load_cards(tmp_path / "run")
    assert "title: silk" in cards["title"].names
    assert cards["photo"].names == card_of(5).names
    scorer = Scorer.load(tmp_path / "run", server={name: ImageClient(one) for name, one in transports().items()})
    silk = next(item for item, title in enumerate(titles()) if "silk" in title)
    found = scorer.score({"user_id": 3}, {"item_id": [silk], "image_id": [silk]}, now_s=ROWS, reasons=3)
    logit = np.log(found.probabilities[0].astype(np.float64) / (1 - found.probabilities[0]))
    assert found.contributions.values.sum() == pytest.approx(logit, abs=1e-5)
    assert any(name.startswith("photo: quality") for name in found.contributions.names)
    assert found.reasons[0][0].term == "title: title: silk"
    assert found.sentences[0] == "Popular here: silk."
