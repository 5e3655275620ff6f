"""The average of the weights that training went through, which is kept where validation says that it is better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from crossmedia.trainer.layers.sharded import is_spread

ETA = 8  # the latest ninth of the steps counts most


class Averaging:
    """Polynomial-decay averaging (Shamir and Zhang, ICML 2013, arXiv 1212.1824, section 4).

    After step t the average moves by (eta + 1) / (t + eta) of the way to the weights w_t. The last step's noise goes,
    and unlike with a fixed decay what counts grows with training: the first steps are forgotten however short it is.
    Running statistics, such as those of Dice, are averaged like weights; whole numbers are taken as they are.

    Args:
        module: whose weights; it may have rows of tables spread over processes, of which each averages its own.
        on: False: nothing is averaged, and the module is left as it is.

    Example:
        >>> import torch
        >>> from crossmedia.trainer.training.averaging import Averaging
        >>> layer = torch.nn.Linear(1, 1)
        >>> average = Averaging(layer)
        >>> for step, weight in enumerate([2.0, 4.0, 4.0]):
        ...     _ = layer.weight.data.fill_(weight)
        ...     average.add(step)
        >>> with average.in_place():
        ...     round(layer.weight.item(), 2), layer.bias.shape
        (3.96, torch.Size([1]))
        >>> layer.weight.item()
        4.0
    """

    def __init__(self, module: nn.Module, on: bool = True):
        self.module, self.on = module, on
        self.state = _copied(module.state_dict()) if on else {}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Count the weights as they are after a step.

        Args:
            step: number of the step, from 0 on.
        """
        if not self.on:
            return
        share = (ETA + 1) / (step + 1 + ETA)
        for name, now in self.module.state_dict().items():
            if now.is_floating_point():
                _held(self.state[name]).lerp_(_held(now), share)
            else:
                self.state[name].copy_(now)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module with the average, and behind it with its own weights again; with these throughout when off."""
        if not self.on:
            yield
            return
        own = _copied(self.module.state_dict())
        self.module.load_state_dict(self.state)
        try:
            yield
        finally:
            self.module.load_state_dict(own)


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _held(value: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return value.to_local() if is_spread(value) else value
