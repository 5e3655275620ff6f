"""The head: the small net that turns a frozen feature into the vector that models see. torch only.

Shared by the server, which applies it, and the trainer, which may train it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.safetensors_header import header_of
from crossmedia.version import HASH_DIGITS, Version, hashed

Features = npt.NDArray[Any]
Weights = npt.NDArray[np.float64]

ACTIVATIONS = ("relu", "prelu")
NORMALISATIONS = ("none", "layer")
STARTS = ("pca", "random")
WHOLE = "whole"  # the name of a head that changes nothing
LEAST_ROWS = 64  # of a product of matrices: of few rows it takes another way, which rounds otherwise
MAX_LAYERS = 64  # linear ones: each takes some KiB beside its weights
MAX_HEADER_BYTES = 64 << 10  # of its file: names and shapes of all that MAX_LAYERS can have take less


@dataclass(frozen=True)
class HeadSpec:
    """What a head is, without its weights.

    Attributes:
        name: how it was made, such as ``pca`` or ``learned``; part of the version.
        widths: numbers in the feature, in each hidden layer, and in the vector.
        activation: between layers: ``relu`` or ``prelu``; a single layer has none.
        normalisation: of each hidden layer before its activation: ``none``, or ``layer`` (LayerNorm). There is no batch
            normalisation: the vector of an image would depend on the others that are asked for with it.
        rectified: how many numbers of a vector, the last ones, are cut at 0: of what is there or not, and never less
            than not there.

    Raises:
        BadInput: one of them is none of its choices.
    """

    name: str
    widths: tuple[int, ...]
    activation: str = "prelu"
    normalisation: str = "none"
    rectified: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", self.name):  # it becomes part of a file's name
            raise BadInput(f"A head cannot be named {self.name!r}; use up to 32 of a-z, 0-9, _ and -.")
        if not 2 <= len(self.widths) <= MAX_LAYERS + 1:
            raise BadInput(f"The widths of a head are two or more, at most {MAX_LAYERS + 1}; got {len(self.widths)}.")
        if not all(type(w) is int and w > 0 for w in self.widths):
            raise BadInput(f"The widths of a head are whole numbers above 0; got {self.widths}.")
        if type(self.rectified) is not int or not 0 <= self.rectified <= self.widths[-1]:
            raise BadInput(f"A head rectifies 0 to {self.widths[-1]} numbers of its vector; got {self.rectified}.")
        for what, value, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("normalisation", self.normalisation, NORMALISATIONS),
        ):
            if value not in known:
                raise BadInput(f"A head has no {what} {value!r}; there are: {', '.join(known)}.")

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.widths[-1]

    @property
    def parameters(self) -> int:
        """Weights and biases of its linear layers."""
        return sum((wide + 1) * narrow for wide, narrow in pairwise(self.widths))

    def canonical(self) -> str:
        """One JSON text for one spec, whatever made it."""
        fields = asdict(self)
        for name, usual in (("normalisation", "none"), ("rectified", 0)):
            if fields[name] == usual:
                del fields[name]  # so that heads from before there was such a thing keep their version
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_canonical(cls, text: str) -> HeadSpec:
        """Read what ``canonical`` wrote.

        Raises:
            BadInput: it is no spec of a head.
        """
        try:
            fields = json.loads(text)
            return cls(**{**fields, "widths": tuple(fields["widths"])})
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"This describes no head: {error}.") from error


class Head(nn.Module):
    """Linear layers with an activation between them: feature, shape (K, F), to vector, shape (K, D).

    Args:
        spec: widths ``(F, …, D)``, activation and normalisation, and how many of the D numbers are cut at 0.
        backbone: version of the features that it was trained on, where that is known; kept in its file.

    Example:
        >>> import torch
        >>> from crossmedia import Head
        >>> from crossmedia.imgserver.head import HeadSpec
        >>> head = Head(HeadSpec("mine", (1280, 64, 12)))
        >>> head(torch.zeros(3, 1280)).shape
        torch.Size([3, 12])
        >>> Head.from_bytes(head.to_bytes()).digest() == head.digest()
        True
    """

    def __init__(self, spec: HeadSpec, backbone: str = ""):
        super().__init__()
        self.spec, self.backbone = spec, backbone
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(spec.widths):
            if layers:
                if spec.normalisation == "layer":
                    layers.append(nn.LayerNorm(wide))
                layers.append(nn.ReLU() if spec.activation == "relu" else nn.PReLU())
            layers.append(nn.Linear(wide, narrow))
        self.layers = nn.Sequential(*layers)

    @property
    def linear(self) -> list[nn.Linear]:
        """Its linear layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def version(self, backbone: str) -> str:
        """Version of the vectors that it makes from the features of ``backbone``."""
        return str(Version(backbone, self.name, dim=self.spec.dim))

    @property
    def name(self) -> str:
        """``<name>@<hash>``, as versions and files call it."""
        return hashed(self.spec.name, self.digest())

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, shape (K, D), of features, shape (K, F)."""
        result: Tensor = self.layers(features)
        if not self.spec.rectified:
            return result
        plain = self.spec.dim - self.spec.rectified
        return torch.cat([result[..., :plain], result[..., plain:].relu()], dim=-1)

    @torch.inference_mode()
    def apply_numpy(self, features: Features) -> npt.NDArray[np.float32]:
        """``forward`` for numpy arrays, without gradients; in blocks, so that a catalogue is never fp32 at once.

        A vector does not depend on how many others are made with it.
        """
        blocks = [np.zeros((0, self.spec.dim), dtype=np.float32)]
        for start in range(0, len(features), 8192):
            block = np.asarray(features[start : start + 8192], dtype=np.float32)
            n = len(block)
            if n < LEAST_ROWS:
                block = np.concatenate([block, np.zeros((LEAST_ROWS - n, block.shape[1]), dtype=np.float32)])
            blocks.append(self(torch.from_numpy(block)).numpy()[:n])
        return np.concatenate(blocks)

    def digest(self) -> str:
        """12 hex of sha256 over the canonical spec and the weights."""
        sha = hashlib.sha256(self.spec.canonical().encode())
        for name, value in sorted(self.state_dict().items()):
            sha.update(name.encode() + value.detach().cpu().contiguous().to(torch.float32).numpy().tobytes())
        return sha.hexdigest()[:HASH_DIGITS]

    def to_bytes(self) -> bytes:
        """Spec and weights as one safetensors block."""
        about = {"spec": self.spec.canonical()} | ({"backbone": self.backbone} if self.backbone else {})
        about["digest"] = self._whole_digest()
        return save({k: v.contiguous() for k, v in self.state_dict().items()}, metadata=about)

    def _whole_digest(self) -> str:
        """Of all that is in its file: ``digest`` does not know the backbone."""
        return hashlib.sha256(f"{self.backbone}+{self.digest()}".encode()).hexdigest()

    @classmethod
    @torch.inference_mode(False)  # its weights may learn, whoever reads them
    def from_bytes(cls, data: bytes) -> Head:
        """Read what ``to_bytes`` wrote.

        Raises:
            BadInput: the block is no head, or a damaged one, or a weight is not finite.
        """
        try:
            header = header_of(data, MAX_HEADER_BYTES)
            about = header.pop("__metadata__")
            if unknown := about.keys() - {"spec", "backbone", "digest"}:
                raise ValueError(f"its file says {min(unknown)!r}, which heads do not have")
            spec = HeadSpec.from_canonical(about["spec"])
            if 4 * spec.parameters > len(data):  # before anything of that size is made
                raise ValueError(f"its widths {spec.widths} need {4 * spec.parameters} bytes of weights")
            head = cls(spec, about.get("backbone", ""))
            said = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in header.items()}
            right = {name: ("F32", tuple(weight.shape)) for name, weight in head.state_dict().items()}
            if said != right:
                names = ", ".join(
                    sorted(name for name in said.keys() | right.keys() if said.get(name) != right.get(name))
                )
                raise ValueError(f"its weights are not float32 numbers of the shapes that its widths need: {names}")
            head.load_state_dict(load(data))
            if "digest" in about and about["digest"] != head._whole_digest():  # heads of former releases have none
                raise ValueError("its digest is that of another head: it is damaged. Copy it again, or train it again")
        except (BadInput, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise BadInput(f"This is no head that 'imgserver precompute' or 'trainer fit' saved: {error}.") from error
        for name, weight in head.state_dict().items():
            if not torch.isfinite(weight).all():
                raise BadInput(
                    f"The head's weights {name} are not finite: training has diverged. Start again from the last "
                    f"checkpoint, with a smaller step size of the head."
                )
        return head


def linear_head(name: str, weight: Weights, bias: Weights, rectified: int = 0, backbone: str = "") -> Head:
    """A head of one layer: shape (D, F) and (D,), whose last ``rectified`` numbers are cut at 0."""
    head = Head(HeadSpec(name, (weight.shape[1], weight.shape[0]), rectified=rectified), backbone)
    _set(head.linear[0], weight, bias)
    return head


def fit_pca(features: Features, dim: int) -> Head:
    """A linear head: principal components of ``features``, shape (n, F), scaled to a mean square of 1 a component.

    One scale for all components keeps their proportions, so dot products mean what they meant among the features.

    Raises:
        BadInput: no more features than there are numbers in a vector, or ``dim`` above F.
    """
    n, width = features.shape
    if dim > width:
        raise BadInput(f"A PCA of {width} numbers has at most as many, and not {dim}. Choose a smaller --dim.")
    if not 1 <= dim < n:
        raise BadInput(
            f"A PCA to {dim} numbers needs more than {dim} features; there are {n}. Choose a smaller --dim, or embed "
            f"more photos or texts."
        )
    centred = np.asarray(features, dtype=np.float64)
    mean = centred.mean(axis=0)
    centred = centred - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / n)
    components = vectors[:, ::-1][:, :dim]
    # eigh leaves the sign open; fix it, so that the same features give the same head.
    components *= np.where(components[np.abs(components).argmax(axis=0), np.arange(dim)] < 0, -1.0, 1.0)
    components /= np.sqrt(max(values[::-1][:dim].mean(), 1e-12))
    head = Head(HeadSpec("pca", (width, dim)))
    _set(head.linear[0], components.T, -mean @ components)
    return head


def whole_head(width: int) -> Head:
    """The head that changes nothing: vectors are the features, shape (n, width), as they are."""
    head = Head(HeadSpec(WHOLE, (width, width)))
    _set(head.linear[0], np.eye(width), np.zeros(width))
    return head


def is_whole(head: Head) -> bool:
    """Whether vectors of a head are the features that it takes."""
    return head.spec.name == WHOLE and head.digest() == whole_head(head.spec.dim).digest()


def widest(dim: int, features: int) -> int:
    """Numbers in a vector of a head that starts as a PCA of so many features: as asked for, or fewer of few features.

    Example:
        >>> from crossmedia.imgserver.head import widest
        >>> widest(64, 40)
        39
    """
    return max(1, min(dim, features - 1))


def new_head(spec: HeadSpec, features: Features, start: str = "pca", backbone: str = "") -> Head:
    """A head to be trained.

    Args:
        spec: what it is.
        features: shape (n, F), a sample of those that it will see.
        backbone: version of the features.
        start: ``pca``: its vectors are at first the first D principal components of the features: the first layer is
            the PCA, the others hand its first numbers on, and PReLU has slope 1. Of fewer features than the first layer
            is wide, or narrower ones, the PCA is as wide as it can be, and the rest is random. ``random``: PyTorch's
            own start, for features that the first layer brings to mean 0 and mean square 1.

    Raises:
        BadInput: too few features for a PCA to D numbers, or a spec that ``pca`` cannot start.
    """
    head = Head(spec, backbone)
    first = head.linear[0]
    mean = np.asarray(features, dtype=np.float64).mean(axis=0)
    scale = float(np.sqrt(np.square(np.asarray(features, dtype=np.float64) - mean).mean())) or 1.0
    weight = first.weight.detach().double().numpy() / scale
    bias = first.bias.detach().double().numpy() - weight @ mean
    if start == "random":
        _set(first, weight, bias)
        return head
    if start != "pca":
        raise BadInput(f"A head does not start from {start!r}; there are: {', '.join(STARTS)}.")
    if spec.activation != "prelu" or spec.normalisation != "none":
        raise BadInput("Only a head with prelu and no normalisation can start as a PCA; use --head-start random.")
    if any(wide < spec.dim for wide in spec.widths[1:]):
        raise BadInput(f"A head that starts as a PCA has no layer narrower than its vector; got {spec.widths}.")
    if len(features) <= spec.dim:
        raise BadInput(
            f"A head that starts as a PCA to {spec.dim} numbers needs more than {spec.dim} features; the training rows "
            f"lead to {len(features)}. Make it narrower (--head-widths), or start it at random (--head-start)."
        )
    pca = fit_pca(features, min(spec.widths[1], len(features) - 1, spec.widths[0])).linear[0]
    weight[: pca.out_features], bias[: pca.out_features] = pca.weight.detach().numpy(), pca.bias.detach().numpy()
    _set(first, weight, bias)
    for layer in head.linear[1:]:
        _set(layer, np.eye(*layer.weight.shape), np.zeros(len(layer.bias)))
    for module in head.layers:
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    return head


@torch.no_grad()
def _set(layer: nn.Linear, weight: Weights, bias: Weights) -> None:
    layer.weight.copy_(torch.from_numpy(weight.copy()))
    layer.bias.copy_(torch.from_numpy(bias.copy()))
