"""The loss of pairs: symmetric InfoNCE on cosines, where what is no negative is masked and what is frequent corrected.

Legend: B pairs of this process, G pairs of all processes together, D numbers in a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

HARD_WEIGHT = 0.2  # of a hard negative's term, beside 1 of the pair's


@dataclass(frozen=True)
class Side:
    """What pairs are matched with: one of their two sides, of the pairs of all processes.

    Attributes:
        vectors: shape (G, D), of length 1.
        log_q: shape (G,), log of how often an image is drawn as a candidate.
        there: shape (G,), bool: whether it is a candidate at all.
        rows: shape (n,), int64: pairs of this process, of which a candidate is no negative.
        columns: shape (n,), int64: these candidates. A pair's own partner is not among them.
    """

    vectors: Tensor
    log_q: Tensor
    there: Tensor
    rows: Tensor
    columns: Tensor


def contrast(anchors: Tensor, partners: Tensor, side: Side, temperature: Tensor) -> Tensor:
    """How badly each anchor tells its partner from the others: cross-entropy over the candidates (InfoNCE).

    A candidate stands in a batch as often as its image is in pairs, which would push frequent images away from all
    others. So log q is subtracted from its logit, as from the logits of a sampled softmax.

    Source: van den Oord et al., arXiv 1807.03748, equation 4; the correction: Yi et al., RecSys 2019, section 3.

    Args:
        anchors: shape (B, D), of length 1.
        partners: shape (B,), int64: of each anchor the place of its partner among the candidates. It counts for its
            own anchor whether it is there or not.
        side: the candidates.
        temperature: a scalar.

    Returns:
        shape (B,).

    Example:
        >>> import torch
        >>> from crossmedia.trainer.align.loss import Side, contrast
        >>> same, none = torch.eye(2), torch.zeros(0, dtype=torch.int64)
        >>> side = Side(same, torch.full((2,), 0.5).log(), torch.ones(2, dtype=torch.bool), none, none)
        >>> contrast(same, torch.arange(2), side, torch.tensor(1.0))
        tensor([0.3133, 0.3133])
    """
    logits = torch.where(side.there, -side.log_q, -torch.inf).repeat(len(anchors), 1)
    logits[side.rows, side.columns] = -torch.inf
    logits[torch.arange(len(anchors), device=logits.device), partners] = -side.log_q[partners]
    losses: Tensor = _CrossEntropy.apply(anchors / temperature, side.vectors, logits, partners)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropy(torch.autograd.Function):
    """Of products of anchors and candidates, without a second matrix of that size: it is most of what a step takes."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor, logits: Tensor, partners: Tensor) -> Tensor:
        """Shape (B,); ``logits``, shape (B, G), hold what is added to the products, and are written over."""
        logits.addmm_(anchors, candidates.T)
        of_partner = logits.gather(1, partners[:, None])[:, 0]
        top = logits.amax(1)
        total = logits.sub_(top[:, None]).exp_().sum(1)
        ctx.save_for_backward(anchors, candidates, logits, total, partners)
        return top + total.log() - of_partner

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of anchors and candidates."""
        anchors, candidates, exponentials, total, partners = ctx.saved_tensors
        of_row = (slope / total)[:, None]
        of_anchors = (exponentials @ candidates) * of_row - candidates[partners] * slope[:, None]
        of_candidates = exponentials.T @ (anchors * of_row)
        of_candidates.index_add_(0, partners, anchors * -slope[:, None])
        return of_anchors, of_candidates, None, None


def against(anchors: Tensor, partners: Tensor, hard: Tensor, temperature: Tensor) -> Tensor:
    """How badly each anchor tells its partner from one hard negative: cross-entropy over the two.

    Args:
        anchors: shape (B, D), of length 1.
        partners: shape (B, D), of length 1.
        hard: shape (B, D), of length 1.
        temperature: a scalar.

    Returns:
        shape (B,).
    """
    return functional.softplus(((anchors * hard).sum(1) - (anchors * partners).sum(1)) / temperature)
