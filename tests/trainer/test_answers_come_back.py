"""What users ask for goes into the log, and the next model knows what such users click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from concept_cards import HEAD, version_of

from crossmedia.concepts import Concept, ConceptCard
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.scorer import Scorer

ITEMS, USERS, ROWS = 60, 24, 1200
SCHEMA = """
[log]
path = "PATH"
user = "user"
item = "item"
time = "time"
labels = { click = "click" }
LISTS
[items]
path = "items.parquet"
item = "item"
image = "item"
[behaviours]
from_log = { click = "click == 1" }
max_length = 4
[split]
method = "time"
test = 0.2
validation = 0.1
"""
CARD = ConceptCard(
    HEAD,
    "mock@000000000000",
    9,
    9,
    (Concept("warmth", "anchor"), Concept("shine", "anchor"), Concept("rest 1", "rest")),
)
RNG = np.random.default_rng(3)
VECTORS = {item: RNG.normal(size=3).astype(np.float16) for item in range(ITEMS)}


def transport() -> MockTransport:
    return MockTransport(VECTORS, version=version_of(3), card=CARD)


def trained(folder: Path, log: dict[str, Any], lists: str = "") -> Scorer:
    """A model of a log, ready to score."""
    folder.mkdir()
    pq.write_table(pa.table({"item": range(ITEMS)}), folder / "items.parquet")
    pq.write_table(pa.table(log), folder / "log.parquet")
    (folder / "s.toml").write_text(SCHEMA.replace("PATH", "log.parquet").replace("LISTS", lists))
    build_samples(load_schema(folder / "s.toml"), folder / "samples")
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 64, "learning_rate": 1e-2, "width": 4}
    fit(FitConfig(str(folder / "samples"), str(folder / "run"), model="concepts", **settings), transport())
    return Scorer.load(folder / "run", server=ImageClient(transport()))


def test_preferences_of_one_model_are_columns_of_the_next(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(0, ITEMS, ROWS).tolist()
    users = [f"u{n}" for n in rng.integers(0, USERS, ROWS)]
    log: dict[str, Any] = {"user": users, "item": shown, "time": list(range(ROWS))}
    first = trained(tmp_path / "first", log | {"click": rng.integers(0, 2, ROWS).tolist()})

    wanted, unwanted, clicks = list[list[str]](), list[list[str]](), list[int]()
    for user, item in zip(users, shown, strict=True):
        like = int(user[1:]) % 3 - 1  # a third asks for less, a third for nothing, a third for more
        asked = {"warmth": like} if like else {}
        found = first.score(
            {"user_id": user}, {"item_id": [item], "image_id": [item]}, now_s=ROWS, reasons=1, preferences=asked
        )
        wanted.append(found.log["wanted"])
        unwanted.append(found.log["unwanted"])
        clicks.append(int(rng.random() < 1 / (1 + np.exp(-2.5 * like * float(VECTORS[item][0])))))
    assert {tuple(names) for names in wanted} == {tuple(names) for names in unwanted} == {(), ("warmth",)}

    second = trained(
        tmp_path / "second",
        log | {"click": clicks, "wanted": wanted, "unwanted": unwanted},
        'lists = ["wanted", "unwanted"]',
    )
    warm = max(VECTORS, key=lambda item: float(VECTORS[item][0]))
    candidate = {"item_id": [warm], "image_id": [warm]}
    answers = {
        name: second.score({"user_id": "new", **said}, candidate, now_s=2 * ROWS, reasons=1)
        for name, said in (
            ("more", {"wanted": ["warmth"], "unwanted": []}),
            ("less", {"wanted": [], "unwanted": ["warmth"]}),
            ("nothing", {"wanted": [], "unwanted": []}),
        )
    }
    chance = {name: float(answer.probabilities[0]) for name, answer in answers.items()}
    assert chance["more"] > chance["nothing"] + 0.1
    assert chance["less"] < chance["nothing"] - 0.1
    assert {"warmth x wanted", "warmth x unwanted"} <= set(answers["more"].contributions.names)
