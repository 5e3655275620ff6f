"""ONNX files in onnxruntime: those with an operator that OpenVINO lacks, and all on GPUs, which are played here."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import run_command

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision import onnxruntime_engine
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.engines import FeatureArray, Pictures
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
SIZE = 4
SPEC = f"size = {SIZE}\nfit = 'stretch'\nmean = [127, 127, 127]\nscale = [128, 64, 32]\n"


def file_of(folder: Path, operator: str) -> Path:
    """A net that is one operator, from pictures to three numbers."""
    pictures = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, SIZE, SIZE])
    features = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])
    graph = onnx.helper.make_graph([onnx.helper.make_node(operator, ["x"], ["y"])], "net", [pictures], [features])
    path = folder / f"{operator}.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    path.with_suffix(".toml").write_text(SPEC)
    return path


def test_an_operator_that_openvino_lacks_runs_in_onnxruntime_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Det: the determinant of each channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    with caplog.at_level(logging.WARNING):
        backbone = get_backbone(f"onnx:{file_of(tmp_path, 'Det')}")
        engine = make_engine(backbone, None, Machine(threads=1, devices=("cpu",)))
        found = engine.run(pixels)
    assert (backbone.feature_dim, engine.name) == (3, "onnxruntime-cpu")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, said
    assert "onnxruntime runs onnx:" in said[0]
    assert "Det" in said[0]
    normalised = (pixels.astype(np.float64) - 127) / np.array([128, 64, 32])
    np.testing.assert_allclose(found, np.linalg.det(normalised.transpose(0, 3, 1, 2)), rtol=1e-3, atol=1e-2)
    with pytest.raises(BadInput, match="OpenVINO cannot read"):
        make_engine(get_backbone(f"{backbone.recipe}#bf16"), None, Machine(threads=1, devices=("cpu",)))


def test_such_a_net_embeds_a_catalogue(tmp_path: Path, photos: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(map(str, range(12))))
    options = [f"--store={tmp_path / 's'}", f"--catalogue={photos}", f"--ids={ids}", "--threads=1", "--dim=2", "--json"]
    done = run_command("imgserver", "precompute", *options, f"--backbone=onnx:{file_of(tmp_path, 'Det')}")
    assert json.loads(done.stdout)["embedded"] == 12
    assert done.stderr.count("onnxruntime runs") == 1


def test_what_neither_runs_is_refused_with_both_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"OpenVINO cannot read .* Nor does onnxruntime run it: onnxruntime cannot read"):
        get_backbone(f"onnx:{file_of(tmp_path, 'NoOperator')}")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadInput, match=r"Nor does .*pip install \"crossmedia\[onnx\]\", or"):
        get_backbone(f"onnx:{file_of(tmp_path, 'Det')}")


class OnGpu:
    """Stands for onnxruntime on a GPU."""

    batch, in_flight = 256, 2

    def __init__(self, backbone: Any, device: str, machine: Machine):
        self.name = f"onnxruntime-{device}"

    def run(self, pictures: Pictures) -> FeatureArray:
        return np.zeros((len(pictures), 3), dtype=np.float32)


def test_gpus_that_are_asked_for_run_onnx_files_or_say_what_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = get_backbone(f"onnx:{file_of(tmp_path, 'GlobalAveragePool')}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    both = Machine(devices=("cuda:0", "cuda:1"))
    with pytest.raises(BadInput, match=r"on cuda:0 needs onnxruntime for GPUs.*crossmedia\[onnx-gpu\]"):
        make_engine(backbone, None, both)
    with caplog.at_level(logging.WARNING):
        assert make_engine(backbone, None, Machine()).name == "openvino"
    assert "lets it run on the GPU" in caplog.text
    monkeypatch.setattr(onnxruntime_engine, "runs_on_gpus", lambda: True)
    monkeypatch.setattr(onnxruntime_engine, "OnnxRuntimeEngine", OnGpu)
    assert make_engine(backbone, None, Machine()).name == "onnxruntime-cuda:0"
    engines = make_engine(backbone, None, both)
    assert (engines.name, engines.in_flight) == ("onnxruntime-cuda:0, onnxruntime-cuda:1", 4)
    with pytest.raises(BadInput, match=r"#bf16 runs on the CPU\. Give --device cpu"):
        make_engine(get_backbone(f"{backbone.recipe}#bf16"), None, both)
