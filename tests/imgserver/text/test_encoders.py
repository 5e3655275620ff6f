"""Encoders of others. Their weights are random, made here: no hub is reached by tests."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TEXTS, save_bert, save_onnx, save_towers, transformers

from crossmedia.errors import BadInput
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.imgserver.vision.backbone import Backbone
from crossmedia.imgserver.vision.backbones import any_backbone, get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.hf import hf_backbone, hf_text_backbone
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.onnx_text import onnx_text_backbone
from crossmedia.imgserver.vision.pooling import Pooling


def features(backbone: Backbone | TextBackbone, texts: list[str]) -> np.ndarray:
    return make_engine(backbone, None, Machine(threads=1)).run(np.array(texts))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module", params=["clip", "siglip"])
def towers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_towers(tmp_path_factory.mktemp("models") / request.param, request.param)


def test_a_sentence_is_the_mean_of_its_tokens_whoever_shares_its_batch(bert: Path) -> None:
    backbone = hf_text_backbone(f"hf:{bert}")
    assert backbone.version.startswith("text:bert@")
    found = features(backbone, TEXTS)
    hf = transformers()
    model, tokens = hf.AutoModel.from_pretrained(bert).eval(), hf.AutoTokenizer.from_pretrained(bert)
    for row, text in enumerate(TEXTS):  # alone, so without padding
        with torch.inference_mode():
            mean = model(**tokens(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(found[row], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_folder_says_how_tokens_are_pooled_and_that_is_another_version(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    assert hf_text_backbone(f"hf:{folder}").version == hf_text_backbone(f"hf:{bert}").version
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    first = hf_text_backbone(f"hf:{folder}")
    assert first.version != hf_text_backbone(f"hf:{bert}").version
    assert not np.allclose(features(first, TEXTS), features(hf_text_backbone(f"hf:{bert}"), TEXTS), atol=1e-3)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(BadInput, match="asks for pooling_mode_max_tokens"):
        hf_text_backbone(f"hf:{folder}")
    (folder / "1_Pooling" / "config.json").write_text("[")
    with pytest.raises(BadInput, match="cannot be read"):
        hf_text_backbone(f"hf:{folder}")


def test_both_towers_are_those_of_the_model(towers: Path, photos: Path) -> None:
    hf = transformers()
    model, tokens = hf.AutoModel.from_pretrained(towers).eval(), hf.AutoTokenizer.from_pretrained(towers)
    texts, image = any_backbone(f"text:hf:{towers}"), get_backbone(f"hf:{towers}")
    assert (texts.version, image.version) != (image.version, texts.version)
    assert image.version.startswith(f"hf:{towers.name}@")
    padding = True if towers.name == "clip" else "max_length"
    with torch.inference_mode():
        given = tokens(TEXTS, padding=padding, truncation=True, max_length=32, return_tensors="pt")
        given.pop("token_type_ids", None)
        expected = model.get_text_features(**given)
        expected = getattr(expected, "pooler_output", expected)
        expected = torch.nn.functional.normalize(expected, dim=1).numpy()
    np.testing.assert_allclose(features(texts, TEXTS), expected, atol=1e-5)
    pixels = np.stack(
        [decode((photos / f"{i:03d}.jpg").read_bytes(), image.preprocessing, ImageLimits()) for i in (0, 50, 200)]
    )
    processor = hf.AutoImageProcessor.from_pretrained(towers, backend="pil")
    opened = [Image.open(io.BytesIO((photos / f"{i:03d}.jpg").read_bytes())).convert("RGB") for i in (0, 50, 200)]
    with torch.inference_mode():
        out = model.get_image_features(**processor(images=opened, return_tensors="pt"))
        out = torch.nn.functional.normalize(getattr(out, "pooler_output", out), dim=1).numpy()
    found = make_engine(image, None, Machine(threads=1)).run(pixels)
    np.testing.assert_allclose(found, out, atol=2e-3)  # a grey level of one pixel


def test_what_is_no_model_is_said(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"of type 'bert'.*For texts it is an --encoder"):
        hf_backbone(f"hf:{bert}")
    with pytest.raises(BadInput, match=r"no folder '\.\./x'"):
        hf_backbone("hf:../x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no config\.json"):
        hf_backbone(f"hf:{tmp_path / 'empty'}")
    folder = save_bert(tmp_path / "pickled")
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no weights as safetensors.*may run code"):
        hf_text_backbone(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(BadInput, match="cannot be read"):
        hf_text_backbone(f"hf:{folder}")


def test_code_that_comes_with_a_model_is_not_run(bert: Path, tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "evil")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="cannot be read"):
        hf_text_backbone(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


def test_a_photo_goes_in_as_the_folder_says_or_not_at_all(tmp_path: Path) -> None:
    folder = save_towers(tmp_path / "clip", "clip")
    assert get_backbone(f"hf:{folder}").preprocessing.resize == 36
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text())
    for change in ({"resample": 0}, {"image_mean": [0.5]}, {"size": {"longest_edge": 32}}, {"crop_size": None}):
        path.write_text(json.dumps(said | change))
        with pytest.raises(BadInput, match="what is not done here"):
            hf_backbone(f"hf:{folder}")
    path.unlink()
    with pytest.raises(BadInput, match="is missing"):
        hf_backbone(f"hf:{folder}")


def test_an_onnx_encoder_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer

    folder = save_onnx(tmp_path / "encoder")
    backbone = onnx_text_backbone(f"onnx:{folder}")
    assert (backbone.feature_dim, backbone.version.partition("@")[0]) == (6, "text:onnx:encoder")
    words, tokens = np.load(folder / "words.npy"), Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = features(backbone, TEXTS)
    for row, text in enumerate(TEXTS):
        mean = words[tokens.encode(text).ids].mean(axis=0)
        np.testing.assert_allclose(found[row], mean / np.linalg.norm(mean), atol=1e-5)


def test_an_onnx_folder_that_lacks_something_is_said(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    folder = save_onnx(tmp_path / "encoder")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="is no tokenizer"):
        onnx_text_backbone(f"onnx:{folder}")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"needs model\.onnx and tokenizer\.json"):
        onnx_text_backbone(f"onnx:{folder}")


def test_tokens_that_only_fill_up_count_for_nothing() -> None:
    tokens = np.array([[[2.0], [4.0], [90.0]]], dtype=np.float32)
    assert Pooling("mean").pooled(tokens, np.array([[1, 1, 0]])).tolist() == [[3.0]]
    assert Pooling("first").pooled(tokens, np.array([[1, 1, 0]])).tolist() == [[2.0]]
