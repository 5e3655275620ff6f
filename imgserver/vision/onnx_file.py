"""Any ONNX file as a backbone, with a small TOML file beside it that says how photos go in and features come out.

size = 224                          # height and width of the input, in pixels
fit = "crop"                        # or "stretch"
resize = 256                        # with fit = "crop": the shorter side before the middle is taken
interpolation = "bilinear"          # or "bicubic"
mean = [123.675, 116.28, 103.53]    # of each channel, red first: a pixel x of 0 to 255 becomes (x - mean) / scale
scale = [58.395, 57.12, 57.375]
channels = "rgb"                    # or "bgr"
layout = "nchw"                     # or "nhwc"
input = "pixel_values"              # without it, the only input
output = "image_embeds"             # without it, the first output: (n, F), or maps (n, F, h, w), whose mean is taken
pool = ""                           # for outputs (n, tokens, F): "first" or "mean"
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbone import ONNX, Backbone, OnnxGraph
from crossmedia.imgserver.vision.decode import RESAMPLING, Preprocessing

CHOICES: dict[str, tuple[str, ...]] = {
    "fit": ("stretch", "crop"),
    "interpolation": tuple(RESAMPLING),
    "channels": ("rgb", "bgr"),
    "layout": ("nchw", "nhwc"),
    "pool": ("", "first", "mean"),
}
OF_PIXELS = ("size", "fit", "resize", "interpolation", "mean", "scale")
OF_GRAPH = tuple(field.name for field in fields(OnnxGraph) if field.name != "path")


def onnx_backbone(recipe: str) -> Backbone:
    """The net in ``onnx:<file>``, run by OpenVINO; by onnxruntime on GPUs, and where OpenVINO lacks an operator of it.

    Raises:
        BadInput: a file is missing or wrong; the message names the key.
    """
    from crossmedia.imgserver.vision.onnx_graph import UnsupportedGraph, onnx_feature_dim
    from crossmedia.imgserver.vision.onnxruntime_engine import feature_dim

    path = Path(recipe.removeprefix(ONNX)).resolve()
    if not path.is_file():
        raise BadInput(f"The ONNX file {path} does not exist.")
    preprocessing, options = _read_spec(path.with_suffix(".toml"))
    graph = OnnxGraph(path, **options)
    # Weights above 2 GB lie in files beside the graph.
    beside = (other for other in path.parent.iterdir() if other.name.startswith(path.name) and other.is_file())
    weights = (path, *sorted(other for other in beside if other != path))
    name = "onnx:" + re.sub(r"[^\w.-]", "_", path.stem)
    rest = json.dumps({k: v for k, v in asdict(graph).items() if k != "path"}, sort_keys=True)
    backbone = Backbone(f"{ONNX}{path}", name, 0, preprocessing, weights, graph, rest)
    try:
        dim = onnx_feature_dim(graph, preprocessing.size)
    except UnsupportedGraph as unsupported:
        try:
            dim = feature_dim(backbone)
        except BadInput as error:
            raise BadInput(f"{unsupported} Nor does onnxruntime run it: {error}") from error
    return replace(backbone, feature_dim=dim)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read_spec(path: Path) -> tuple[Preprocessing, dict[str, str]]:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}). An ONNX file needs its preprocessing beside it, such as: "
            f'size = 224, fit = "crop", resize = 256, interpolation = "bilinear", mean = [123.675, 116.28, 103.53], '
            f"scale = [58.395, 57.12, 57.375]."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}.") from error
    for key, value in values.items():
        if key not in (*OF_PIXELS, *OF_GRAPH):
            raise BadInput(f"{path} has the unknown key {key!r}; there are: {', '.join((*OF_PIXELS, *OF_GRAPH))}.")
        if key in CHOICES and value not in CHOICES[key]:
            raise BadInput(f"{path}: {key} is {value!r}; it must be one of {', '.join(map(repr, CHOICES[key]))}.")
        if key in ("mean", "scale"):
            if not (isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))):
                raise BadInput(f"{path}: {key} is {value!r}; it must be a list of three numbers, red first.")
            values[key] = tuple(float(x) for x in value)
        if key in ("size", "resize") and not (isinstance(value, int) and 1 <= value <= 4096):
            raise BadInput(f"{path}: {key} is {value!r}; it must be a number of pixels.")
        if key in ("input", "output") and not isinstance(value, str):
            raise BadInput(f"{path}: {key} is {value!r}; it must be a name.")
    for key in ("size", "mean", "scale"):
        if key not in values:
            raise BadInput(f"{path} does not say {key}.")
    if values.get("fit") == "crop" and values.get("resize", 0) < values["size"]:
        raise BadInput(f'{path}: with fit = "crop", resize must be at least size ({values["size"]}).')
    if 0 in values["scale"]:
        raise BadInput(f"{path}: scale holds a 0; pixels are divided by it.")
    pixels = {key: value for key, value in values.items() if key in OF_PIXELS}
    options = {key: value for key, value in values.items() if key in OF_GRAPH}
    return Preprocessing(**pixels, draft=0), options
