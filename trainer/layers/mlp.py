"""The fully connected net at the top of the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.batch_norm import BatchNormReLU
from crossmedia.trainer.layers.dice import Dice

ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "dice": Dice,
    "prelu": lambda _: nn.PReLU(),
    "batch_norm": BatchNormReLU,
}


def activation(name: str, width: int) -> nn.Module:
    """The activation of that name, for rows of ``width`` numbers.

    Raises:
        BadInput: there is none.
    """
    if name not in ACTIVATIONS:
        raise BadInput(f"There is no activation {name!r}; there are: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name](width)


class MLP(nn.Module):
    """Linear layers with an activation after each, and a last linear layer to the logits.

    Args:
        width: numbers in an input row.
        hidden: widths of the hidden layers (200 and 80 in DIN and DICM).
        outputs: L, logits a row.
        activation_name: ``dice``, ``prelu``, or ``batch_norm``: batch normalisation and ReLU.
    """

    def __init__(self, width: int, hidden: Sequence[int], outputs: int, activation_name: str):
        super().__init__()
        layers: list[nn.Module] = []
        for inner in hidden:
            layers += [nn.Linear(width, inner), activation(activation_name, inner)]
            width = inner
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, L), of inputs, shape (B, width)."""
        logits: Tensor = self.layers(x)
        return logits
