"""Nets of timm. Their weights are random, for no hub can be reached from here: how they are read and run counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import run_command
from made_samples import make_samples
from PIL import Image
from safetensors.torch import save_file

import crossmedia
from crossmedia import FitConfig
from crossmedia.errors import BadInput
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.engines import FeatureArray, OpenVinoEngine, TorchEngine
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.torchvision_zoo import import_torchvision

CONVNEXT, EFFICIENTNET = "convnext_atto.d2_in1k", "efficientnet_b0.ra_in1k"
DINO, DINOV3 = "vit_small_patch14_dinov2.lvd142m", "vit_small_patch16_dinov3.lvd1689m"
SIGLIP, VIT = "vit_base_patch16_siglip_224.v2_webli", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
CLIP = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"


def test_the_absent_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from crossmedia.imgserver.vision.backbones import get_backbone\n"
        "try: get_backbone('timm:x')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert re.match(r"BadInput timm: needs timm .*crossmedia\[timm\]", said), said


@pytest.fixture(scope="session")
def timm() -> Any:
    """The package; a test that needs it is skipped without it."""
    import_torchvision()
    return pytest.importorskip("timm", reason="the extra timm is not installed")


@pytest.fixture(scope="session")
def weights(timm: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A file of random weights, with the last layer and all."""
    folder = tmp_path_factory.mktemp("weights")

    def save(name: str) -> Path:
        path: Path = folder / f"{name.partition('.')[0]}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            save_file(timm.create_model(name, pretrained=False).state_dict(), path)
        return path

    return save


