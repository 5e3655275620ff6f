"""What learns when a head is aligned, as one module: the head, and the temperature of the loss.

Legend: K unique keys of this process's pairs, B these pairs, G those of all processes, D numbers in a vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossmedia.imgserver.client import Vectors
from crossmedia.trainer import processes
from crossmedia.trainer.align.batches import Candidates, PairBatch
from crossmedia.trainer.align.loss import HARD_WEIGHT, Side, against, contrast
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.one_copy import copied

COLDEST, WARMEST = 0.02, 0.2  # of the temperature


class AlignLearner(nn.Module):
    """Gives the loss of a batch of pairs, so that all that learns is saved, resumed and kept in step together.

    Args:
        images: makes the vectors, with the head as it starts.
        penalty: on how far the head is from its start: times the squared distance over the squared length, of each
            weight and bias. One that starts at 0, as the bias of a hidden layer does, has no length and is free.
        temperature: of the loss, as it starts.
    """

    def __init__(self, images: ImageHead, penalty: float, temperature: float):
        super().__init__()
        self.images, self.penalty = images, penalty
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self._start = {name: weight.detach().clone() for name, weight in images.named_parameters()}

    @property
    def temperature(self) -> float:
        """Of the loss, as it is now."""
        return math.exp(self.log_temperature.item())

    @torch.no_grad()
    def bound(self) -> None:
        """Bring the temperature back into its bounds; after each step."""
        self.log_temperature.clamp_(math.log(COLDEST), math.log(WARMEST))

    def forward(self, batch: PairBatch, fetched: Vectors | None) -> Tensor:
        """The loss, a scalar: the mean over processes is the mean over all pairs of the batch, by their weights.

        Args:
            batch: of which this process may have no pairs.
            fetched: what ``images.fetch`` gave for its keys.
        """
        found = self.images(batch.keys, fetched)
        vectors, ok = functional.normalize(found.values, dim=1), found.ok
        own, left, right = copied([batch.own, batch.left, batch.right], ok.device)
        lefts, rights = vectors.index_select(0, left), vectors.index_select(0, right)
        whole = ok[left] & ok[right]
        temperature = self.log_temperature.exp()
        everyone = everyones_rows(torch.cat([lefts, rights, whole[:, None].to(lefts.dtype)], dim=1), len(batch.weights))
        all_left, all_right, there = torch.split(everyone, [lefts.shape[1], rights.shape[1], 1], dim=1)
        there = there[:, 0].detach() > 0
        to_right = contrast(lefts, own, _side(all_right, there, batch.right_side), temperature)
        to_left = contrast(rights, own, _side(all_left, there, batch.left_side), temperature)
        losses = (to_right + to_left) / 2 + self._hard(batch, vectors, ok, lefts, rights)
        weights = torch.where(there, copied([batch.weights], ok.device)[0].to(lefts.dtype), 0.0)
        share = weights[own] * processes.world() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)
        return torch.where(whole, losses, 0.0) @ share + self._from_start()

    def _hard(self, batch: PairBatch, vectors: Tensor, ok: Tensor, lefts: Tensor, rights: Tensor) -> Tensor:
        """Of each pair of this process, the term of its hard negative; 0 where there is none."""
        (hard,) = copied([batch.hard], ok.device)
        there = hard >= 0
        if not len(hard) or not bool(there.any()):
            return lefts.new_zeros(len(lefts))
        place = hard.clamp_min(0)
        found = HARD_WEIGHT * against(lefts, rights, vectors.index_select(0, place), self.log_temperature.exp())
        return torch.where(there & ok[place], found, 0.0)

    def _from_start(self) -> Tensor:
        """The penalty on the distance to the start."""
        total = self.log_temperature.new_zeros(())
        for name, weight in self.images.named_parameters() if self.penalty else ():
            start = self._start[name].to(weight.device)
            if bool(length := start.square().sum()):
                total = total + (weight - start).square().sum() / length
        return self.penalty * total


def _side(vectors: Tensor, there: Tensor, candidates: Candidates) -> Side:
    """The candidates of one side; a pair without both of its images has none for others."""
    log_q, rows, columns = copied([candidates.log_q, candidates.rows, candidates.columns], there.device)
    return Side(vectors, log_q.to(vectors.dtype), there, rows, columns)


def everyones_rows(own: Tensor, count: int) -> Tensor:
    """Rows of all processes in the order of the batch, with a gradient to whose rows they are.

    Args:
        own: shape (B, n): rows ``rank()``, ``rank() + world()``, … of the batch.
        count: G, rows of the batch.

    Returns:
        shape (G, n).
    """
    world = processes.world()
    if world == 1:
        return own
    most = -(-count // world)
    parts = processes.gathered(functional.pad(own, (0, 0, 0, most - len(own))))
    rows = torch.arange(count, device=own.device)
    return parts.index_select(0, rows % world * most + rows // world)
