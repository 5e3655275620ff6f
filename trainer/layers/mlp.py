"""The fully connected net at the top of the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with an activation after each, and a last linear layer to one logit.

    Args:
        width: numbers in an input row.
        hidden: widths of the hidden layers (200 and 80 in DIN and DICM).
        activation: makes the activation for a width.
    """

    def __init__(self, width: int, hidden: Sequence[int], activation: Callable[[int], nn.Module]):
        super().__init__()
        layers: list[nn.Module] = []
        for inner in hidden:
            layers += [nn.Linear(width, inner), activation(inner)]
            width = inner
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B,), of inputs, shape (B, width)."""
        logits: Tensor = self.layers(x)
        return logits.squeeze(-1)
