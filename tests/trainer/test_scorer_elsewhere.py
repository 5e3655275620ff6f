"""A Scorer in another process: loaded again from where it was loaded, or refused in words."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest
from made_samples import WITHOUT_HISTORIES, make_samples

from crossmedia import FitConfig, Scorer, export_model, fit
from crossmedia.errors import BadInput
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.trainer.runs.checkpoint import load_model

REQUEST = ({"user_id": "u1"}, {"item_id": ["i1", "i2"]})


def _scored(scorer: Scorer) -> list[float]:
    found: list[float] = scorer.score(*REQUEST).tolist()
    return found


def test_a_scorer_is_loaded_again_in_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_samples(tmp_path, 20, 600, {}, WITHOUT_HISTORIES.replace('image = "image"\n', ""))
    monkeypatch.chdir(tmp_path)
    fit(FitConfig("samples", "run", "lr", images=False, epochs=1))
    scorers = [Scorer.load("run"), Scorer.load(export_model("run", out="run.pt2"))]
    monkeypatch.chdir("/")  # names are not looked up where the other process happens to be
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for scorer in scorers:
            assert pool.apply(_scored, (scorer,)) == pytest.approx(scorer.score(*REQUEST).tolist())
    model, lineage, _ = load_model(tmp_path / "run")
    of_parts = Scorer(model, lineage, Vocabularies.load(tmp_path / "samples"), {})
    with pytest.raises(BadInput, match=r"made of its parts .* Scorer\.load"):
        pickle.dumps(of_parts)
