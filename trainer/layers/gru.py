"""A gated recurrent unit over jagged histories, and its three variants that attention steers (DIEN, arXiv 1809.03672).

Entries are packed: sorted by their step, and within a step by the length of their row, longest first, so that the rows
that are still going are the first ones of each step and no step computes padding. Forward and backward are written out:
one product a step, everything else in place, and the products that need no step order once over all entries.

Legend: B rows, N entries, T steps, H numbers in a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Variant = Literal["gru", "agru", "augru"]


@dataclass(frozen=True)
class Packing:
    """How entries of jagged rows are packed.

    Attributes:
        order: shape (N,), the entry at each packed place.
        place: shape (N,), the packed place of each entry: the inverse.
        rows: shape (B,), rows by length, longest first.
        sizes: rows that are still going, for each step.
    """

    order: Tensor
    place: Tensor
    rows: Tensor
    sizes: list[int]

    @classmethod
    def of(cls, lengths: Tensor, segments: Tensor) -> Packing:
        """Pack rows of these lengths, shape (B,), whose entries belong to rows ``segments``, shape (N,)."""
        rows = torch.argsort(lengths, descending=True, stable=True)
        rank = torch.empty_like(rows)
        rank[rows] = torch.arange(len(rows), device=rows.device)
        first = torch.cumsum(lengths, 0) - lengths
        step = torch.arange(segments.shape[0], device=segments.device) - first.index_select(0, segments)
        ending = torch.bincount(lengths, minlength=1)
        sizes = (len(lengths) - torch.cumsum(ending, 0))[:-1]  # rows longer than 0, 1, …
        starts = torch.cumsum(sizes, 0) - sizes
        place = starts.index_select(0, step) + rank.index_select(0, segments)
        order = torch.empty_like(place)
        order[place] = torch.arange(len(place), device=place.device)
        return cls(order, place, rows, sizes.tolist())

    def last(self, states: Tensor) -> Tensor:
        """The state that each row ends with, shape (B, H), of packed states (N, H); zeros for an empty row."""
        found = states.new_zeros(len(self.rows), states.shape[1])
        if not self.sizes:
            return found + states.sum() * 0.0  # still part of the graph: who waits for its gradient gets zeros
        # Rows in order of length: the row at rank r ends at the last step that still has more than r rows.
        sizes = torch.tensor(self.sizes, device=states.device)
        rank = torch.arange(self.sizes[0], device=states.device)
        step = len(self.sizes) - torch.searchsorted(sizes.flip(0), rank, right=True) - 1
        starts = torch.cumsum(sizes, 0) - sizes
        return found.index_copy(0, self.rows[: self.sizes[0]], states.index_select(0, starts[step] + rank))


class _Scan(torch.autograd.Function):
    """The recurrence over packed entries."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, recurrent: Tensor, attention: Tensor | None, steps: tuple[list[int], Variant]
    ) -> Tensor:
        sizes, variant = steps
        n, width = gates.shape[0], recurrent.shape[1]
        states = gates.new_empty(n, width)
        before = gates.new_empty(n, width)  # the state that each entry met
        of_state = gates.new_empty(n, width)  # U_h h
        active = gates.clone()
        h = gates.new_zeros(sizes[0] if sizes else 0, width)
        turned, start = recurrent.t(), 0
        for size in sizes:
            here = slice(start, start + size)
            met = before[here].copy_(h[:size])
            product = met @ turned
            gate = active[here]
            gate[:, : 2 * width].add_(product[:, : 2 * width]).sigmoid_()
            update, reset, candidate = gate[:, :width], gate[:, width : 2 * width], gate[:, 2 * width :]
            of_state[here] = product[:, 2 * width :]
            candidate.addcmul_(reset, product[:, 2 * width :]).tanh_()
            if variant == "gru" or attention is None:
                share = update
            elif variant == "augru":
                share = update * attention[here, None]
            else:
                share = attention[here, None]
            h = torch.addcmul(met, share, candidate - met, out=states[here])
            start += size
        ctx.save_for_backward(recurrent, attention, active, before, of_state)
        ctx.steps = steps
        return states

    @staticmethod
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor | None, ...]:
        recurrent, attention, active, before, of_state = ctx.saved_tensors
        sizes, variant = ctx.steps
        width = recurrent.shape[1]
        d_gates = torch.empty_like(active)
        d_product = torch.empty_like(active)
        d_attention = None if attention is None else torch.empty_like(attention)
        update, reset, candidate = active.split(width, dim=1)
        # What needs no order of steps, over all entries at once.
        moved = candidate - before
        if variant == "gru" or attention is None:
            share, of_update = update, moved * update * (1 - update)
        elif variant == "augru":
            share = update * attention[:, None]
            of_update = moved * share * (1 - update)
        else:
            share, of_update = attention[:, None].expand_as(update), None
        of_candidate = share * (1 - candidate * candidate)
        of_reset = of_state * reset * (1 - reset)
        d_h = d_states.new_zeros(sizes[0] if sizes else 0, width)
        start = len(active)
        for size in reversed(sizes):
            start -= size
            here = slice(start, start + size)
            d = d_h[:size].add_(d_states[here])
            d_gate, d_here = d_gates[here], d_product[here]
            d_candidate = torch.mul(d, of_candidate[here], out=d_gate[:, 2 * width :])
            torch.mul(d_candidate, of_reset[here], out=d_gate[:, width : 2 * width])
            if of_update is None:
                d_gate[:, :width].zero_()
            else:
                torch.mul(d, of_update[here], out=d_gate[:, :width])
            if d_attention is not None and attention is not None:
                by = d * moved[here]
                d_attention[here] = (by * update[here]).sum(1) if variant == "augru" else by.sum(1)
            d_here[:, : 2 * width] = d_gate[:, : 2 * width]
            torch.mul(d_candidate, reset[here], out=d_here[:, 2 * width :])
            d.addcmul_(d, share[here], value=-1)
            d.addmm_(d_here, recurrent)
        return d_gates, d_product.t() @ before, d_attention, None


