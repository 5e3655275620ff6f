"""Models and heads that are larger than memory: refused before any of it is taken, by the option that makes them so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_samples import make_matches
from model_batches import SPEC

from crossmedia.errors import BadInput
from crossmedia.trainer import room
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.models import MODELS, make
from crossmedia.trainer.room import check_head_fits, check_model_fits

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "width", "options", "said"),
    [
        ("din", 16, {"factors": 10**9}, r"factors is 1000000000, and .* take about [\d,]+\.\d GB, of which [\d,.]+ GB"),
        ("din", 16, {"factors": 10**20}, r"factors is 1000{17}0+, and .* take more than PyTorch can count, of which"),
        ("din", 16, {"factors": 10**17}, "factors is 1"),
        ("embedding_mlp", 10**12, {"factors": 8}, r"width is 1000000000000, and .* take about"),
        ("dien", 16, {"hidden": (10**6, 10**6, 8)}, r"hidden is 1000000,1000000,8, and"),
        ("mlr", 16, {"regions": 10**10}, r"regions is 10000000000, and"),
        ("rocket", 16, {"light_options": {"hidden": (10**9, 10**9)}}, r"light\.hidden is 1000000000,1000000000, and"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_what_makes_it_large(
    name: str, width: int, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=f"{name} does not fit into memory: {said}"):
        check_model_fits(name, SPEC, width, options, CPU)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_counted_is_what_a_model_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, and nothing random is drawn."""
    before = torch.get_rng_state()
    weights = sum(one.numel() * one.element_size() for one in make(name, SPEC, 8, {}).parameters())
    torch.set_rng_state(before)
    monkeypatch.setattr(room, "available_bytes", lambda: 4 * weights)
    check_model_fits(name, SPEC, 8, {}, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(room, "available_bytes", lambda: 4 * weights - 1)
    with pytest.raises(BadInput, match=rf"{name} does not fit into memory: width is 8"):
        check_model_fits(name, SPEC, 8, {}, CPU)
    check_model_fits(name, SPEC, 8, {}, CPU, copies=1)


def test_a_head_that_does_not_fit_is_refused() -> None:
    check_head_fits((1280, 256, 64), CPU)
    with pytest.raises(BadInput, match=r"head_widths is 1000000000,64, behind 1280 numbers of a feature, and .* GB"):
        check_head_fits((1280, 10**9, 64), CPU)


def test_fit_refuses_before_it_makes_anything(tmp_path: Path) -> None:
    samples = make_matches(tmp_path)
    for more, said in (({"options": {"factors": 10**9}}, "factors is 1000000000"), ({"width": 10**12}, "width is 1")):
        with pytest.raises(BadInput, match=f"din does not fit into memory: {said}"):
            fit(FitConfig(str(samples), str(tmp_path / "run"), "din", images=False, **more))
