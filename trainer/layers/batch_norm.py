"""Batch normalisation and ReLU, in the place of an activation of an MLP."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import batch_norm


class BatchNormReLU(nn.Module):
    """max(0, gamma (s - E[s]) / sqrt(Var[s] + eps) + beta) (Ioffe and Szegedy, arXiv 1502.03167).

    Mean and variance are those of the mini-batch in training, and moving averages in evaluation.

    Args:
        width: W, numbers in an input row; gamma and beta are learned for each.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, s: Tensor) -> Tensor:
        """Activate ``s``, shape (n, W), to the same shape; one row alone has no variance: the averages count."""
        norm = self.norm
        if self.training and len(s) < 2:
            normalised = batch_norm(s, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            normalised = norm(s)
        return normalised.relu()
