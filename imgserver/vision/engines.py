"""What runs a backbone: OpenVINO on a CPU, torch on GPUs. The engine is not part of the version: both agree."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from crossmedia.disk import hash_of, replacing
from crossmedia.errors import BadInput
from crossmedia.imgserver.text.reading import Text
from crossmedia.imgserver.vision.backbone import NVJPEG, TF32, Backbone, OnnxGraph
from crossmedia.imgserver.vision.decode import Pixels, Preprocessing
from crossmedia.imgserver.vision.gpu_jpeg import Jpeg
from crossmedia.imgserver.vision.machine import CPU_BATCH, CPU_IN_FLIGHT, Machine

FeatureArray = npt.NDArray[np.float32]
Picture = Pixels | Jpeg | Text
Pictures = Pixels | Sequence[Picture]
FP32_AT_ONCE, BF16_AT_ONCE = 1, 8  # images that one core works on at a time
HASHES = ".hashes"  # beside a converted graph: of its two files
REQUESTS_A_STREAM = 4  # so that a core goes on with the next while Python, which others hold up, takes a result


class Engine(Protocol):
    """Runs a backbone; threads may call it side by side.

    Attributes:
        name: says on what it runs.
        batch: images that it takes best at a time.
        in_flight: calls that are worth having under way at once.
    """

    name: str
    batch: int
    in_flight: int

    def run(self, pictures: Pictures) -> FeatureArray:
        """Features, shape (n, F), of pictures: pixels, uint8, shape (n, size, size, 3), or a list of them."""
        ...


def run_all(engine: Engine, pictures: Sequence[Picture]) -> FeatureArray:
    """Features, shape (n, F), of any number of images but none, in batches that memory does not notice.

    A row of one that the GPU cannot decode is nan.
    """
    blocks = [pictures[start : start + engine.batch] for start in range(0, len(pictures), engine.batch)]
    return np.concatenate([engine.run(block) for block in blocks])


def stacked(pictures: Pictures) -> Pixels:
    """Pixels of pictures that were decoded, shape (n, size, size, 3)."""
    if isinstance(pictures, np.ndarray):
        return pictures
    decoded = [picture for picture in pictures if not isinstance(picture, Jpeg)]
    assert len(decoded) == len(pictures), "an engine on the CPU got photos that a GPU decodes"
    return np.stack(decoded)


class OpenVinoEngine:
    """The backbone compiled by OpenVINO for this CPU, in fp32, or in bf16 if the backbone says so.

    Args:
        backbone: what to run.
        cache: folder for the converted graph, so that the next start need not convert again; None keeps nothing.
        machine: how many threads compute, and the images of a batch.

    Raises:
        BadInput: an ONNX file is none, or does not fit its TOML file; or the backbone computes as GPUs alone do.
    """

    name = "openvino"
    in_flight = CPU_IN_FLIGHT

    def __init__(self, backbone: Backbone, cache: Path | None, machine: Machine = Machine()):  # noqa: B008  frozen
        for part, there in ((TF32, backbone.tf32), (NVJPEG, backbone.preprocessing.jpeg != "pillow")):
            if there:
                raise BadInput(
                    f"{backbone.recipe} needs a GPU for its {part}. Embed on a machine that has one, or take the name "
                    f"without {part}, which is another version."
                )
        ov = runtime()
        self.batch, threads = machine.batch, machine.threads
        core = ov.Core()
        size = backbone.preprocessing.size
        if isinstance(backbone.graph, OnnxGraph):
            model, self._output, self._pool = _onnx_model(core, backbone.graph, size, backbone.preprocessing)
        else:
            model = _converted(core, backbone, backbone.graph, cache)
            self._output, self._pool = 0, ""
        # A stream a core, each with a few images at a time: a fifth more than all cores on one batch, for what one core
        # works on stays in its cache. And an image's feature does not depend on who shares its batch.
        streams = threads or len(os.sched_getaffinity(0))
        config = {"INFERENCE_PRECISION_HINT": "bf16" if backbone.bf16 else "f32", "NUM_STREAMS": str(streams)}
        config["INFERENCE_NUM_THREADS"] = str(streams)
        self._at_once = BF16_AT_ONCE if backbone.bf16 else FP32_AT_ONCE
        self._queue = ov.AsyncInferQueue(core.compile_model(model, "CPU", config), REQUESTS_A_STREAM * streams)
        self._queue.set_callback(self._take)
        self._lock = threading.Lock()

    def run(self, pictures: Pictures) -> FeatureArray:
        """Features, shape (n, F), of pictures: pixels, uint8, shape (n, size, size, 3), or a list of them."""
        pixels = stacked(pictures)
        with self._lock:  # the queue belongs to one call at a time
            found: dict[int, FeatureArray] = {}
            for start in range(0, len(pixels), self._at_once):
                self._queue.start_async([pixels[start : start + self._at_once]], (found, start))
            self._queue.wait_all()
        return np.concatenate([found[start] for start in sorted(found)])

    def _take(self, request: Any, told: tuple[dict[int, FeatureArray], int]) -> None:
        found, start = told
        values = np.array(request.get_output_tensor(self._output).data, dtype=np.float32)
        found[start] = _pooled(values, self._pool)


def runtime() -> Any:
    """OpenVINO."""
    # Its converter reports usage to its makers unless this package is absent; we tell nobody anything.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _converted(core: Any, backbone: Backbone, build: Callable[[], nn.Module], cache: Path | None) -> Any:
    """A torch module as OpenVINO's graph, from the cache when it is there and is what was written."""
    ov = runtime()
    graph = cache / f"{backbone.version}.xml" if cache else None
    if graph is not None and engine_state(graph) == "whole":
        with suppress(RuntimeError):  # another OpenVINO wrote it
            return core.read_model(graph)
    size = backbone.preprocessing.size
    example = torch.zeros((1, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about the net's own Python
        model = ov.convert_model(build(), example_input=example, input=[-1, size, size, 3])
    if graph is not None:
        graph.parent.mkdir(parents=True, exist_ok=True)
        part = graph.with_name(f"{os.getpid()}-{graph.name}")
        ov.save_model(model, part, compress_to_fp16=False)
        written = _hashes(part)
        os.replace(part.with_suffix(".bin"), graph.with_suffix(".bin"))
        os.replace(part, graph)
        with replacing(graph.with_suffix(HASHES)) as told:
            told.write_text(written)
    return model


def engine_state(graph: Path) -> Literal["none", "whole", "damaged"]:
    """What is there of a converted graph, ``<version>.xml``: it is a cache, and one that is damaged is made again."""
    try:
        told = graph.with_suffix(HASHES).read_text()
    except FileNotFoundError:
        return "none"
    except (OSError, ValueError):
        return "damaged"
    try:
        return "whole" if told == _hashes(graph) else "damaged"
    except OSError:
        return "damaged"


def _hashes(graph: Path) -> str:
    return f"{hash_of(graph)} {hash_of(graph.with_suffix('.bin'))}\n"


def _onnx_model(core: Any, graph: OnnxGraph, size: int, preprocessing: Preprocessing) -> tuple[Any, int, str]:
    """The ONNX graph behind its normalisation, the number of its output, and how tokens are pooled."""
    ov = runtime()
    from openvino.preprocess import ColorFormat, PrePostProcessor

    model = _read_onnx(core, graph, size)
    port = model.inputs[0]
    steps = PrePostProcessor(model)
    steps.input(0).tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(ColorFormat.RGB)
    steps.input(0).model().set_layout(ov.Layout(graph.layout.upper()))
    work = steps.input(0).preprocess().convert_element_type(ov.Type.f32)
    work = work.mean(list(preprocessing.mean)).scale(list(preprocessing.scale))
    if graph.channels == "bgr":
        work.convert_color(ColorFormat.BGR)
    if port.element_type != ov.Type.f32:
        work.convert_element_type(port.element_type)
    model = steps.build()
    names = [output.names for output in model.outputs]
    number = next((i for i, found in enumerate(names) if graph.output in found), 0) if graph.output else 0
    return model, number, graph.pool


def _read_onnx(core: Any, graph: OnnxGraph, size: int) -> Any:
    """The graph with a batch of any size.

    Raises:
        BadInput: it is no ONNX file that OpenVINO reads, or does not take such pictures, or an output is missing.
    """
    try:
        model = core.read_model(graph.path)
    except RuntimeError as error:
        raise BadInput(f"OpenVINO cannot read {graph.path}: {str(error)[:300]}") from error
    inputs = [name for port in model.inputs for name in port.names]
    if len(model.inputs) != 1 or (graph.input and graph.input not in inputs):
        raise BadInput(
            f"{graph.path} has the inputs {', '.join(inputs)}; a backbone takes one, the pictures"
            + (f", which its TOML file calls {graph.input!r}." if graph.input else ". Export the image part alone.")
        )
    outputs = [name for port in model.outputs for name in port.names]
    if graph.output and graph.output not in outputs:
        raise BadInput(f"{graph.path} has no output {graph.output!r}; its outputs are: {', '.join(outputs)}.")
    shape = [-1, 3, size, size] if graph.layout == "nchw" else [-1, size, size, 3]
    try:
        model.reshape(shape)
    except RuntimeError as error:
        raise BadInput(
            f"{graph.path} does not take batches of shape {shape}: {str(error)[:300]} Export it with a free batch "
            f"dimension, and check size and layout in its TOML file."
        ) from error
    return model


def onnx_feature_dim(graph: OnnxGraph, size: int) -> int:
    """Numbers in a feature of an ONNX graph.

    Raises:
        BadInput: the graph cannot be used, or its output is no feature.
    """
    model = _read_onnx(runtime().Core(), graph, size)
    ports = [port for port in model.outputs if graph.output in port.names] or [model.outputs[0]]
    shape = ports[0].partial_shape
    rank = shape.rank.get_length() if shape.rank.is_static else 0
    if rank == 3 and not graph.pool:
        raise BadInput(
            f'The output of {graph.path} holds tokens, shape {shape}: add pool = "first" or "mean" to its TOML file.'
        )
    place = {2: 1, 3: 2, 4: 1}.get(rank)
    if place is None or not shape[place].is_static:
        raise BadInput(f"The output of {graph.path} has the shape {shape}, which is no feature a photo.")
    return int(shape[place].get_length())


def _pooled(values: FeatureArray, pool: str) -> FeatureArray:
    if values.ndim == 4:
        pooled: FeatureArray = values.mean(axis=(2, 3))
        return pooled
    if values.ndim == 3:
        return values[:, 0] if pool == "first" else values.mean(axis=1)
    return values


class TorchEngine:
    """The backbone in torch on the CPU: what others are compared with.

    Args:
        backbone: what to run.
    """

    name = "torch-cpu"
    batch, in_flight = CPU_BATCH, 1

    def __init__(self, backbone: Backbone):
        assert not isinstance(backbone.graph, OnnxGraph), "make_engine gives ONNX graphs to OpenVINO"
        self._module = backbone.graph()
        self._bf16 = backbone.bf16

    @torch.inference_mode()
    def run(self, pictures: Pictures) -> FeatureArray:
        """Features, shape (n, F), of pictures: pixels, uint8, shape (n, size, size, 3), or a list of them."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            features = self._module(torch.from_numpy(stacked(pictures)))
        found: FeatureArray = features.float().numpy()
        return found
