"""What runs a backbone: OpenVINO on a CPU, torch on a GPU. The engine is not part of the version: both agree."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from imgserver.vision.backbones import Backbone
from imgserver.vision.decode import Pixels

FeatureArray = npt.NDArray[np.float32]
MAX_BATCH = 32


class Engine(Protocol):
    """Runs a backbone. ``name`` says on what."""

    name: str

    def run(self, pixels: Pixels) -> FeatureArray:
        """Features, shape (n, F), of pixels, uint8, shape (n, size, size, 3)."""
        ...


class OpenVinoEngine:
    """The backbone compiled by OpenVINO for this CPU, in fp32.

    Args:
        backbone: what to run.
        cache: folder for the converted graph, so that the next start need not convert again; None keeps nothing.
        threads: of the computation; 0 takes all cores.
    """

    name = "openvino"

    def __init__(self, backbone: Backbone, cache: Path | None, threads: int = 0):
        # OpenVINO's converter reports usage to its makers unless this package is absent; we tell nobody anything.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino as ov

        core = ov.Core()
        graph = cache / f"{backbone.version}.xml" if cache else None
        if graph is not None and graph.exists():
            model = core.read_model(graph)
        else:
            size = backbone.preprocessing.size
            example = torch.zeros((1, size, size, 3), dtype=torch.uint8)
            # Traced here, so that warnings of the tracer about the net's own Python do not reach the user.
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = ov.convert_model(backbone.build(), example_input=example, input=[-1, size, size, 3])
            if graph is not None:
                graph.parent.mkdir(parents=True, exist_ok=True)
                part = graph.with_name(f"{os.getpid()}-{graph.name}")
                ov.save_model(model, part, compress_to_fp16=False)
                os.replace(part.with_suffix(".bin"), graph.with_suffix(".bin"))
                os.replace(part, graph)
        config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        self._compiled = core.compile_model(model, "CPU", config)

    def run(self, pixels: Pixels) -> FeatureArray:
        """Features, shape (n, F), of pixels, uint8, shape (n, size, size, 3)."""
        features: FeatureArray = np.array(self._compiled([pixels])[0], dtype=np.float32)
        return features


class TorchEngine:
    """The backbone in torch, on a GPU where there is one.

    Args:
        backbone: what to run.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, backbone: Backbone, device: str):
        self.name = f"torch-{device}"
        self._device = torch.device(device)
        self._module = backbone.build().to(self._device)

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> FeatureArray:
        """Features, shape (n, F), of pixels, uint8, shape (n, size, size, 3)."""
        features: FeatureArray = self._module(torch.from_numpy(pixels).to(self._device)).cpu().numpy()
        return features


def make_engine(backbone: Backbone, cache: Path | None, threads: int = 0) -> Engine:
    """Torch where there is a CUDA device, OpenVINO elsewhere."""
    if torch.cuda.is_available():
        return TorchEngine(backbone, "cuda")
    return OpenVinoEngine(backbone, cache, threads)
