"""Reasons of a trained run: from a file of samples, from a request, exported, and as an approximation."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from concept_cards import card_of
from shop_samples import SCHEMA, item_columns, make_shop, transports

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.client import MockTransport
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.evaluate import score
from crossmedia.trainer.export.exported import export_model
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.places import Place
from crossmedia.trainer.reasons.explain import explain
from crossmedia.trainer.reasons.tables import done_of_request
from crossmedia.trainer.runs.checkpoint import CARDS, load_cards
from crossmedia.trainer.scorer import Scorer

SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2, "width": 4, "max_missing": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("reasons"))


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "white"
    fit(FitConfig(str(folder), str(out), model="concepts", **SETTINGS), transports())
    return out


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, MockTransport]:
    """Where a command finds the vectors."""
    found = transports()
    monkeypatch.setattr(
        "crossmedia.trainer.images.places.Sources.of",
        lambda self, spaces, given=None: {name: Place(found[name]) for name in spaces},
    )
    return found


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder.parent / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def request(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A user who did four things, and six candidates."""
    items = rows_of(folder, "items")
    user: dict[str, Any] = {"user_id": 3, "city": "a", "interests": None, "age": None, "slot": None, "price_shown": 3.0}
    user |= {f"hist_{name}": values for name, values in item_columns(items[:4]).items()}
    user |= {"hist_action": ["click", "buy", "click", "click"], "hist_time": [100, 200, 300, 400]}
    candidates = items[5:11]
    return user, item_columns(candidates) | {"title": [item["title"] or None for item in candidates]}


def scorer_of(run: Path) -> Scorer:
    from crossmedia.imgserver.client import ImageClient

    return Scorer.load(run, server={name: ImageClient(transport) for name, transport in transports().items()})


def test_every_row_of_a_file_sums_to_its_logit(
    run: Path, folder: Path, served: dict[str, MockTransport], tmp_path: Path
) -> None:
    told = explain(run, tmp_path / "reasons.parquet")
    samples = Samples(folder)
    assert told["contributions"] == "exact"
    assert told["rows"] == samples.rows("test")
    assert told["error"] <= 1e-5
    table = pq.read_table(tmp_path / "reasons.parquet")
    assert table.schema.metadata[b"contributions"] == b"exact"
    sums = np.zeros(told["rows"])
    np.add.at(sums, table["row"].to_numpy(), table["contribution"].to_numpy().astype(np.float64))
    probabilities = pq.read_table(run / "predictions.parquet")["probability"].to_numpy().astype(np.float64)
    assert sums == pytest.approx(np.log(probabilities / (1 - probabilities)), abs=1e-4)  # of probabilities in fp32
    ids = {row["item"] for row in rows_of(folder, "items")}
    of_behaviours = table.filter(np.asarray(table["behaviour"].combine_chunks().is_valid()))
    assert len(of_behaviours)
    assert {*of_behaviours["behaviour_id"].to_pylist()} <= ids | {None}
    assert all(name.endswith("x behaviours") for name in set(of_behaviours["term"].to_pylist()))
    few = explain(run, tmp_path / "few.parquet", rows=5, reasons=2)
    assert few["rows"] == 5
    assert len(pq.read_table(tmp_path / "few.parquet")) == 10


def test_the_command_says_what_it_wrote(run: Path, served: dict[str, MockTransport], tmp_path: Path) -> None:
    out = str(tmp_path / "reasons.parquet")
    told = CliRunner().invoke(trainer, ["explain", str(run), "--rows", "9", "--out", out])
    assert told.exit_code == 0, told.output
    assert "9 rows, exact: sums differ from the logits by" in told.output
    told = CliRunner().invoke(trainer, ["explain", str(run), "--rows", "9", "--out", out, "--json"])
    assert json.loads(told.stdout)["rows"] == 9
    assert "no label 'nothing'" in str(
        CliRunner().invoke(trainer, ["explain", str(run), "--label", "nothing", "--out", out]).output
    )


