"""Factors beside a net: what only the match of user and item tells, and items that nobody has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_samples import make_matches
from model_batches import SPEC, make_batch

from crossmedia.errors import BadInput
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer.evaluate import score
from crossmedia.trainer.export.exported import export_model
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.layers.factors import PULL, SPEED
from crossmedia.trainer.models import make
from crossmedia.trainer.models.din import DIN
from crossmedia.trainer.runs.checkpoint import load_model


@pytest.fixture(scope="module")
def matches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_matches(tmp_path_factory.mktemp("matches"))


@pytest.mark.parametrize(("factors", "learns"), [(0, False), (8, True)])
def test_factors_learn_what_only_the_match_tells(matches: Path, factors: int, learns: bool, tmp_path: Path) -> None:
    options = {"factors": factors, "activation": "prelu"}  # which is slow to find a match
    config = FitConfig(str(matches), str(tmp_path), "din", images=False, options=options, batch_size=32)
    assert (fit(config)["test"]["all"]["auc"] > 0.65) is learns


def test_an_item_that_no_row_has_adds_nothing(matches: Path, tmp_path: Path) -> None:
    config = FitConfig(str(matches), str(tmp_path), "din", images=False, options={"factors": 4}, epochs=1)
    fit(replace(config, validate_on="unseen-items"))
    model, _, _ = load_model(tmp_path)
    assert isinstance(model, DIN)
    assert model.factors is not None
    unseen = samples_of(matches, "unseen-items").unseen["item_id"]
    items = model.factors.items.weight.detach().numpy()
    assert not items[unseen].any()
    assert np.delete(items, [0, *unseen], axis=0).any(axis=1).all()


def test_factors_are_exported(matches: Path, tmp_path: Path) -> None:
    config = FitConfig(str(matches), str(tmp_path / "run"), "din", images=False, options={"factors": 4}, epochs=1)
    fit(replace(config, batch_size=64))
    exported = export_model(tmp_path / "run", matches, tmp_path / "model.pt2")
    own = score(tmp_path / "run", tmp_path / "own.parquet", samples=matches)
    other = score(exported, tmp_path / "other.parquet", exported=True, samples=matches)
    tables = [pq.read_table(told["scores"])["probability"].to_numpy() for told in (own, other)]
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-6)


def test_each_label_has_factors_of_its_own() -> None:
    spec = replace(SPEC, labels=("click", "buy"))
    model = make("din", spec, 4, {"factors": 3})
    assert isinstance(model, DIN)
    assert model.factors is not None
    with torch.no_grad():
        model.factors.items.weight[:, :3] = 1 / SPEED
    batch, _ = make_batch([3, 0, 2], spec=spec)
    logits = model.factors(batch)
    assert torch.allclose(logits[:, 0], SPEED * model.factors.users(batch.ids["user_id"]).sum(1))
    assert logits.shape == (3, 2)
    assert not logits[:, 1].any()


def test_the_penalty_is_of_all_factors_over_the_training_rows() -> None:
    model = make("din", SPEC, 4, {"factors": 3})
    assert isinstance(model, DIN)
    assert model.factors is not None
    users = model.factors.users.weight
    with torch.no_grad():
        users.fill_(2.0 / SPEED)
    model.acquaint(torch.tensor([0, 30, 10]), {})
    batch, _ = make_batch([1, 1])
    assert model.penalty(batch).item() == pytest.approx(PULL / 2 * users.numel() * 4 / 40)
    assert model.penalty(make_batch([])[0]).item() == 0
    assert make("din", SPEC, 4, {}).penalty(batch).item() == 0


def test_factors_need_users() -> None:
    with pytest.raises(BadInput, match="factors is 3; it must be 0 where no column says who the user is"):
        make("din", replace(SPEC, user_columns={}), 4, {"factors": 3})
