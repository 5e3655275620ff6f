"""A folder with model.onnx and tokenizer.json as a text encoder, run by OpenVINO; no transformers and no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.text.backbone import Features, TextBackbone, TextEngine
from crossmedia.imgserver.text.reading import TextReading
from crossmedia.imgserver.vision.backbone import ONNX, backbone_version
from crossmedia.imgserver.vision.openvino_runtime import runtime
from crossmedia.imgserver.vision.pooling import Pooling, of_length_1, read_json

MODELS = ("model.onnx", "onnx/model.onnx")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def onnx_text_backbone(recipe: str) -> TextBackbone:
    """The encoder in ``onnx:<folder>``: its first output is (n, F), or tokens (n, T, F), which are pooled.

    Raises:
        BadInput: a file is missing, or wrong.
    """
    folder = Path(recipe.removeprefix(ONNX)).expanduser().resolve()
    model = next((folder / name for name in MODELS if (folder / name).is_file()), None)
    tokens = folder / "tokenizer.json"
    if model is None or not tokens.is_file():
        raise BadInput(f"{folder} is no text encoder: it needs {MODELS[0]} and {tokens.name}.")
    pooling, reading = Pooling.of(folder), TextReading()
    beside = sorted(other for other in model.parent.iterdir() if other.name.startswith(model.name) and other != model)
    name = "text:onnx:" + re.sub(r"[^\w.-]", "_", folder.name)
    version = backbone_version(name, (model, *beside, tokens), reading, f"{pooling}, of length 1")

    def make(threads: int, device: str) -> TextEngine:
        return TextEngine("openvino", _encoder(folder, model, tokens, pooling, threads))

    dim = _encoder(folder, model, tokens, pooling, 1)(["a"]).shape[1]
    return TextBackbone(f"text:{ONNX}{folder}", version, int(dim), make, reading)


def _encoder(
    folder: Path, model: Path, tokens: Path, pooling: Pooling, threads: int
) -> Callable[[Sequence[str]], Features]:
    tokenizer, net = _tokenizer(folder, tokens, pooling), _compiled(model, threads)
    inputs = {name: port for port in net.inputs for name in port.names if name in INPUTS}
    if "input_ids" not in inputs or len(inputs) != len(net.inputs):
        named = ", ".join(name for port in net.inputs for name in port.names)
        raise BadInput(f"{model} takes {named}; a text encoder takes some of {', '.join(INPUTS)}.")

    def encode(texts: Sequence[str]) -> Features:
        found = tokenizer.encode_batch(list(texts))
        given = {
            "input_ids": np.array([one.ids for one in found], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in found], dtype=np.int64),
            "token_type_ids": np.array([one.type_ids for one in found], dtype=np.int64),
        }
        # A request of its own for each call: calls of several threads do not meet.
        out = net.create_infer_request().infer({name: given[name] for name in inputs})
        values = np.asarray(out[net.outputs[0]], dtype=np.float32)
        return of_length_1(pooling.pooled(values, given["attention_mask"]) if values.ndim == 3 else values)

    return encode


def _tokenizer(folder: Path, tokens: Path, pooling: Pooling) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise BadInput(f'Texts need tokenizers ({error}). Install it with: pip install "crossmedia[text]"') from error
    try:
        tokenizer = Tokenizer.from_file(str(tokens))
    except Exception as error:  # its errors are plain ones
        raise BadInput(f"{tokens} is no tokenizer: {str(error)[:200]}") from error
    said: Any = read_json(folder / "tokenizer_config.json").get("pad_token") or "[PAD]"
    pad = str(said.get("content") if isinstance(said, dict) else said)
    tokenizer.enable_truncation(pooling.max_tokens)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
    return tokenizer


def _compiled(model: Path, threads: int) -> Any:
    core = runtime().Core()
    config = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
    try:
        return core.compile_model(core.read_model(model), "CPU", config)
    except RuntimeError as error:
        raise BadInput(f"OpenVINO cannot read {model}: {str(error)[:300]}") from error
