"""FTRL-Proximal with L1, L2 and L2,1: sparse training that ends in sparse weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class FTRL(Optimizer):
    """Follow the regularised leader, per coordinate (McMahan et al., KDD 2013, algorithm 1), with a group penalty.

    With g the gradient of a step: sigma = (sqrt(n + g^2) - sqrt(n)) / alpha, z += g - sigma w, n += g^2. Then, with
    u = sign(z) max(|z| - l1, 0), a row of weights is

        w = - u max(1 - l21 sqrt(R) / |u|_2, 0) / ((beta + sqrt(n)) / alpha + l2)

    so that a weight is exactly zero while the sum of its gradients stays below ``l1``, and a whole row (a feature with
    all its R weights) while what is left of it stays below ``l21`` (the group penalty of LS-PLM, arXiv 1704.05194,
    solved as in group-lasso FTRL, Ni et al., arXiv 1908.05739). Rows whose feature was not on have no gradient, and
    nothing of theirs changes, so with sparse gradients a step costs what the batch's features cost.

    Args:
        parameters: matrices of shape (F, R), with sparse or dense gradients.
        alpha: step size.
        beta: smooths the first steps, in units of the gradient of the mean loss, like the penalties.
        l1, l2, l21: penalties, in units of the gradient of the mean loss, summed over steps.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        alpha: float = 0.1,
        beta: float = 1e-3,
        l1: float = 0.0,
        l2: float = 0.0,
        l21: float = 0.0,
    ):
        super().__init__(parameters, {"alpha": alpha, "beta": beta, "l1": l1, "l2": l2, "l21": l21})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's may return a loss
        """Update the rows that have a gradient; ``closure`` is not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["z"], state["n"] = _z_of(parameter, group), torch.zeros_like(parameter)
        if not gradient.is_sparse:  # a row without a gradient keeps z, and so its weights, here too
            weights, state["z"], state["n"] = _leader(parameter, state["z"], state["n"], gradient, group)
            parameter.copy_(weights)
            return
        gradient = gradient.coalesce()
        rows = gradient.indices()[0]
        w, z, n = (tensor.index_select(0, rows) for tensor in (parameter, state["z"], state["n"]))
        after = _leader(w, z, n, gradient.values(), group)
        for tensor, values in zip((parameter, state["z"], state["n"]), after, strict=True):
            tensor.index_copy_(0, rows, values)


def _leader(w: Tensor, z: Tensor, n: Tensor, g: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, z and n after a step with gradient g; all of shape (rows, R)."""
    alpha = group["alpha"]
    grown = n + g * g
    z = z + g - (grown.sqrt() - n.sqrt()) / alpha * w
    u = z.sign() * (z.abs() - group["l1"]).clamp(min=0)
    if group["l21"]:
        norm = u.norm(dim=1, keepdim=True)
        u = u * (1 - group["l21"] * u.shape[1] ** 0.5 / norm.clamp(min=1e-30)).clamp(min=0)
    return -u / ((group["beta"] + grown.sqrt()) / alpha + group["l2"]), z, grown


def _z_of(weights: Tensor, group: dict[str, Any]) -> Tensor:
    """The z that gives these weights before any step: what a warm start begins with; zeros for zeros."""
    u = -weights * (group["beta"] / group["alpha"] + group["l2"])
    if group["l21"]:
        norm = u.norm(dim=1, keepdim=True)
        u = torch.where(norm > 0, u * (1 + group["l21"] * u.shape[1] ** 0.5 / norm.clamp(min=1e-30)), u)
    z: Tensor = u + u.sign() * group["l1"]
    return z
