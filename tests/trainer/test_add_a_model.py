"""The example of docs/add-a-model.md is a model like any other."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from model_batches import SPEC, make_batch
from test_ladder import config, folder, transport  # noqa: F401  fixtures

from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.evaluate import predict
from crossmedia.trainer.export.exported import Exported, export_model
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.models import MODELS, make
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.runs.checkpoint import load_model


@pytest.fixture
def two_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Registers the model of the document's first block, as its second block says."""
    module, line = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-model.md").read_text(), re.DOTALL)
    (tmp_path / "two_tower.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODELS, "two_tower", "")
    exec(line, {"MODELS": MODELS})
    monkeypatch.setitem(MODELS, "two_tower", MODELS["two_tower"].removeprefix("crossmedia.trainer.models."))
    yield "two_tower"
    sys.modules.pop("two_tower", None)


def test_its_logits_are_an_inner_product(two_tower: str) -> None:
    model = make(two_tower, replace(SPEC, labels=("click", "buy")), 4, {"meeting": 3}).eval()
    assert isinstance(model, EmbeddingModel)
    batch, vectors = make_batch()
    logits = model(batch, vectors)
    assert logits.shape == (3, 2)
    x = model.inputs(batch, vectors)
    item = model.item(x.target)  # type: ignore[operator]
    for row in range(3):
        behaviours = x.history[batch.segments == row].sum(0)
        user = model.user(torch.cat([behaviours, x.other[row]])[None])[0]  # type: ignore[operator]
        assert logits[row, 1].item() == pytest.approx((user[3:] @ item[row, 3:]).item(), abs=1e-5)


def test_it_is_trained_exported_and_scored_like_the_others(
    two_tower: str,
    config: FitConfig,  # noqa: F811
    transport: MockTransport,  # noqa: F811
    tmp_path: Path,
) -> None:
    fit(replace(config, model=two_tower, options={"hidden": (8,)}), transport)
    samples, cpu, client = Samples(config.samples), torch.device("cpu"), ImageClient(transport)
    exported = Exported(export_model(config.out, samples, tmp_path / "exported.pt2"))
    loaded, _, _ = load_model(config.out)
    feed = Feed(samples, Spaces({"image": ImageHead(client)}), 64, cpu)
    found = [predict(model, feed, "test") for model in (loaded, exported)]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