def cosine(a: FeatureArray, b: FeatureArray) -> float:
    """The least of the rows."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


@pytest.mark.parametrize(
    ("name", "size", "dim"),
    [
        (CONVNEXT, 224, 320),
        (EFFICIENTNET, 224, 1280),
        (VIT, 224, 192),
        pytest.param(CLIP, 224, 256, marks=pytest.mark.slow),
        pytest.param(DINOV3, 256, 384, marks=pytest.mark.slow),
        pytest.param(DINO, 518, 384, marks=pytest.mark.slow),
        pytest.param(SIGLIP, 224, 768, marks=pytest.mark.slow),
    ],
)
def test_both_engines_give_the_vectors_of_timms_own_pipeline(
    timm: Any, weights: Any, photos: Path, name: str, size: int, dim: int
) -> None:
    backbone = get_backbone(f"timm:{name}@{weights(name)}")
    assert (backbone.preprocessing.size, backbone.feature_dim) == (size, dim)
    net = timm.create_model(name, checkpoint_path=str(weights(name))).eval()
    net.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    files = sorted(photos.glob("*.jpg"))[:3]
    pictures = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    pixels = np.stack([decode(file.read_bytes(), backbone.preprocessing, ImageLimits()) for file in files])
    how = backbone.preprocessing
    ours = (pixels.astype(np.float32) - np.array(how.mean)) / np.array(how.scale)
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), pictures.numpy(), atol=1e-4)
    with torch.inference_mode():
        wanted = net(pictures).numpy()
    for engine in (TorchEngine(backbone), OpenVinoEngine(backbone, None)):
        found = engine.run(pixels)
        assert cosine(found, wanted) >= 0.9999
        # Vectors of an untrained net differ little from photo to photo: what differs has to agree as well.
        assert cosine(found - found.mean(0), wanted - wanted.mean(0)) >= 0.999


def test_the_projection_of_clip_is_in_the_name(timm: Any, weights: Any) -> None:
    path = weights(CLIP)
    trunk, projected = get_backbone(f"timm:{CLIP}@{path}"), get_backbone(f"timm:{CLIP}@{path}#projection")
    net = timm.create_model(CLIP)
    assert (trunk.feature_dim, projected.feature_dim) == (net.num_features, net.num_classes)
    assert trunk.version.partition("@")[0] != projected.version.partition("@")[0]
    assert get_backbone(projected.recipe).version == projected.version
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    net.load_state_dict(timm.models.load_state_dict(str(path)))
    with torch.inference_mode():
        wanted = net.get_classifier()(torch.from_numpy(TorchEngine(trunk).run(pixels))).numpy()
    np.testing.assert_allclose(TorchEngine(projected).run(pixels), wanted, atol=1e-4)
    with pytest.raises(BadInput, match="has no projection"):
        get_backbone(f"timm:{CONVNEXT}@{path}#projection")


@pytest.mark.parametrize("form", ["no-head", "module", "checkpoint"])
def test_weights_of_ones_own_in_any_form(timm: Any, weights: Any, tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    state = timm.create_model(CONVNEXT).state_dict()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    wanted = TorchEngine(get_backbone(f"timm:{CONVNEXT}@{weights(CONVNEXT)}")).run(pixels)
    made: Any = {key: value for key, value in state.items() if not key.startswith("head.fc")}
    if form != "no-head":
        made = {f"module.{key}": value for key, value in state.items()}
    torch.save({"state_dict": made, "epoch": 1} if form == "checkpoint" else made, tmp_path / "own.pth")
    np.testing.assert_array_equal(
        TorchEngine(get_backbone(f"timm:{CONVNEXT}@{tmp_path / 'own.pth'}")).run(pixels), wanted
    )


def test_names_of_those_who_trained_a_net_go_through_timms_converter(timm: Any, weights: Any, tmp_path: Path) -> None:
    """As the paper's authors saved ConvNeXt."""
    from safetensors.torch import load_file

    state = load_file(weights(CONVNEXT))
    older = {}
    for key, value in state.items():
        key = (
            key.replace("stem.", "downsample_layers.0.").replace(".mlp.fc1", ".pwconv1").replace(".mlp.fc2", ".pwconv2")
        )
        key = re.sub(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", key)
        key = re.sub(r"stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2", key).replace(".conv_dw", ".dwconv")
        older[key.replace("head.norm", "norm").replace("head.fc", "head")] = value
    assert not set(older) & {"stem.0.weight"}
    torch.save({"model": older}, tmp_path / "authors.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    wanted = TorchEngine(get_backbone(f"timm:{CONVNEXT}@{weights(CONVNEXT)}")).run(pixels)
    found = TorchEngine(get_backbone(f"timm:{CONVNEXT}@{tmp_path / 'authors.pth'}")).run(pixels)
    np.testing.assert_array_equal(found, wanted)


def test_what_cannot_be_a_backbone_is_refused(timm: Any, weights: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    with pytest.raises(BadInput, match=r"no net 'convnext_ato'.*convnext_atto"):
        get_backbone("timm:convnext_ato")
    with pytest.raises(BadInput, match=r"no file 'none\.pth'"):
        get_backbone(f"timm:{CONVNEXT}@none.pth")
    state = load_file(weights(CONVNEXT))
    del state["stages.0.blocks.0.conv_dw.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(BadInput, match=r"1 are missing: stages\.0\.blocks\.0\.conv_dw\.weight"):
        get_backbone(f"timm:{CONVNEXT}@{tmp_path / 'part.safetensors'}")
    huge = {
        key: value * 1e30 if value.is_floating_point() else value for key, value in load_file(weights(CONVNEXT)).items()
    }
    save_file(huge, tmp_path / "huge.safetensors")
    with pytest.raises(BadInput, match=r"output of .* is not finite"):
        get_backbone(f"timm:{CONVNEXT}@{tmp_path / 'huge.safetensors'}")


def test_a_net_whose_output_is_no_vector_is_refused(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmedia.imgserver.vision.timm_zoo import timm_backbone

    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **how: make(name, **how, global_pool=""))
    with pytest.raises(BadInput, match=r"is no vector: \(1, 1370, 384\)"):
        timm_backbone(f"timm:{DINO}", random_weights=True)


@pytest.mark.slow
def test_from_the_hubs_cache_through_a_head_to_vectors(weights: Any, photos: Path, tmp_path: Path) -> None:
    """As a hub's client keeps a net: precompute, and a head behind its 320 numbers; nothing is fetched."""
    repository = tmp_path / "hub" / f"models--timm--{CONVNEXT}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").write_bytes(weights(CONVNEXT).read_bytes())
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(map(str, range(24))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        (listed,) = json.loads(
            run_command("imgserver", "backbones", f"timm:{CONVNEXT}", "--json", timeout_s=250).stdout
        )
        assert (listed["dim"], listed["here"]) == (320, True)
        assert listed["images_per_s"] > 0
        common = [f"--catalogue={photos}", f"--store={tmp_path / 'store'}", f"--ids={ids}", "--dim=8"]
        run_command("imgserver", "precompute", *common, f"--backbone=timm:{CONVNEXT}", timeout_s=250)
    with ImageClient(open_local(tmp_path / "store")) as client:
        assert client.info().backbone.startswith(f"timm:{CONVNEXT}@")
        found = client.get(range(24))
        assert found.ok.all()
        assert found.values.shape == (24, 8)
        assert np.isfinite(found.values).all()
        assert len(np.unique(found.values, axis=0)) > 20


@pytest.mark.slow
def test_a_store_of_768_numbers_is_served_exported_searched_and_learned_on(
    weights: Any, photos: Path, tmp_path: Path
) -> None:
    """Misses, a Parquet file, neighbours, and a head that learns behind the 768 numbers of a Swin."""
    name, store = "swin_tiny_patch4_window7_224.ms_in1k", tmp_path / "store"
    one = Machine(threads=1, decode_threads=2)
    made = crossmedia.precompute(store, photos, f"timm:{name}@{weights(name)}", dim=8, ids=range(16), machine=one)
    assert (made.embedded, made.rejected) == (16, 0)
    crossmedia.build_index(store)
    with ImageClient(open_local(store, catalogue=str(photos))) as client:
        assert client.info().backbone.startswith(f"timm:{name}.")
        found = client.get([*range(16), 40])  # one that is computed on demand
        assert found.ok.all()
        rows = found.values[:16].astype(np.float32)
        cosines = (rows @ rows.T) / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows, axis=1)[:, None]
        np.fill_diagonal(cosines, -2)  # an image is no neighbour of itself
        near = client.search(list(range(16)), k=1)
        np.testing.assert_allclose(near.cosines[:, 0], cosines.max(axis=1), atol=1e-3)
    run_command("imgserver", "export", f"--store={store}", f"--out={tmp_path / 'vectors.parquet'}")
    exported = pq.read_table(tmp_path / "vectors.parquet")
    assert exported["image_id"].to_pylist() == [*range(16), 40]
    np.testing.assert_array_equal(np.array(exported["vector"].to_pylist(), dtype=np.float16), found.values)
    samples = make_samples(tmp_path, 16, 600, {number: number for number in range(16)})
    learned = crossmedia.fit(
        FitConfig(
            str(samples), str(tmp_path / "run"), store=str(store), head="learn", head_widths=(32, 8), epochs=1, width=4
        )
    )
    assert learned["test"]["all"]["rows"] > 0
    head = tmp_path / "run" / "head.safetensors"
    version = json.loads(run_command("imgserver", "precompute", f"--store={store}", f"--head={head}", "--json").stdout)[
        "version"
    ]
    with ImageClient(open_local(store), version=version) as client:
        assert client.get([0]).values.shape == (1, 8)
