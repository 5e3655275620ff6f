"""Tiny models of transformers with random weights: what they say means nothing, how they are read does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossmedia.imgserver.vision.torchvision_zoo import import_torchvision

TEXTS = ["red dress", "blue jeans and a shirt", "milk carton", "green apple"]
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
VISION = {**TEXT, "image_size": 32, "patch_size": 8}
del VISION["max_position_embeddings"]
CROP = {
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "size": {"shortest_edge": 36},
    "resample": 3,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}
STRETCH = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def transformers() -> Any:
    """The package, beside any build of torchvision; a test that needs it is skipped without it."""
    found = pytest.importorskip("transformers")
    import_torchvision()
    return found


def tokenizer(folder: Path) -> int:
    """Write a tokenizer of words; the number of its tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(TEXTS * 5, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    said |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"model_max_length": 32}))
    return int(made.get_vocab_size())


def save_bert(folder: Path) -> Path:
    """A sentence encoder of 32 numbers."""
    import torch

    hf = transformers()
    folder.mkdir()
    torch.manual_seed(0)
    hf.BertModel(hf.BertConfig(vocab_size=tokenizer(folder), **TEXT)).save_pretrained(folder)
    return folder


def save_towers(folder: Path, kind: str) -> Path:
    """CLIP of 24 numbers, or SigLIP of 32."""
    import torch

    hf = transformers()
    folder.mkdir()
    torch.manual_seed(0)
    tokens = {"vocab_size": tokenizer(folder), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    if kind == "clip":
        config = hf.CLIPConfig(text_config={**TEXT, **tokens}, vision_config=VISION, projection_dim=24)
        hf.CLIPModel(config).save_pretrained(folder)
    else:
        config = hf.SiglipConfig(text_config={**TEXT, **tokens}, vision_config=VISION)
        hf.SiglipModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CROP if kind == "clip" else STRETCH))
    return folder


def save_onnx(folder: Path) -> Path:
    """A text encoder as ONNX: the tokens' rows of a table, shape (n, T, 6), which are to be pooled."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    words = np.random.default_rng(0).standard_normal((tokenizer(folder), 6)).astype(np.float32)
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", 6])
    nodes = [helper.make_node("Gather", ["words", "input_ids"], ["last_hidden_state"])]
    graph = helper.make_graph(nodes, "encoder", ids, [out], [numpy_helper.from_array(words, "words")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "words.npy", words)
    return folder
