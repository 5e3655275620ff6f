"""ONNX files as OpenVINO reads them: a graph behind its normalisation, and what it gives for a photo."""

from __future__ import annotations

from typing import Any

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbone import OnnxGraph
from crossmedia.imgserver.vision.decode import Preprocessing
from crossmedia.imgserver.vision.openvino_runtime import runtime


class UnsupportedGraph(BadInput):
    """OpenVINO cannot read a file; another runtime may."""


def onnx_model(core: Any, graph: OnnxGraph, size: int, preprocessing: Preprocessing) -> tuple[Any, int, str]:
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
        UnsupportedGraph: it is no ONNX file, or OpenVINO lacks an operator of it.
        BadInput: it does not take such pictures, or an output is missing.
    """
    try:
        model = core.read_model(graph.path)
    except RuntimeError as error:
        raise UnsupportedGraph(f"OpenVINO cannot read {graph.path}: {in_short(error)}") from error
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


def in_short(error: Exception) -> str:
    """What OpenVINO says of a graph, without where in its sources that was."""
    said = str(error).partition("Summary:")[2] or str(error)
    return " ".join(said.split())[:300]
