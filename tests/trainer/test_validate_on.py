"""Runs that are stopped and chosen on items that they never see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from made_samples import make_samples

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import SamplesWithUnseenItems
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.evaluate import evaluate, predict
from crossmedia.trainer.export.exported import Exported, export_model
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.runs.checkpoint import load_model

ITEMS, ROWS = 80, 1500


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_samples(tmp_path_factory.mktemp("validate"), ITEMS, ROWS, {i: i for i in range(ITEMS) if i % 6})


@pytest.fixture
def transport() -> MockTransport:
    vectors = np.random.default_rng(5).normal(size=(ITEMS, 8)).astype(np.float16)
    return MockTransport(dict(enumerate(vectors)))


@pytest.fixture
def config(samples: Path, tmp_path: Path) -> FitConfig:
    return FitConfig(
        str(samples), str(tmp_path / "run"), epochs=2, batch_size=64, width=4, patience=9, validate_on="unseen-items"
    )


@pytest.mark.parametrize(
    ("model", "images"),
    [("lr", True), ("mlr", False), ("din", True), ("dien", False), ("rocket", True), ("muse", True)],
)
def test_a_model_knows_what_was_held_out_no_better_than_what_never_was(
    config: FitConfig, transport: MockTransport, model: str, images: bool, tmp_path: Path
) -> None:
    """Whoever loads it reads the samples as they are, and gets the numbers of the run."""
    result = fit(replace(config, model=model, images=images, id_dropout=0.2), transport if images else None)
    read = SamplesWithUnseenItems(config.samples)
    assert result["validation"]["all"]["rows"] == read.rows("validation")
    assert result["validation"]["all"] == result["validation"]["unseen_items"]
    assert result["train"]["items_held_out"] == len(read.unseen["item_id"]) > 0
    assert result["test"]["all"]["rows"] == Samples(config.samples).rows("test")
    loaded, _, _ = load_model(config.out)
    plain, cpu = Samples(config.samples), torch.device("cpu")
    feed = Feed(plain, Spaces({"image": ImageHead(ImageClient(transport))} if images else {}), 64, cpu)
    of_run = pq.read_table(Path(config.out) / "predictions.parquet")["probability"].to_numpy()
    exported = Exported(export_model(config.out, plain, tmp_path / "exported.pt2"))
    for predictor in (loaded.served(), exported):
        assert predict(predictor, feed, "test")[:, 0] == pytest.approx(of_run, abs=1e-5)


def test_ids_that_were_held_out_are_not_trained(config: FitConfig) -> None:
    """Of place 0 are the weights of what was held out; those of all other items that training shows have moved."""
    fit(replace(config, images=False))
    tables = load_model(config.out)[0].state_dict()
    for name, unseen in SamplesWithUnseenItems(config.samples).unseen.items():
        table = tables[f"inputs.tables.{name}.weight"]
        assert (table[unseen] == table[0]).all()
        others = np.setdiff1d(np.arange(1, len(table)), unseen)
        assert (table[others] != table[0]).any(dim=1).all()


def test_evaluate_measures_the_rows_that_the_run_was_validated_on(config: FitConfig) -> None:
    result = fit(replace(config, images=False))
    for split in ("validation", "test"):
        found = evaluate(config.out, split=split)
        assert found["all"]["auc"] == pytest.approx(result[split]["all"]["auc"], abs=1e-6)
        assert found["unseen_items"]["rows"] == result[split]["unseen_items"]["rows"]
    best = max(epoch["validation_auc"] for epoch in result["curve"])
    assert result["validation"]["all"]["auc"] == pytest.approx(best)


@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        ("lr", {"hash_bits": 12}, "it hashes all columns"),
        ("mlr", {"crosses": "user_id*item_id"}, r"it hashes user_id\*item_id"),
        ("lr", {"crosses": "hist_image_id*user_id"}, r"it hashes hist_image_id\*user_id"),
        ("gbdt_lr", {"trees": 3}, "its trees compare the numbers of ids"),
    ],
)
def test_models_that_would_take_an_unknown_item_for_another_are_refused(
    config: FitConfig, model: str, options: dict[str, object], why: str
) -> None:
    with pytest.raises(BadInput, match=f"cannot be validated on unseen items: {why}"):
        fit(replace(config, model=model, options=options, images=False))
    fit(replace(config, model=model, options=options, images=False, validate_on="all-items"))


def test_a_cross_of_other_columns_is_none_of_them(config: FitConfig) -> None:
    fit(replace(config, model="lr", options={"crosses": "user_id*hist_action"}, images=False))


def test_it_is_another_run_and_said_by_the_commands(samples: Path, tmp_path: Path) -> None:
    options = ["--samples", str(samples), "--epochs", "1", "--models", "embedding_mlp", "--seeds", "1"]
    options += ["--results", str(tmp_path / "results.jsonl"), "--json"]
    store = ["--store", str(tmp_path / "none")]
    done = CliRunner().invoke(trainer, ["fit", "--no-images", "--out", str(tmp_path / "fit"), *options[:4]])
    assert done.exit_code == 0, done.output
    refused = ["fit", "--no-images", "--out", str(tmp_path / "fit"), *options[:4], "--validate-on", "unseen-items"]
    done = CliRunner().invoke(trainer, refused)
    assert done.exit_code == 2
    assert "validate-on all-items, not unseen-items" in done.output
    done = CliRunner().invoke(trainer, ["compare", *options, *store, "--validate-on", "new-items"])
    assert done.exit_code == 2
    assert "'new-items' is not one of 'all-items', 'unseen-items'" in done.output
    config = json.loads((tmp_path / "fit" / "config.json").read_text())
    assert config["fit"]["validate_on"] == "all-items"
