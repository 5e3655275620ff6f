"""ONNX files run by onnxruntime: on GPUs, and on the CPU where OpenVINO lacks an operator of theirs.

The normalisation is torch's, on the device, so that pixels cross the bus as bytes.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbone import Backbone, OnnxGraph
from crossmedia.imgserver.vision.decode import Pixels
from crossmedia.imgserver.vision.engines import FeatureArray, Pictures, pooled, stacked
from crossmedia.imgserver.vision.machine import CPU, CPU_IN_FLIGHT, Machine

ON_GPU, ON_CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TYPES = {"tensor(float)": (torch.float32, np.float32), "tensor(float16)": (torch.float16, np.float16)}


class OnnxRuntimeEngine:
    """An ONNX file on the CPU or one GPU, in float32: TF32 is switched off, as versions say nothing of it.

    Args:
        backbone: whose graph is an ONNX file.
        device: ``cpu``, or such as ``cuda:0``.
        machine: how many threads compute on a CPU, and the images of a batch.

    Raises:
        BadInput: onnxruntime is not installed, or not for GPUs; it cannot run the file, or that is no net for photos.
    """

    in_flight = CPU_IN_FLIGHT

    def __init__(self, backbone: Backbone, device: str, machine: Machine):
        assert isinstance(backbone.graph, OnnxGraph), "other graphs have engines of their own"
        graph, how = backbone.graph, backbone.preprocessing
        self.name, self.batch, self._graph = f"onnxruntime-{device}", machine.batch, graph
        self._device = torch.device(device)
        _check_device(graph, device)
        self._stream = None if device == CPU else torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._session = _session(graph, self._device, machine.threads, self._stream)
        self._input, self._output = _ports(self._session, graph)
        self._type, self._numpy_type = TYPES[self._input.type]
        self._mean = torch.tensor(how.mean, device=self._device)  # of the last axis: channels
        self._scale = torch.tensor(how.scale, device=self._device)

    def run(self, pictures: Pictures) -> FeatureArray:
        """Features, shape (n, F), of pictures: pixels, uint8, shape (n, size, size, 3), or a list of them."""
        pixels = stacked(pictures)
        blocks = [pixels[start : start + self.batch] for start in range(0, len(pixels), self.batch)]
        return np.concatenate([self._run(block) for block in blocks])

    @torch.inference_mode()
    def _run(self, pixels: Pixels) -> FeatureArray:
        binding = self._session.io_binding()
        with torch.cuda.stream(self._stream):  # nothing where there is none
            given = self._normalised(pixels)
            where = (self._device.type, self._device.index or 0, self._numpy_type, tuple(given.shape))
            binding.bind_input(self._input.name, *where, given.data_ptr())
            binding.bind_output(self._output.name, CPU)  # copied there when it is computed
            try:
                self._session.run_with_iobinding(binding)
            except Exception as error:  # its own, one for each kind
                raise BadInput(f"onnxruntime cannot run {self._graph.path}: {str(error)[:300]}") from error
        values = np.asarray(binding.get_outputs()[0].numpy(), dtype=np.float32)
        return pooled(values, self._graph.pool)

    def _normalised(self, pixels: Pixels) -> Tensor:
        there = torch.from_numpy(np.ascontiguousarray(pixels))
        if self._stream is not None:
            there = there.pin_memory().to(self._device, non_blocking=True)
        found = (there.to(torch.float32) - self._mean) / self._scale
        if self._graph.channels == "bgr":
            found = found.flip(3)
        if self._graph.layout == "nchw":
            found = found.permute(0, 3, 1, 2)
        return found.to(self._type).contiguous()


def runs_on_gpus() -> bool:
    """Whether the onnxruntime that is installed is one for GPUs."""
    try:
        return ON_GPU in _onnxruntime().get_available_providers()
    except BadInput:
        return False


def feature_dim(backbone: Backbone) -> int:
    """Numbers in a feature, from one of a black picture.

    Raises:
        BadInput: as the engine; or its output is no vector.
    """
    size = backbone.preprocessing.size
    engine = OnnxRuntimeEngine(backbone, CPU, Machine(threads=1))
    found = engine.run(np.zeros((1, size, size, 3), dtype=np.uint8))
    if found.ndim != 2:
        raise BadInput(f"The output of {engine._graph.path} has the shape {found.shape}, which is no feature a photo.")
    return int(found.shape[1])


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise BadInput(
            f'onnxruntime is not here ({error}): pip install "crossmedia[onnx]", or "crossmedia[onnx-gpu]" for GPUs'
        ) from error
    return onnxruntime


def _check_device(graph: OnnxGraph, device: str) -> None:
    there = _onnxruntime().get_available_providers()
    if device != CPU and ON_GPU not in there:
        raise BadInput(
            f"{graph.path} on {device} needs onnxruntime for GPUs, and the one here is for CPUs alone: pip uninstall "
            f'onnxruntime, then pip install "crossmedia[onnx-gpu]"; or give --device {CPU}.'
        )


def _session(graph: OnnxGraph, device: torch.device, threads: int, stream: Any) -> Any:
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 3  # errors, which are raised as well
    told: dict[str, str] = {}
    if stream is not None:
        told = {"device_id": str(device.index or 0), "use_tf32": "0", "user_compute_stream": str(stream.cuda_stream)}
    provider = ON_CPU if stream is None else ON_GPU
    try:
        session = ort.InferenceSession(str(graph.path), options, providers=[(provider, told)])
    except Exception as error:  # its own, one for each kind
        raise BadInput(f"onnxruntime cannot read {graph.path}: {str(error)[:300]}") from error
    if session.get_providers()[0] != provider:  # it goes on with the CPU, and only logs why
        raise BadInput(
            f"onnxruntime cannot use {device} for {graph.path}: its libraries of CUDA do not load. Install those that "
            f"its release is made for, or give --device {CPU}."
        )
    return session


def _ports(session: Any, graph: OnnxGraph) -> tuple[Any, Any]:
    """The input for pictures, and the output for features.

    Raises:
        BadInput: there is none of that name, it has another type, or the net takes more than pictures.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or (graph.input and graph.input != inputs[0].name) or inputs[0].type not in TYPES:
        raise BadInput(
            f"{graph.path} has the inputs {', '.join(f'{port.name} {port.type}' for port in inputs)}; a backbone takes "
            f"one of floats, the pictures{f', {graph.input!r}' if graph.input else ''}."
        )
    named = [port for port in outputs if port.name == graph.output] if graph.output else outputs[:1]
    if not named:
        raise BadInput(
            f"{graph.path} has no output {graph.output!r}; its outputs are: {', '.join(port.name for port in outputs)}."
        )
    return inputs[0], named[0]
