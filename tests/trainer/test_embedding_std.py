"""Where only the match of user and item tells: how far embeddings begin from 0 decides when a net begins to learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_samples import make_matches, make_samples

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models import make
from crossmedia.trainer.models.base import EmbeddingModel


@pytest.fixture(scope="module")
def matches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_matches(tmp_path_factory.mktemp("matches"))


@pytest.mark.parametrize(("std", "learns"), [(0.02, False), (0.3, True)])
def test_a_net_learns_matches_sooner_from_embeddings_that_are_apart(
    matches: Path, std: float, learns: bool, tmp_path: Path
) -> None:
    options = {"embedding_std": std}
    config = FitConfig(str(matches), str(tmp_path), "embedding_mlp", images=False, options=options, batch_size=32)
    result = fit(config)
    assert (result["test"]["all"]["auc"] > 0.65) is learns
    assert any("no better than that of a constant" in doubt for doubt in result["doubts"]) is not learns


def test_the_draw_is_the_same_and_its_spread_another(tmp_path: Path) -> None:
    spec = InputSpec.of(Samples(make_samples(tmp_path, 60, 300, {i: i for i in range(60)})), {"image": 8})
    found = []
    for options in ({}, {"embedding_std": 0.1}):
        torch.manual_seed(0)
        model = make("din", spec, 4, options)
        assert isinstance(model, EmbeddingModel)
        found.append(model.state_dict())
    for name, before in found[0].items():
        factor = 5 if name.startswith("inputs.") else 1
        assert torch.allclose(found[1][name], before * factor), name
    assert float(found[1]["inputs.tables.item_id.weight"].std()) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_spread_that_is_none_is_refused(matches: Path, std: float) -> None:
    spec = InputSpec.of(Samples(matches), {})
    with pytest.raises(
        BadInput,
        match=r"embeddings begin with a spread above 0|embedding_std is (-1.0|nan|inf); it must be a finite number",
    ):
        make("din", spec, 4, {"embedding_std": std})
