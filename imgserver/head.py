"""The head: the small net that turns a frozen feature into the vector that models see. torch only.

Shared by the server, which applies it, and the trainer, which may train it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from imgserver.errors import BadInput

Features = npt.NDArray[Any]


@dataclass(frozen=True)
class HeadSpec:
    """What a head is, without its weights.

    Attributes:
        name: how it was made, such as ``pca``; part of the version.
        widths: numbers in the feature, in each hidden layer, and in the vector.
        activation: between layers: ``relu`` or ``prelu``; a single layer has none.
    """

    name: str
    widths: tuple[int, ...]
    activation: str = "prelu"

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.widths[-1]

    def canonical(self) -> str:
        """One JSON text for one spec, whatever made it."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


class Head(nn.Module):
    """Linear layers with an activation between them: feature, shape (K, F), to vector, shape (K, D).

    Args:
        spec: widths ``(F, …, D)`` and activation.
    """

    def __init__(self, spec: HeadSpec):
        super().__init__()
        self.spec = spec
        layers: list[nn.Module] = []
        for wide, narrow in zip(spec.widths[:-1], spec.widths[1:], strict=True):
            if layers:
                layers.append(nn.ReLU() if spec.activation == "relu" else nn.PReLU())
            layers.append(nn.Linear(wide, narrow))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, shape (K, D), of features, shape (K, F)."""
        result: Tensor = self.layers(features)
        return result

    @torch.inference_mode()
    def apply_numpy(self, features: Features) -> npt.NDArray[np.float32]:
        """``forward`` for numpy arrays, without gradients; in blocks, so that a catalogue is never fp32 at once."""
        blocks = [
            self(torch.from_numpy(np.asarray(features[start : start + 8192], dtype=np.float32))).numpy()
            for start in range(0, len(features), 8192)
        ]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.spec.dim), dtype=np.float32)

    def digest(self) -> str:
        """12 hex of sha256 over the canonical spec and the weights."""
        sha = hashlib.sha256(self.spec.canonical().encode())
        for name, value in sorted(self.state_dict().items()):
            sha.update(name.encode() + value.detach().cpu().contiguous().to(torch.float32).numpy().tobytes())
        return sha.hexdigest()[:12]

    def to_bytes(self) -> bytes:
        """Spec and weights as one safetensors block."""
        return save({k: v.contiguous() for k, v in self.state_dict().items()}, metadata={"spec": self.spec.canonical()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Head:
        """Read what ``to_bytes`` wrote.

        Raises:
            BadInput: the block is no head.
        """
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            fields = json.loads(header["__metadata__"]["spec"])
            head = cls(HeadSpec(fields["name"], tuple(fields["widths"]), fields["activation"]))
            head.load_state_dict(load(data))
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise BadInput(f"This is no head that 'imgserver precompute' saved: {error}.") from error
        return head


def fit_pca(features: Features, dim: int) -> Head:
    """A linear head: principal components of ``features``, shape (n, F), scaled to a mean square of 1 a component.

    One scale for all components keeps their proportions, so dot products mean what they meant among the features.

    Raises:
        BadInput: fewer photos than there are numbers in a vector, or ``dim`` above F.
    """
    n, width = features.shape
    if not 1 <= dim <= min(n - 1, width):
        raise BadInput(
            f"A PCA to {dim} numbers needs more than {dim} embedded photos; there are {n}. "
            f"Choose a smaller --dim, or embed more photos."
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
    linear = head.layers[0]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(components.T.copy()))
        linear.bias.copy_(torch.from_numpy(-mean @ components))
    return head
