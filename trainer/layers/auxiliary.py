"""DIEN's auxiliary loss: a state of the interest extractor must tell the next behaviour from one of somebody else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

TRIES = 4


def draw_negatives(items: Tensor, segments: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """For each behaviour another one of the batch, whose item is none of its row's behaviours.

    Args:
        items: shape (N,), whole numbers.
        segments: shape (N,), their rows.
        generator: draws; the global one when it is not given.

    Returns:
        Places of the drawn behaviours, shape (N,), and whether one was found in ``TRIES`` draws, shape (N,).
    """
    n = len(items)
    drawn = torch.zeros(n, dtype=torch.int64, device=items.device)
    found = torch.zeros(n, dtype=torch.bool, device=items.device)
    if not n:
        return drawn, found
    span = int(items.max()) + 1
    known = torch.sort(segments.long() * span + items).values
    left = torch.arange(n, device=items.device)
    for _ in range(TRIES):
        candidates = torch.randint(n, (len(left),), generator=generator).to(items.device)
        keys = segments[left].long() * span + items[candidates]
        there = known[torch.searchsorted(known, keys).clamp(max=n - 1)] == keys
        drawn[left], found[left] = candidates, ~there
        left = left[there]
        if not len(left):
            break
    return drawn, found


def auxiliary_loss(states: Tensor, entries: Tensor, items: Tensor, segments: Tensor) -> Tensor:
    """-mean over steps of log sigma(<h_t, e_t+1>) + log(1 - sigma(<h_t, e'_t+1>)) (equation 4), a scalar.

    Args:
        states: h, shape (N, E), in the order of the behaviours.
        entries: e, shape (N, E).
        items: shape (N,), the behaviours' items.
        segments: shape (N,), their rows.
    """
    drawn, found = draw_negatives(items, segments)
    here = torch.nonzero((segments[1:] == segments[:-1]) & found[1:]).squeeze(1)
    if not len(here):
        return states.sum() * 0.0
    h, positive = states.index_select(0, here), entries.index_select(0, here + 1)
    negative = entries.index_select(0, drawn.index_select(0, here + 1))
    return -(logsigmoid((h * positive).sum(1)) + logsigmoid(-(h * negative).sum(1))).mean()
