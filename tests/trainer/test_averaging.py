"""The average of the weights: by its formula, beside training that it leaves alone, kept in the place of the last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_samples import make_samples
from safetensors.torch import load_file
from torch import nn

from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.models import MODELS, model_class
from crossmedia.trainer.report import summary
from crossmedia.trainer.runs import results
from crossmedia.trainer.settings import identity
from crossmedia.trainer.training.averaging import ETA, Averaging


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_samples(tmp_path_factory.mktemp("averaging"), 60, 1500, {})


@pytest.fixture
def config(samples: Path, tmp_path: Path) -> FitConfig:
    return FitConfig(
        str(samples), str(tmp_path / "run"), images=False, epochs=3, patience=3, batch_size=32, learning_rate=0.01
    )


def test_each_step_counts_as_the_formula_says() -> None:
    """Written out, step s of t counts with its share times what all later ones leave of it, which sums to 1."""
    module = nn.BatchNorm1d(4)
    running, batches = (module.get_buffer(name) for name in ("running_mean", "num_batches_tracked"))
    average = Averaging(module)
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(50, 4))
    for step, weights in enumerate(steps):
        module.weight.data.copy_(torch.from_numpy(weights))
        running.copy_(torch.from_numpy(weights))
        batches.fill_(step + 1)
        average.add(step)
    shares = (ETA + 1) / (np.arange(1, 51) + ETA)
    counts = shares * np.append(np.cumprod((1 - shares)[:0:-1])[::-1], 1.0)
    assert counts.sum() == pytest.approx(1)
    assert counts[-10:].sum() > 0.8, "the latest steps count most"
    own = module.weight.detach().clone()
    with average.in_place():
        for found in (module.weight, running):
            assert np.allclose(found.detach().numpy(), counts @ steps, atol=1e-6)
        assert batches == 50
    assert torch.equal(module.weight, own)


def test_the_weights_come_back_from_a_measurement_that_fails() -> None:
    module = nn.Linear(2, 2)
    average = Averaging(module)
    average.add(0)
    own = module.weight.detach().clone().fill_(3)
    module.weight.data.copy_(own)
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert torch.equal(module.weight, own)


@pytest.mark.parametrize("model", ["din", "dien", "rocket"])
def test_training_is_the_same_and_the_better_weights_are_kept(config: FitConfig, model: str) -> None:
    curves, weights = [], []
    for averaging in (True, False):
        run = replace(config, model=model, averaging=averaging, out=f"{config.out}-{averaging}")
        curves.append(fit(run)["curve"])
        weights.append(load_file(Path(run.out) / "model.safetensors"))
    losses = [[epoch["train_log_loss"] for epoch in curve] for curve in curves]
    assert losses[0] == losses[1]
    better, last = ([epoch["validation_auc"] for epoch in curve] for curve in curves)
    assert all(one >= other for one, other in zip(better, last, strict=True))
    assert better != last, "in some epoch the average is better"
    same = all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert same == (max(better) == max(last))


@pytest.mark.parametrize("model", ["lr", "mlr"])
def test_sparse_models_stay_sparse(config: FitConfig, model: str) -> None:
    runs = [replace(config, model=model, averaging=on, out=f"{config.out}-{on}") for on in (True, False)]
    found = [fit(run) for run in runs]
    assert found[0]["test"] == found[1]["test"]
    assert found[0]["notes"]["weights_not_zero"] < found[0]["notes"]["weights"]
    assert [name for name in MODELS if not model_class(name).averages] == ["lr", "mlr", "gbdt_lr"]


def test_what_older_releases_trained_was_not_averaged(tmp_path: Path) -> None:
    key: dict[str, Any] = {
        "data": "d",
        "samples": "s",
        "model": "din",
        "images": False,
        "vector_version": "",
        "seed": 0,
    }
    old, off, on = ({**key, "options": options} for options in ({}, {"averaging": False}, {"averaging": True}))
    assert results.identity(old) == results.identity(off) != results.identity(on)
    path = tmp_path / "results.jsonl"
    for line in (old, on):
        results.append(path, {**line, "test": {}, "train": {}, "curve": []})
    read = list(results.read([path]).values())
    assert [summary.options_text(line) for line in read] == ["averaging=False", "default options"]
    assert len(summary.groups(read)) == 2
    assert identity({}, "r", "v") == identity({"averaging": False}, "r", "v") != identity({"averaging": True}, "r", "v")
