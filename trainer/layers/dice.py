"""Dice, the data-adaptive activation of DIN (arXiv 1706.06978, section 5.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmedia.trainer.layers.batch_norm import BatchNorm


class Dice(nn.Module):
    """f(s) = p(s) s + (1 - p(s)) alpha s with p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps)).

    Mean and variance are those of ``BatchNorm``.

    Args:
        width: W, numbers in an input row; ``alpha`` is learned for each.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = BatchNorm(width, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, s: Tensor) -> Tensor:
        """Activate ``s``, shape (n, W), to the same shape."""
        p = torch.sigmoid(self.norm(s))
        return s * (p + (1 - p) * self.alpha)
