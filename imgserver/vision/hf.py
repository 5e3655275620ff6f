"""Models of Hugging Face transformers as backbones: sentence encoders, and both towers of CLIP and SigLIP.

    hf:FOLDER or hf:NAME         photos through the image tower
    text:hf:FOLDER or :NAME      texts through the text tower, or through a sentence encoder

Features have length 1. Weights are read from safetensors alone, and no code that comes with a model is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.imgserver.text.backbone import Features, TextBackbone, TextEngine
from crossmedia.imgserver.text.reading import TextReading
from crossmedia.imgserver.vision.backbone import HF, Backbone, Normalised, backbone_version
from crossmedia.imgserver.vision.decode import Preprocessing
from crossmedia.imgserver.vision.pooling import Pooling, of_length_1, read_json
from crossmedia.imgserver.vision.torchvision_zoo import import_torchvision
from crossmedia.version import TEXT, TOWER

TWO_TOWERS = ("clip", "siglip")
RESAMPLING = {2: "bilinear", 3: "bicubic"}
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model")  # of a name: never a pickle, never code
OF_TOKENS = ("config.json", "*token*", "*.txt", "*.model", "sentence_bert_config.json", "1_Pooling/config.json")


def hf_backbone(recipe: str) -> Backbone:
    """The image tower of ``hf:<folder or name>``.

    Raises:
        BadInput: it cannot be had or read, or has no image tower that is known here.
    """
    folder = _folder(recipe)
    config = read_json(folder / "config.json")
    if config.get("model_type") not in TWO_TOWERS:
        raise BadInput(
            f"{recipe} is a model of type {config.get('model_type')!r}; photos go through the image tower of one of "
            f"{', '.join(TWO_TOWERS)}. For texts it is an --encoder."
        )
    how = _preprocessing(folder)

    def build() -> nn.Module:
        return Normalised(_ImageTower(_model(folder)), how).eval()

    dim = _dim(folder, lambda model: _ImageTower(model)(torch.zeros(1, 3, how.size, how.size)))
    return Backbone(f"{HF}{_said(recipe, folder)}", _name(folder), dim, how, _weights(folder), build, "of length 1")


def hf_text_backbone(recipe: str) -> TextBackbone:
    """The text tower, or the sentence encoder, of ``hf:<folder or name>``.

    Raises:
        BadInput: it cannot be had or read.
    """
    folder = _folder(recipe)
    two = read_json(folder / "config.json").get("model_type") in TWO_TOWERS
    pooling = Pooling.of(folder)
    beside = {path for pattern in OF_TOKENS for path in folder.glob(pattern) if path.is_file()}
    files = (*_weights(folder), *sorted(beside - set(_weights(folder))))
    reading = TextReading()
    version = backbone_version(
        TEXT + _name(folder)[0 if two else len(TOWER) :], files, reading, f"{pooling}, of length 1"
    )
    encode = _tower_encoder if two else _sentence_encoder

    def make(threads: int, device: str) -> TextEngine:
        if threads:
            torch.set_num_threads(threads)
        return TextEngine(f"torch-{device}", encode(folder, _model(folder).to(device), pooling))

    dim = _dim(folder, lambda model: torch.from_numpy(encode(folder, model, pooling)(["a"])))
    return TextBackbone(f"text:{HF}{_said(recipe, folder)}", version, dim, make, reading)


class _ImageTower(nn.Module):
    """Normalised pixels, shape (n, 3, size, size), to features of length 1, shape (n, F)."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Features."""
        return torch.nn.functional.normalize(_pooled(self.model.get_image_features(pixel_values=pixels)), dim=1)


def _pooled(found: Any) -> Tensor:
    """What a tower gives: a tensor, and from release 5 of transformers on one beside others."""
    pooled: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return pooled


def _tower_encoder(folder: Path, model: Any, pooling: Pooling) -> Callable[[Sequence[str]], Features]:
    config = model.config.text_config
    # SigLIP was trained on texts that are filled up to their full length.
    padding = True if model.config.model_type == "clip" else "max_length"
    tokens = _tokenizer(folder)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Features:
        given = tokens(
            list(texts),
            padding=padding,
            truncation=True,
            max_length=config.max_position_embeddings,
            return_tensors="pt",
        )
        known = {name: given[name].to(model.device) for name in ("input_ids", "attention_mask") if name in given}
        return of_length_1(_pooled(model.get_text_features(**known)).float().cpu().numpy())

    return encode


def _sentence_encoder(folder: Path, model: Any, pooling: Pooling) -> Callable[[Sequence[str]], Features]:
    tokens = _tokenizer(folder)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Features:
        given = tokens(list(texts), padding=True, truncation=True, max_length=pooling.max_tokens, return_tensors="pt")
        found = model(**given.to(model.device)).last_hidden_state.float().cpu().numpy()
        return of_length_1(pooling.pooled(found, np.asarray(given["attention_mask"].cpu())))

    return encode


