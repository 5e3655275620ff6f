"""Batch normalisation over the rows of all processes, and with ReLU as an activation of an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from crossmedia.trainer import processes


class BatchNorm(nn.BatchNorm1d):
    """gamma (s - E[s]) / sqrt(Var[s] + eps) + beta (Ioffe and Szegedy, arXiv 1502.03167).

    Mean and variance are those of the mini-batch in training, of all processes' rows together (torch has that for GPUs
    only), and moving averages in evaluation. One row alone has no variance: for it too the averages count.

    Args:
        width: W, numbers in an input row.
        eps: keeps the divisor from zero.
        affine: learn gamma and beta, W numbers each; else they are 1 and 0.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, eps: float = 1e-5, affine: bool = True):
        super().__init__(width, eps=eps, affine=affine)

    def forward(self, s: Tensor) -> Tensor:
        """Normalise ``s``, shape (n, W), to the same shape."""
        if self.training and processes.world() > 1:
            return self._over_processes(s)
        if self.training and len(s) < 2:
            return self._by_averages(s)
        return super().forward(s)

    def _by_averages(self, s: Tensor) -> Tensor:
        return batch_norm(s, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _over_processes(self, s: Tensor) -> Tensor:
        # Each process's own squares are taken about its own mean, and joined in double precision: nothing cancels.
        n, width = s.shape
        mean = s.sum(0) / max(n, 1)
        squares = (s - mean).square().sum(0).double()
        mean = mean.double()
        found = processes.summed(torch.cat([mean.new_tensor([n]), n * mean, squares + n * mean.square()]))
        count = found[0].detach()
        if count < 2:
            return self._by_averages(s)
        joined = found[1 : 1 + width] / count
        variance = found[1 + width :] / count - joined.square()
        with torch.no_grad():
            self.running_mean.lerp_(joined.to(s.dtype), self.momentum or 0.0)
            self.num_batches_tracked.add_(1)
            self.running_var.lerp_((variance * count / (count - 1)).to(s.dtype), self.momentum or 0.0)
        found = (s - joined.to(s.dtype)) * torch.rsqrt(variance.to(s.dtype) + self.eps)
        return found if self.weight is None else found * self.weight + self.bias


class BatchNormReLU(nn.Module):
    """max(0, ``BatchNorm``).

    Args:
        width: W, numbers in an input row; gamma and beta are learned for each.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = BatchNorm(width)

    def forward(self, s: Tensor) -> Tensor:
        """Activate ``s``, shape (n, W), to the same shape."""
        normalised: Tensor = self.norm(s)
        return normalised.relu()
