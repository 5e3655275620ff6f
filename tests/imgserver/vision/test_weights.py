"""Weights of one's own, in whatever form a training leaves them. Their numbers are random: only equality counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.engines import TorchEngine
from crossmedia.imgserver.vision.torchvision_zoo import import_torchvision

State = dict[str, torch.Tensor]
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def state_of(model: str, **options: Any) -> State:
    """Random weights, with running means that are none of an untrained net."""
    torch.manual_seed(0)
    net = import_torchvision().get_model(model, weights=None, **options)
    found: State = net.state_dict()
    for key, value in found.items():
        if key.endswith("running_mean"):
            value.normal_(std=0.1)
    return found


def saved(path: Path, state: Any) -> Path:
    """As users save it."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def features(path: Path, model: str = "resnet18") -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of two noisy pictures."""
    return TorchEngine(get_backbone(f"torchvision:{model}@{path}")).run(PIXELS)


def behind(front: str, state: State) -> State:
    """The same with more in front of the names."""
    return {front + key: value for key, value in state.items()}


def headless(state: State) -> State:
    """Without the last layer."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def with_classes(count: int, state: State) -> State:
    """With a last layer of so many classes."""
    return {**state, "fc.weight": torch.zeros(count, 512), "fc.bias": torch.zeros(count)}


FORMS: dict[str, Callable[[State], Any]] = {
    "37-classes": lambda s: with_classes(37, s),
    "no-head": headless,
    "module": lambda s: behind("module.", s),
    "model": lambda s: behind("model.", with_classes(5, s)),
    "backbone-and-a-head": lambda s: {**behind("backbone.", headless(s)), "head.weight": torch.zeros(3, 512)},
    "module.model.backbone": lambda s: behind("module.model.backbone.", headless(s)),
    "compiled": lambda s: behind("_orig_mod.", s),
    "checkpoint": lambda s: {"epoch": 3, "state_dict": behind("module.", s), "optimizer": {"state": {0: {"step": 1}}}},
    "checkpoint-called-model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
    "no-counters": lambda s: {key: value for key, value in s.items() if not key.endswith("num_batches_tracked")},
    "beside-an-average": lambda s: {**s, **behind("ema.module.", {k: v + 1 for k, v in s.items()})},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_in_any_form_give_the_features_of_the_plain_ones(tmp_path: Path, form: str) -> None:
    state = state_of("resnet18")
    wanted = features(saved(tmp_path / "plain.pth", state))
    made = FORMS[form](state)
    np.testing.assert_array_equal(features(saved(tmp_path / f"{form}.pth", made)), wanted)
    if not form.startswith("checkpoint"):
        flat = {key: value.clone() for key, value in made.items()}
        np.testing.assert_array_equal(features(saved(tmp_path / f"{form}.safetensors", flat)), wanted)


def test_what_was_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = behind("module.", with_classes(37, state_of("resnet18")))
    with caplog.at_level(logging.WARNING):
        get_backbone(f"torchvision:resnet18@{saved(tmp_path / 'w.pth', made)}")
    (line,) = (record.getMessage() for record in caplog.records)
    assert "takes 100 weights" in line
    assert "behind 'module.'; 2 left out" in line
    assert "module.fc.weight, module.fc.bias" in line


def test_missing_weights_of_the_trunk_are_named(tmp_path: Path) -> None:
    made = behind("module.", {k: v for k, v in state_of("resnet18").items() if not k.startswith("layer3.0.conv1")})
    with pytest.raises(BadInput, match=r"1 are missing: layer3\.0\.conv1\.weight"):
        get_backbone(f"torchvision:resnet18@{saved(tmp_path / 'w.pth', made)}")


def test_two_nets_in_a_file_are_not_guessed_between(tmp_path: Path) -> None:
    state = state_of("resnet18")
    made = {"student": state, "teacher": {key: value + 1 for key, value in state.items()}}
    with pytest.raises(BadInput, match=r"more than once, behind student\., teacher\."):
        get_backbone(f"torchvision:resnet18@{saved(tmp_path / 'w.pth', made)}")


def test_a_weight_of_another_shape_is_named(tmp_path: Path) -> None:
    made = {**state_of("resnet18"), "conv1.weight": torch.zeros(64, 1, 7, 7)}
    with pytest.raises(BadInput, match=r"do not fit resnet18.*conv1\.weight"):
        features(saved(tmp_path / "w.pth", made))


def test_nan_in_a_file_is_refused(tmp_path: Path) -> None:
    made = state_of("resnet18")
    made["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"not finite.*layer1\.0\.conv1\.weight"):
        get_backbone(f"torchvision:resnet18@{saved(tmp_path / 'w.pth', made)}")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no tensor in it"):
        get_backbone(f"torchvision:resnet18@{saved(tmp_path / 'w.pth', {'epoch': 3})}")


def test_helpers_of_a_training_are_not_needed(tmp_path: Path) -> None:
    state = state_of("googlenet", init_weights=False)
    wanted = features(saved(tmp_path / "a.pth", state), "googlenet")
    alone = {key: value for key, value in state.items() if not key.startswith(("aux", "fc"))}
    np.testing.assert_array_equal(features(saved(tmp_path / "b.pth", alone), "googlenet"), wanted)


@pytest.mark.parametrize("model", ["densenet121", "mnasnet0_5"])
def test_names_of_an_older_torch_and_versions_of_layers_are_read(tmp_path: Path, model: str) -> None:
    state = state_of(model)
    wanted = features(saved(tmp_path / "a.pth", state), model)
    older = {key: value.clone() for key, value in state.items()}
    if model == "densenet121":  # as torchvision publishes it
        older = {re_dotted(key): value for key, value in older.items()}
        assert any("norm.1" in key for key in older)
    np.testing.assert_array_equal(features(saved(tmp_path / "b.safetensors", older), model), wanted)
    np.testing.assert_array_equal(features(saved(tmp_path / "c.pth", {"state_dict": state}), model), wanted)


def re_dotted(key: str) -> str:
    """``norm.1`` for ``norm1`` in a layer of DenseNet."""
    for part in ("norm", "conv"):
        for number in "12":
            key = key.replace(f".{part}{number}.", f".{part}.{number}.") if "denselayer" in key else key
    return key
