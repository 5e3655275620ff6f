"""What a backbone is: a frozen CNN with its weights and its preprocessing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.versions import FEATURE_DTYPE
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.imgserver.text.reading import TextReading
from crossmedia.imgserver.vision.decode import Preprocessing
from crossmedia.imgserver.vision.photometry import ANCHORS
from crossmedia.version import PHOTOMETRY, hashed

TORCHVISION, TIMM, ONNX, HF = "torchvision:", "timm:", "onnx:", "hf:"
NVJPEG = "#nvjpeg"  # in the recipe of a backbone whose JPEGs the GPU decodes
# Ends of the recipe and the version of a backbone that computes in bfloat16, or on GPUs in TF32: products of 10 bits.
BF16, TF32 = "#bf16", "#tf32"
INT8 = "#int8"  # of one whose products are of 8 bits, as a file has it


def backbone_version(
    name: str, files: Sequence[Path], preprocessing: Preprocessing | TextReading, rest: str = ""
) -> str:
    """Version of a backbone in fp32: weights, all steps from bytes to its input, what else changes its features."""
    sha = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    steps = asdict(preprocessing)
    if steps.get("jpeg") == "pillow":  # as it was before there was a choice
        del steps["jpeg"]
    sha.update(json.dumps(steps, sort_keys=True, separators=(",", ":")).encode() + rest.encode())
    return hashed(name, sha.hexdigest())


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
        bf16: compute in bfloat16 instead of float32: other features, so another version.
        tf32: let GPUs multiply in TF32: another version, too.
        int8: file of the same net in 8 bits, which runs in its place: another version; None: there is none.
        photometry: the numbers of ``ANCHORS`` stand behind those of the net: other features, another version.
    """

    recipe: str
    name: str
    feature_dim: int
    preprocessing: Preprocessing
    weights: tuple[Path, ...]
    graph: Callable[[], nn.Module] | OnnxGraph
    rest: str = ""
    bf16: bool = False
    tf32: bool = False
    int8: Path | None = None
    photometry: bool = False

    @cached_property
    def version(self) -> str:
        """``<name>@<12 hex of sha256(weights, preprocessing)>[#bf16|#tf32|#int8][#photometry]``."""
        base = backbone_version(self.name, self.weights, self.preprocessing, self.rest)
        form = BF16 * self.bf16 + TF32 * self.tf32 + INT8 * (self.int8 is not None)
        return base + form + PHOTOMETRY * self.photometry

    @property
    def space(self) -> Space:
        """What its features are stored in, out of any store."""
        return Space(0, self.version, "feature", self.feature_dim, FEATURE_DTYPE, recipe=self.recipe)

    def with_photometry(self) -> Backbone:
        """The same net with the numbers of ``ANCHORS`` behind its own."""
        recipe, dim = self.recipe + PHOTOMETRY, self.feature_dim + len(ANCHORS)
        return replace(self, recipe=recipe, feature_dim=dim, photometry=True)

    def without_photometry(self) -> Backbone:
        """The net alone, of a backbone that ``with_photometry`` made."""
        recipe, dim = self.recipe.removesuffix(PHOTOMETRY), self.feature_dim - len(ANCHORS)
        return replace(self, recipe=recipe, feature_dim=dim, photometry=False)


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
        self.dtype = torch.float32  # of the net
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.tensor(preprocessing.scale).view(1, -1, 1, 1))

    def in_bf16(self) -> None:
        """Have weights and activations of the net in bfloat16; normalisation stays in float32."""
        assert isinstance(self.net, nn.Module)
        self.net.to(torch.bfloat16)
        self.dtype = torch.bfloat16

    def forward(self, pixels: Tensor) -> Tensor:
        """Features, shape (n, F)."""
        x = (pixels.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.scale
        features = self.net(x.to(self.dtype))
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features


AnyBackbone = Backbone | TextBackbone