def test_scores_of_a_file_with_reasons(
    run: Path, folder: Path, served: dict[str, MockTransport], tmp_path: Path
) -> None:
    score(run, tmp_path / "scores.parquet", samples=folder, reasons=3)
    table = pq.read_table(tmp_path / "scores.parquet")
    explain(run, tmp_path / "reasons.parquet", reasons=4)
    reasons = pq.read_table(tmp_path / "reasons.parquet").to_pylist()
    for row, found in enumerate(table["reasons"].to_pylist()[:40]):
        expected = [one for one in reasons if one["row"] == row and one["term"] != "bias"][:3]
        assert [(one["term"], one["contribution"]) for one in found] == [
            (one["term"], one["contribution"]) for one in expected
        ]
    assert all(said is not None for said in table["sentence"].to_pylist())


def test_a_request_with_reasons_names_behaviours_as_they_were_given(run: Path, folder: Path) -> None:
    scorer, (user, candidates) = scorer_of(run), request(folder)
    alone = scorer.score(user, candidates, now_s=1000)
    found = scorer.score(user, candidates, now_s=1000, reasons=5)
    assert found.probabilities == pytest.approx(alone)
    logits = np.log(alone.astype(np.float64) / (1 - alone))
    assert found.contributions.logits == pytest.approx(logits, abs=1e-5)
    assert [len(reasons) for reasons in found.reasons] == [5] * 6
    behaviours = {one.behaviour for reasons in found.reasons for one in reasons} - {None}
    assert behaviours <= {0, 1, 2, 3}


def test_a_request_may_be_arrays_and_lack_times_and_the_sentence_claims_no_day(run: Path, folder: Path) -> None:
    scorer, (user, candidates) = scorer_of(run), request(folder)
    user |= {"hist_action": ["clicked", "bought", "clicked", "clicked"]}
    lists = scorer.score(user, candidates, now_s=1000, reasons=2)
    arrays = {k: pa.array(v) if k in ("hist_action", "hist_time", "hist_item_id") else v for k, v in user.items()}
    assert scorer.score(arrays, candidates, now_s=1000, reasons=2).reasons == lists.reasons
    timeless = {name: values for name, values in user.items() if name != "hist_time"}
    found = scorer.score(timeless, candidates, now_s=1000, reasons=2)
    batch = scorer._requests.batch(user, candidates, 1000)
    assert [(one.action, one.time_s) for one in done_of_request(batch, user, scorer._actions)] == [
        *(("clicked", 100.0), ("bought", 200.0), ("clicked", 300.0), ("clicked", 400.0)),
    ]
    assert {one.time_s for one in done_of_request(batch, timeless, scorer._actions)} == {None}
    assert not any("today" in said for said in found.sentences)


def test_without_the_behaviours_that_are_named_it_is_below(run: Path, folder: Path) -> None:
    """Asked again without them, the served model says so, too."""
    scorer, (user, candidates) = scorer_of(run), request(folder)
    found = scorer.score(user, candidates, now_s=1000, reasons=1)
    answered = 0
    for candidate in range(6):
        for share in (0.999, 0.98, 0.9):
            below = float(found.probabilities[candidate]) * share
            removed = found.fewest_removed(candidate, below)
            if removed is None:
                continue
            answered += 1
            kept = [n for n in range(4) if n not in removed]
            less = {k: [v[n] for n in kept] if k.startswith("hist_") else v for k, v in user.items()}
            again = scorer.score(less, candidates, now_s=1000)
            assert again[candidate] < below + 1e-6
    assert answered


