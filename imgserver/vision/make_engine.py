"""The engine of a backbone on this machine: which one it is, and one of several GPUs."""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.imgserver.vision.backbone import BF16, INT8, AnyBackbone, Backbone, OnnxGraph
from crossmedia.imgserver.vision.engines import Engine, FeatureArray, OpenVinoEngine, Pictures, stacked
from crossmedia.imgserver.vision.machine import CPU, Machine
from crossmedia.imgserver.vision.onnx_graph import UnsupportedGraph
from crossmedia.imgserver.vision.photometry import photometry

log = logging.getLogger(__name__)


class SeveralEngines:
    """Engines behind one queue: whichever is free takes the next batch.

    Args:
        engines: of one backbone, with batches of one size.
    """

    def __init__(self, engines: Sequence[Engine]):
        self.name = ", ".join(engine.name for engine in engines)
        self.batch = engines[0].batch
        self.in_flight = sum(engine.in_flight for engine in engines)
        self._free: queue.SimpleQueue[Engine] = queue.SimpleQueue()
        for place in range(max(engine.in_flight for engine in engines)):  # in turn, so that no engine waits at first
            for engine in engines:
                if place < engine.in_flight:
                    self._free.put(engine)

    def run(self, pictures: Pictures) -> FeatureArray:
        """Features, shape (n, F), of pictures: pixels, uint8, shape (n, size, size, 3), or a list of them."""
        engine = self._free.get()
        try:
            return engine.run(pictures)
        finally:
            self._free.put(engine)


class PhotometricEngine:
    """An engine, and behind its numbers those that the pixels themselves give.

    Args:
        net: runs the backbone alone.
    """

    def __init__(self, net: Engine):
        self.name, self.batch, self.in_flight, self._net = net.name, net.batch, net.in_flight, net

    def run(self, pictures: Pictures) -> FeatureArray:
        """Features, shape (n, F), of pictures: pixels, uint8, shape (n, size, size, 3), or a list of them."""
        pixels = stacked(pictures)
        return np.concatenate([self._net.run(pixels), photometry(pixels)], axis=1)


def make_engine(backbone: AnyBackbone, cache: Path | None, machine: Machine = Machine()) -> Engine:  # noqa: B008  frozen
    """Torch on the GPUs of ``machine``, onnxruntime for ONNX files there; OpenVINO on CPUs; a text encoder has its own.

    Raises:
        BadInput: a device is not there, or the backbone cannot run on it.
    """
    if isinstance(backbone, TextBackbone):
        engine = backbone.make(machine.threads, machine.first)
        engine.batch = machine.batch
        return engine
    if backbone.photometry:
        return PhotometricEngine(make_engine(backbone.without_photometry(), cache, machine))
    if not machine.gpus:
        return _on_cpu(backbone, cache, machine)
    narrow = INT8 if backbone.int8 else BF16 if backbone.bf16 and isinstance(backbone.graph, OnnxGraph) else ""
    if narrow and machine.devices:
        raise BadInput(f"{backbone.recipe} runs on the CPU. Give --device cpu, or leave out {narrow}.")
    if narrow:
        return _on_cpu(backbone, cache, machine)
    if not isinstance(backbone.graph, OnnxGraph):
        from crossmedia.imgserver.vision.cuda_engine import CudaEngine  # and what a GPU needs, for GPUs alone

        return _together([CudaEngine(backbone, device, machine) for device in machine.gpus])
    from crossmedia.imgserver.vision.onnxruntime_engine import OnnxRuntimeEngine, runs_on_gpus

    if not machine.devices and not runs_on_gpus():
        log.warning(
            '%s runs on the CPU: pip install "crossmedia[onnx-gpu]" lets it run on the GPU of this machine',
            backbone.recipe,
        )
        return _on_cpu(backbone, cache, machine)
    return _together([OnnxRuntimeEngine(backbone, device, machine) for device in machine.gpus])


def _on_cpu(backbone: Backbone, cache: Path | None, machine: Machine) -> Engine:
    """OpenVINO; or onnxruntime for a file with operators that OpenVINO lacks."""
    try:
        return OpenVinoEngine(backbone, cache, machine)
    except UnsupportedGraph as unsupported:
        if backbone.bf16:
            raise
        from crossmedia.imgserver.vision.onnxruntime_engine import OnnxRuntimeEngine

        try:
            engine = OnnxRuntimeEngine(backbone, CPU, machine)
        except BadInput as error:
            raise BadInput(f"{unsupported} Nor does onnxruntime run it: {error}") from error
        log.warning("onnxruntime runs %s: %s", backbone.recipe, unsupported)
        return engine


def _together(engines: Sequence[Engine]) -> Engine:
    return engines[0] if len(engines) == 1 else SeveralEngines(engines)
