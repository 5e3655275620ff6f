"""The loss of pairs: symmetric InfoNCE on cosines, where what is no negative is masked and what is frequent corrected.

Legend: B pairs of this process, G pairs of all processes together, D numbers in a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        false_negatives: shape (B, G), bool: whether it is no negative of a pair of this process; a pair's own
            partner is not among them.
    """

    vectors: Tensor
    log_q: Tensor
    false_negatives: Tensor


def contrast(anchors: Tensor, partners: Tensor, side: Side, temperature: Tensor) -> Tensor:
    """How badly each anchor tells its partner from the others: cross-entropy over the candidates (InfoNCE).

    A candidate stands in a batch as often as its image is in pairs, which would push frequent images away from all
    others. So log q is subtracted from its logit, as from the logits of a sampled softmax.

    Source: van den Oord et al., arXiv 1807.03748, equation 4; the correction: Yi et al., RecSys 2019, section 3.

    Args:
        anchors: shape (B, D), of length 1.
        partners: shape (B,), int64: of each anchor the place of its partner among the candidates.
        side: the candidates.
        temperature: a scalar.

    Returns:
        shape (B,).

    Example:
        >>> import torch
        >>> from crossmedia.trainer.align.loss import Side, contrast
        >>> same = torch.eye(2)
        >>> side = Side(same, torch.full((2,), 0.5).log(), torch.zeros(2, 2, dtype=torch.bool))
        >>> contrast(same, torch.arange(2), side, torch.tensor(1.0))
        tensor([0.3133, 0.3133])
    """
    logits = torch.addmm(-side.log_q[None], anchors / temperature, side.vectors.T)
    logits = logits.masked_fill(side.false_negatives, -torch.inf)
    return functional.cross_entropy(logits, partners, reduction="none")


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