def test_a_preference_changes_the_logit_by_what_it_says_and_is_to_be_logged(run: Path, folder: Path) -> None:
    scorer, (user, candidates) = scorer_of(run), request(folder)
    cards = load_cards(run)
    (run / CARDS).write_text((run / CARDS).read_text().replace('"quality 0"', '"soft light"', 1))
    try:
        renamed = scorer_of(run)
        before = renamed.score(user, candidates, now_s=1000, reasons=3)
        after = renamed.score(user, candidates, now_s=1000, reasons=3, preferences={"soft light": -1})
        assert before.contributions.names.count("photo: soft light") == 1
        place = before.contributions.names.index("photo: soft light")
        stated = -np.clip(before.contributions.amounts[:, place], 0, 3)
        assert stated.any()
        logits = [np.log(p.astype(np.float64) / (1 - p)) for p in (before.probabilities, after.probabilities)]
        assert logits[1] - logits[0] == pytest.approx(stated, abs=1e-5)
        assert after.contributions.logits == pytest.approx(logits[1], abs=1e-5)
        assert after.log == {"wanted": [], "unwanted": ["soft light"]}
        alone = renamed.score(user, candidates, now_s=1000, preferences={"soft light": -1})
        assert alone == pytest.approx(after.probabilities)
    finally:
        from crossmedia.trainer.runs.checkpoint import save_cards

        save_cards(run, cards)
    with pytest.raises(BadInput, match="no concept 'soft light'"):
        scorer.score(user, candidates, preferences={"soft light": 1})


def test_what_users_ask_for_is_a_column_of_the_next_samples(run: Path, folder: Path, tmp_path: Path) -> None:
    user, candidates = request(folder)
    asked = scorer_of(run).score(user, candidates, now_s=1000, reasons=1, preferences={"quality 6": 1, "quality 5": -1})
    for name in ("items", "users"):
        shutil.copy(folder.parent / f"{name}.csv", tmp_path)
    written = {name: "|".join(values) for name, values in asked.log.items()}
    assert written == {"wanted": "quality 6", "unwanted": "quality 5"}
    rows = [
        row | (written if n % 2 else dict.fromkeys(written, "")) for n, row in enumerate(rows_of(folder, "impressions"))
    ]
    with open(tmp_path / "impressions.csv", "w", newline="") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)
    lists = 'ids = ["slot"]\nlists = { wanted = "|", unwanted = "|" }'
    (tmp_path / "samples.toml").write_text(SCHEMA.replace('ids = ["slot"]', lists))
    build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "samples")
    fit(FitConfig(str(tmp_path / "samples"), str(tmp_path / "next"), model="concepts", **SETTINGS), transports())
    scorer = scorer_of(tmp_path / "next")
    of_asked = scorer.score(user | asked.log, candidates, now_s=1000, reasons=1)
    silent = scorer.score(user | {"wanted": [], "unwanted": []}, candidates, now_s=1000, reasons=1)
    places = [of_asked.contributions.names.index(f"photo: quality 6 x {name}") for name in written]
    assert (of_asked.contributions.values[:, places] != silent.contributions.values[:, places]).any(axis=0).all()


def test_an_exported_model_takes_preferences_and_has_no_reasons(run: Path, folder: Path, tmp_path: Path) -> None:
    exported, (user, candidates) = scorer_of(export_model(run, folder, tmp_path / "white.pt2")), request(folder)
    wanted = {"quality 6": 0.5}  # of photos alone
    of_run = scorer_of(run).score(user, candidates, now_s=1000, preferences=wanted)
    assert exported.score(user, candidates, now_s=1000, preferences=wanted) == pytest.approx(of_run, abs=1e-6)
    with pytest.raises(BadInput, match="load the run folder"):
        exported.score(user, candidates, reasons=1)
    with pytest.raises(BadInput, match="give the run folder"):
        score(tmp_path / "white.pt2", tmp_path / "s.parquet", exported=True, samples=folder, reasons=1)


def test_the_names_of_a_run_are_those_of_the_server_and_may_be_damaged(run: Path, tmp_path: Path) -> None:
    assert load_cards(run) == {"photo": card_of(8), "title": card_of(6)}
    (tmp_path / CARDS).write_text('{"photo": 3}')
    with pytest.raises(BadInput, match="does not say what the numbers of vectors mean"):
        load_cards(tmp_path)


