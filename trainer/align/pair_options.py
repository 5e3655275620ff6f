"""Which pairs are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Source = Literal["window", "next"]
WEIGHTS = {"buy": 3.0, "cart": 2.0, "click": 1.0}


@dataclass(frozen=True)
class PairOptions:
    """Which pairs are made.

    Attributes:
        source: ``window``: any two behaviours of one user within ``window_h``; ``next``: each behaviour and the one
            before it, if they lie within it.
        window_h: hours between the two at most.
        category: an id column of items, of which both must have the same value; empty: any two.
        weights: kind of behaviour, or label -> what it counts; a pair counts the geometric mean of its two, and 0 makes
            none. A kind that is not named counts 1; 0 where it mostly stands on rows that nobody liked.
        per_user_day: pairs of one user and day (that of the later behaviour) at most, drawn of all there are.
        hard_negatives: whether each pair gets an item that its user was shown and passed over, on the same day and in
            the same category.
        seed: draws.
    """

    source: Source = "window"
    window_h: float = 48.0
    category: str = ""
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    per_user_day: int = 20
    hard_negatives: bool = False
    seed: int = 0