def _transformers() -> Any:
    with suppress(BadInput):  # transformers imports torchvision where it is installed, and it may need our help
        import_torchvision()
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise BadInput(f'hf: needs transformers ({error}). Install it with: pip install "crossmedia[text]"') from error
    log: Any = transformers.utils.logging
    log.set_verbosity_error()
    log.disable_progress_bar()
    return transformers


def _folder(recipe: str) -> Path:
    """The folder that a recipe names; fetched where it is the name of a model on a hub.

    Raises:
        BadInput: there is none, or it holds no model in safetensors.
    """
    named = recipe.removeprefix(HF)
    folder = Path(named).expanduser()
    if not folder.is_dir():
        folder = _fetched(named)
    if not (folder / "config.json").is_file():
        raise BadInput(f"The folder {folder} holds no model of transformers: there is no config.json.")
    if not _weights(folder):
        raise BadInput(
            f"The folder {folder} holds no weights as safetensors (model.safetensors). Other files of weights may run "
            f"code when they are read, and are not: convert them with save_pretrained(..., safe_serialization=True)."
        )
    return folder


def _fetched(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise BadInput(f"There is no folder {name!r}, and it is no name of a model on the Hugging Face hub either.")
    _transformers()
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FETCHED)))
    except Exception as error:  # of the hub's client, of HTTP, of the cache: each raises its own
        raise BadInput(
            f"There is no folder {name!r}, and the model of that name cannot be fetched: {str(error)[:300]}"
        ) from error


def _said(recipe: str, folder: Path) -> str:
    """What makes it again, from any folder that a command runs in."""
    named = recipe.removeprefix(HF)
    return str(folder.resolve()) if Path(named).expanduser().is_dir() else named


def _name(folder: Path) -> str:
    found = folder.resolve()
    # A fetched model lies in .../models--<organisation>--<name>/snapshots/<commit>.
    name = found.parent.parent.name.rpartition("--")[2] if found.parent.name == "snapshots" else found.name
    return TOWER + re.sub(r"[^\w.-]", "_", name)


def _weights(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.safetensors")))


def _model(folder: Path) -> Any:
    return _read(
        folder,
        lambda hf: hf.AutoModel.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, attn_implementation="sdpa"
        ).eval(),
    )


def _tokenizer(folder: Path) -> Any:
    return _read(folder, lambda hf: hf.AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def _read(folder: Path, read: Callable[[Any], Any]) -> Any:
    hf = _transformers()
    try:
        return read(hf)
    except Exception as error:  # each model and each tokenizer raises its own
        raise BadInput(f"The model in {folder} cannot be read: {type(error).__name__}: {str(error)[:300]}") from error


def _dim(folder: Path, one: Callable[[Any], Tensor]) -> int:
    """Numbers in a feature, from one that is made."""
    with torch.inference_mode():
        return int(one(_model(folder)).shape[1])


def _preprocessing(folder: Path) -> Preprocessing:
    """What ``preprocessor_config.json`` says.

    Raises:
        BadInput: it is missing, or says what is not done here.
    """
    path = folder / "preprocessor_config.json"
    said = read_json(path) or read_json(folder / "processor_config.json").get("image_processor", {})
    if not said:
        raise BadInput(f"{path} is missing, which says how photos go in.")
    edges: dict[str, Any] = said["size"] if isinstance(said.get("size"), dict) else {"shortest_edge": said.get("size")}
    cropped, crop = bool(said.get("do_center_crop")), said.get("crop_size")
    edge = edges.get("shortest_edge")
    size: Any = edges.get("height") if edges.get("height") == edges.get("width") else None
    if cropped:
        size = crop.get("height") if isinstance(crop, dict) else crop
    interpolation = RESAMPLING.get(said.get("resample", 3))
    mean, scale = _three(said.get("image_mean")), _three(said.get("image_std"))
    if not (type(size) is int and mean and scale and interpolation) or (cropped and type(edge) is not int):
        raise BadInput(
            f"{path} asks for what is not done here: photos are stretched to a square (size: height, width), or "
            f"cropped (size: shortest_edge, crop_size), with bilinear or bicubic interpolation (resample 2 or 3), and "
            f"normalised."
        )
    fit, resize = ("crop", int(edge or 0)) if cropped else ("stretch", 0)
    return Preprocessing(size, fit, resize, interpolation, mean, scale, draft=0)


def _three(values: Any) -> tuple[float, ...]:
    """Numbers of three channels, from 0..1 to pixel values; empty where they are none."""
    if not (isinstance(values, list) and len(values) == 3 and all(isinstance(x, int | float) for x in values)):
        return ()
    return tuple(255.0 * x for x in values)
