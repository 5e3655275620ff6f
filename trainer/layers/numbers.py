"""Numbers of users, impressions and items as embeddings; a missing one is a value of its own.

Legend: n rows, C columns, W numbers in an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

EMBEDDING_STD = 0.02  # that a model begins with


def stacked(columns: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Some columns side by side, shape (n, C), zeros where missing; and which are there, shape (n, C)."""
    values = torch.stack([columns[name] for name in names], dim=1)
    there = ~torch.isnan(values)
    return torch.where(there, values, 0.0), there  # a nan would be one in the gradient, too, whatever hides it behind


class NumberEmbedding(nn.Module):
    """x w + b for each number x of a column, and a learned vector where it is missing.

    Args:
        names: of the columns.
        width: W.
    """

    def __init__(self, names: Sequence[str], width: int):
        super().__init__()
        self.names = tuple(names)
        self.weight = nn.Parameter(torch.empty(len(names), width))
        self.bias = nn.Parameter(torch.zeros(len(names), width))
        self.missing = nn.Parameter(torch.zeros(len(names), width))
        nn.init.normal_(self.weight, std=EMBEDDING_STD)

    def forward(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Shape (n, C W), of columns of shape (n,)."""
        values, there = stacked(columns, self.names)
        found = torch.where(there[:, :, None], values[:, :, None] * self.weight + self.bias, self.missing)
        return found.flatten(1)
