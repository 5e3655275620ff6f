"""DIN's activation unit on jagged histories (arXiv 1706.06978, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from crossmedia.arguments import must


class ActivationUnit(nn.Module):
    """a(h, t) = MLP([h, t, h - t, h * t]): one weight a behaviour, not normalised, so intensity is kept.

    The first layer is computed in parts, W [h, t, h - t, h * t] = (W1 + W3) h + (W2 - W3) t + W4 (h * t), so that the
    target's part is computed once a row and the concatenation never exists.

    Args:
        width: E, numbers in h and t.
        hidden: widths of the hidden layers.
    """

    def __init__(self, width: int, hidden: Sequence[int] = (64, 16)):
        super().__init__()
        must(len(hidden) > 0, "attention_hidden", tuple(hidden), "the width of one layer at least")
        self.first = nn.Linear(4 * width, hidden[0])
        rest: list[nn.Module] = [nn.PReLU()]
        for before, after in pairwise(hidden):
            rest += [nn.Linear(before, after), nn.PReLU()]
        self.rest = nn.Sequential(*rest, nn.Linear(hidden[-1], 1))

    def forward(self, history: Tensor, target: Tensor, segments: Tensor) -> Tensor:
        """Weights, shape (N,).

        Args:
            history: shape (N, E).
            target: shape (B, E).
            segments: shape (N,), the row of each behaviour.
        """
        w1, w2, w3, w4 = self.first.weight.chunk(4, dim=1)
        of_target = torch.addmm(self.first.bias, target, (w2 - w3).T)
        # index_select: its backward adds rows in order, where fancy indexing sorts first
        of_target = of_target.index_select(0, segments)
        product = history * target.index_select(0, segments)
        hidden = torch.addmm(torch.addmm(of_target, history, (w1 + w3).T), product, w4.T)
        weights: Tensor = self.rest(hidden)
        return weights.squeeze(-1)