class JaggedGRU(nn.Module):
    """u = sigma(W_u x + U_u h + b), r = sigma(W_r x + U_r h + b), c = tanh(W_h x + r (U_h h) + b), h = (1 - u) h + u c.

    With attention a, one number an entry: AGRU has h = (1 - a) h + a c, and AUGRU a u in the place of u.

    Args:
        inputs: numbers of an entry.
        width: H.
        variant: ``gru``, ``agru`` or ``augru``.
    """

    def __init__(self, inputs: int, width: int, variant: Variant = "gru"):
        super().__init__()
        self.variant: Variant = variant
        self.input = nn.Linear(inputs, 3 * width)
        self.recurrent = nn.Parameter(torch.empty(3 * width, width))
        for part in self.recurrent.data.chunk(3):
            nn.init.orthogonal_(part)

    def forward(self, packed: Tensor, packing: Packing, attention: Tensor | None = None) -> Tensor:
        """States after each entry, shape (N, H), packed, of packed entries (N, inputs) and attention (N,)."""
        states: Tensor = _Scan.apply(  # type: ignore[no-untyped-call]
            self.input(packed), self.recurrent, attention, (packing.sizes, self.variant)
        )
        return states

    def padded(self, entries: Tensor, lengths: Tensor, attention: Tensor | None = None) -> Tensor:
        """The same over padded rows, for tracing, where the number of steps must be known.

        Args:
            entries: shape (B, T, inputs), what there is of a row at its start.
            lengths: shape (B,).
            attention: shape (B, T).

        Returns:
            States, shape (B, T, H); after the end of a row they stay what they were.
        """
        gates = self.input(entries)
        h = entries.new_zeros(entries.shape[0], self.recurrent.shape[1])
        states = []
        for step in range(entries.shape[1]):
            update, reset, candidate = gates[:, step].chunk(3, dim=1)
            of_update, of_reset, of_candidate = (h @ self.recurrent.t()).chunk(3, dim=1)
            share = torch.sigmoid(update + of_update)
            if self.variant != "gru" and attention is not None:
                asked = attention[:, step, None]
                share = share * asked if self.variant == "augru" else asked
            moved = torch.tanh(candidate + torch.sigmoid(reset + of_reset) * of_candidate)
            h = torch.where(lengths[:, None] > step, h + share * (moved - h), h)
            states.append(h)
        return torch.stack(states, dim=1)
