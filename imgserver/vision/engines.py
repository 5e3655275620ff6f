"""What runs a backbone: OpenVINO on a CPU, torch on GPUs. The engine is not part of the version: both agree."""

from __future__ import annotations

import os
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
from crossmedia.imgserver.vision.decode import Pixels
from crossmedia.imgserver.vision.gpu_jpeg import Jpeg
from crossmedia.imgserver.vision.int8 import check_processor, quantized, read_file
from crossmedia.imgserver.vision.machine import CPU_BATCH, CPU_IN_FLIGHT, Machine
from crossmedia.imgserver.vision.onnx_graph import UnsupportedGraph, in_short, onnx_model
from crossmedia.imgserver.vision.openvino_runtime import runtime

FeatureArray = npt.NDArray[np.float32]
Picture = Pixels | Jpeg | Text
Pictures = Pixels | Sequence[Picture]
FP32_AT_ONCE, NARROW_AT_ONCE = 1, 8  # images that one core works on at a time; narrow: in bf16 and int8
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
    """The backbone compiled by OpenVINO for this CPU, in fp32, bf16 or int8 as the backbone says.

    Args:
        backbone: what to run.
        cache: folder for the converted graph, so that the next start need not convert again; None keeps nothing.
        machine: how many threads compute, and the images of a batch.

    Raises:
        BadInput: an ONNX file is none, or does not fit its TOML file; or the backbone computes as GPUs alone do, or as
            other processors do.
        UnsupportedGraph: OpenVINO lacks an operator of it.
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
        model, self._output, self._pool = graph_of(core, backbone, cache)
        # A stream a core, each with a few images at a time: a fifth more than all cores on one batch, for what one core
        # works on stays in its cache. And an image's feature does not depend on who shares its batch.
        streams = threads or len(os.sched_getaffinity(0))
        config = {"INFERENCE_PRECISION_HINT": "bf16" if backbone.bf16 else "f32", "NUM_STREAMS": str(streams)}
        config["INFERENCE_NUM_THREADS"] = str(streams)
        self._at_once = NARROW_AT_ONCE if backbone.bf16 or backbone.int8 else FP32_AT_ONCE
        try:
            compiled = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise UnsupportedGraph(f"OpenVINO cannot compile {backbone.recipe}: {in_short(error)}") from error
        self._queue = ov.AsyncInferQueue(compiled, REQUESTS_A_STREAM * streams)
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
        found[start] = pooled(values, self._pool)


def graph_of(core: Any, backbone: Backbone, cache: Path | None) -> tuple[Any, int, str]:
    """OpenVINO's graph of a backbone, from pixels on; the number of its output, and how tokens are pooled.

    Raises:
        BadInput: as ``OpenVinoEngine``.
    """
    found: tuple[Any, int, str]
    if isinstance(backbone.graph, OnnxGraph):
        found = onnx_model(core, backbone.graph, backbone.preprocessing.size, backbone.preprocessing)
    elif backbone.int8 is None:
        found = _converted(core, backbone, backbone.graph, cache), 0, ""
    else:
        found = None, 0, ""
    if backbone.int8 is None:
        return found
    check_processor(backbone.recipe)
    read = read_file(backbone.int8)
    try:
        return core.read_model(read["graph"], read["weights"]), *found[1:]
    except RuntimeError as error:
        raise BadInput(f"OpenVINO cannot read the graph in {backbone.int8}: {str(error)[:300]}") from error


def calibrated(net: Backbone, pixels: Pixels) -> bytes:
    """The file of a net in 8 bits; raises as ``int8.quantized``."""
    return quantized(graph_of(runtime().Core(), net, None)[0], pixels, net.recipe)


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


def pooled(values: FeatureArray, pool: str) -> FeatureArray:
    """One row a photo, shape (n, F), of what a net gives: such rows, maps (n, F, h, w), or tokens (n, T, F)."""
    if values.ndim == 4:
        mean: FeatureArray = values.mean(axis=(2, 3))
        return mean
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
