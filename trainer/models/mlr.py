"""Mixed logistic regression, LS-PLM (Gai et al., 2017, arXiv 1704.05194)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models.lr import LR
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch


class MLR(LR):
    """A softmax over m regions times a logistic regression in each, with a group penalty that drops features.

    p(y = 1 | x) = sum_i softmax_i(u . x) sigmoid(w_i . x) (equation 2). Where the paper minimises L1 + L2,1 by
    directional derivatives and LBFGS over the whole data, this steps by FTRL with the same penalties, batch by batch.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: unused.
        regions: m.
        l1, l21: penalties, as in ``FTRL``.
        options: the others of ``LR``.

    Raises:
        BadInput: fewer than 2 regions.
    """

    paper = "Gai et al., 2017, arXiv 1704.05194"
    initial_std = 0.5  # of the bias, without which all regions would learn the same

    def __init__(
        self,
        spec: InputSpec,
        width: int = 0,
        *,
        regions: int = 12,
        l1: float = 1e-4,
        l21: float = 1e-4,
        **options: Any,
    ):
        if regions < 2:
            raise BadInput(f"MLR has {regions} regions; it needs 2 at least.")
        self.outputs_per_label = 2 * regions
        super().__init__(spec, width, l1=l1, l21=l21, **options)

    def score(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Logits, shape (B, L): log p - log(1 - p), from sums in the log domain."""
        found = self.sums(batch, vectors).view(batch.rows, len(self.spec.labels), 2, self.outputs_per_label // 2)
        share, inside = log_softmax(found[:, :, 0], dim=-1), found[:, :, 1]
        positive = torch.logsumexp(share + logsigmoid(inside), dim=-1)
        negative = torch.logsumexp(share + logsigmoid(-inside), dim=-1)
        return positive - negative