def test_a_run_on_vectors_without_names_is_refused_before_it_trains(folder: Path, tmp_path: Path) -> None:
    given = transports()
    nameless = MockTransport(given["title"].vectors, version="mock@222222222222+none@000000000000/6")
    config = FitConfig(str(folder), str(tmp_path / "run"), model="concepts", **SETTINGS)
    with pytest.raises(BadInput, match=r"the space 'title' have no names.*concepts build"):
        fit(config, {"photo": given["photo"], "title": nameless})
    fit(replace(config, model="din"), {"photo": given["photo"], "title": nameless})
    assert load_cards(tmp_path / "run") == {"photo": card_of(8)}


def test_a_net_is_explained_by_an_approximation_that_is_called_one(
    folder: Path, served: dict[str, MockTransport], tmp_path: Path
) -> None:
    pytest.importorskip("captum")
    fit(FitConfig(str(folder), str(tmp_path / "din"), model="din", **SETTINGS), transports())
    told = explain(tmp_path / "din", tmp_path / "reasons.parquet", rows=4)
    assert told["contributions"] == "integrated gradients"
    assert 0 < told["error"] < 0.05
    table = pq.read_table(tmp_path / "reasons.parquet")
    assert table.schema.metadata[b"contributions"] == b"integrated gradients"
    assert {"photo (vector)", "shop x behaviours", "start"} <= {*table["term"].to_pylist()}


def test_a_model_without_embeddings_has_no_reasons(
    folder: Path, served: dict[str, MockTransport], tmp_path: Path
) -> None:
    fit(FitConfig(str(folder), str(tmp_path / "lr"), model="lr", **SETTINGS), transports())
    with pytest.raises(BadInput, match="no embeddings"):
        explain(tmp_path / "lr", tmp_path / "reasons.parquet")
    with pytest.raises(BadInput, match="no sum of terms"):
        score(tmp_path / "lr", tmp_path / "s.parquet", samples=folder, reasons=1)


def test_the_light_net_of_rocket_has_exact_reasons(
    folder: Path, served: dict[str, MockTransport], tmp_path: Path
) -> None:
    options = {"light": "concepts", "booster": "din"}
    fit(FitConfig(str(folder), str(tmp_path / "run"), model="rocket", options=options, **SETTINGS), transports())
    told = explain(tmp_path / "run", tmp_path / "reasons.parquet", rows=20)
    assert told["contributions"] == "exact"
    assert told["error"] <= 1e-5
    scorer, (user, candidates) = scorer_of(tmp_path / "run"), request(folder)
    found = scorer.score(user, candidates, now_s=1000, reasons=2)
    assert len(found.reasons[0]) == 2
    exported = scorer_of(export_model(tmp_path / "run", folder, tmp_path / "light.pt2"))
    chance = exported.score(user, candidates, now_s=1000).astype(np.float64)
    assert found.contributions.logits == pytest.approx(np.log(chance / (1 - chance)), abs=1e-5)


def test_validated_on_unseen_items_with_ids_hidden(folder: Path, tmp_path: Path) -> None:
    """What a run forgets of items it has no rows of, popularity among it, an exported model forgets too."""
    settings = {**SETTINGS, "validate_on": "unseen-items", "id_dropout": 0.3, "embedding_l2": 0.1}
    result = fit(FitConfig(str(folder), str(tmp_path / "run"), model="concepts", **settings), transports())
    assert result["validation"]["all"]["rows"] == result["validation"]["unseen_items"]["rows"]
    user, candidates = request(folder)
    of_run = scorer_of(tmp_path / "run").score(user, candidates, now_s=1000)
    exported = scorer_of(export_model(tmp_path / "run", folder, tmp_path / "white.pt2"))
    assert exported.score(user, candidates, now_s=1000) == pytest.approx(of_run, abs=1e-6)
