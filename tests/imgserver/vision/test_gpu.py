"""What only a GPU can show: features agree with those of the CPU, whatever the batch, the threads and the format."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crossmedia.imgserver.vision.backbone import Backbone
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, Pixels, decode
from crossmedia.imgserver.vision.engines import FeatureArray, Picture, TorchEngine
from crossmedia.imgserver.vision.gpu_jpeg import Jpeg, for_gpu
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
BATCH = 16


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return get_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def pixels(photos: Path, backbone: Backbone) -> Pixels:
    files = sorted(photos.iterdir())[: 2 * BATCH + 5]
    return np.stack([decode(file.read_bytes(), backbone.preprocessing, ImageLimits()) for file in files])


@pytest.fixture(scope="module")
def on_cpu(backbone: Backbone, pixels: Pixels) -> FeatureArray:
    return TorchEngine(backbone).run(pixels)


def least_cosine(a: FeatureArray, b: FeatureArray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_the_gpu_gives_the_features_of_the_cpu(backbone: Backbone, pixels: Pixels, on_cpu: FeatureArray) -> None:
    engine = make_engine(backbone, None, Machine(batch_size=BATCH))
    assert engine.name == "torch-cuda:0"
    assert least_cosine(engine.run(pixels), on_cpu) > 0.99999  # two full batches, which are replayed, and a smaller one


@pytest.mark.parametrize(("form", "least"), [("tf32", 0.9999), ("bf16", 0.99)])
def test_other_formats_are_close(
    form: str, least: float, backbone: Backbone, pixels: Pixels, on_cpu: FeatureArray
) -> None:
    other = replace(backbone, bf16=form == "bf16", tf32=form == "tf32")
    found = make_engine(other, None, Machine(batch_size=BATCH)).run(pixels)
    assert least_cosine(found, on_cpu) > least
    assert not np.array_equal(found, on_cpu)


def test_float32_is_no_tf32_though_the_process_allows_it(
    backbone: Backbone, pixels: Pixels, on_cpu: FeatureArray
) -> None:
    torch.backends.cudnn.allow_tf32 = True
    tf32 = make_engine(replace(backbone, tf32=True), None, Machine(batch_size=BATCH))
    plain = make_engine(backbone, None, Machine(batch_size=BATCH))
    tf32.run(pixels[:3])
    error, coarse = (np.abs(engine.run(pixels) - on_cpu).max() for engine in (plain, tf32))
    assert error < coarse / 4
    assert torch.backends.cudnn.allow_tf32


def test_threads_get_the_features_of_their_own_photos(backbone: Backbone, pixels: Pixels) -> None:
    engine = make_engine(backbone, None, Machine(batch_size=BATCH))
    rng = np.random.default_rng(0)
    picks = [rng.choice(len(pixels), rng.integers(1, BATCH + 1), replace=False) for _ in range(60)]
    wanted = engine.run(pixels)
    with ThreadPoolExecutor(8) as pool:
        for pick, found in zip(picks, pool.map(lambda pick: engine.run(pixels[pick]), picks), strict=True):
            np.testing.assert_allclose(found, wanted[pick], atol=2e-3)


class AsksInBetween(nn.Module):
    """A net whose path depends on its numbers: no graph holds it."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.float().mean(dim=(1, 2))
        return x + 1 if x.sum().item() >= 0 else x


def test_a_net_that_no_graph_holds_is_launched(backbone: Backbone, pixels: Pixels) -> None:
    graph: Callable[[], nn.Module] = AsksInBetween
    engine = make_engine(replace(backbone, graph=graph, feature_dim=3), None, Machine(batch_size=BATCH))
    wanted = pixels.astype(np.float64).mean(axis=(1, 2)) + 1
    for _ in range(2):
        np.testing.assert_allclose(engine.run(pixels), wanted, rtol=1e-5)


def test_jpegs_decoded_on_the_gpu(photos: Path, backbone: Backbone) -> None:
    """Alone, among photos that were decoded, and beside one that cannot be."""
    engine = make_engine(get_backbone("efficientnet_lite0#nvjpeg"), None, Machine(batch_size=BATCH))
    data = [file.read_bytes() for file in sorted(photos.iterdir())[:BATCH]]
    of_pixels = engine.run(np.stack([decode(photo, backbone.preprocessing, ImageLimits()) for photo in data]))
    pictures: list[Picture] = [jpeg for photo in data if (jpeg := for_gpu(photo, ImageLimits()))]
    assert len(pictures) == len(data)
    assert least_cosine(engine.run(pictures), of_pixels) > 0.97
    pictures[3] = Jpeg(data[3][:300] + b"\xff\xd9")
    pictures[5] = decode(data[5], backbone.preprocessing, ImageLimits())
    found = engine.run(pictures)
    assert np.isnan(found).any(axis=1).tolist() == [place == 3 for place in range(BATCH)]
    assert least_cosine(found[[5]], of_pixels[[5]]) > 0.9999
