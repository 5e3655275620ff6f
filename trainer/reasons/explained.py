"""Scores of one request with their reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.trainer.reasons.contributions import Contributions
from crossmedia.trainer.reasons.counterfactual import fewest_removed


@dataclass(frozen=True)
class Reason:
    """A term of a candidate's logit.

    Attributes:
        term: its name.
        contribution: what it adds to the logit.
        behaviour: which of the request's behaviours it comes from most, as they were given, the oldest being 0; None:
            from none.
    """

    term: str
    contribution: float
    behaviour: int | None = None


@dataclass(frozen=True)
class Explained:
    """Scores with what they come from, a candidate each.

    Attributes:
        probabilities: as ``Scorer.score`` gives them alone.
        reasons: of each candidate, the terms that count most, whichever way.
        sentences: of each candidate, what a shopper may be told; empty where there is nothing to say.
        contributions: all that adds up to the logits of the first label.
        first: the first of the request's behaviours that the model saw.
        log: list columns that the log of impressions should get, so that what the user asked for is in the next
            samples: ``wanted`` and ``unwanted``, names of concepts.
    """

    probabilities: npt.NDArray[np.float32]
    reasons: tuple[tuple[Reason, ...], ...]
    sentences: tuple[str, ...]
    contributions: Contributions
    first: int
    log: dict[str, list[str]]

    @classmethod
    def of(
        cls,
        found: Contributions,
        probabilities: npt.NDArray[np.float32],
        reasons: int,
        sentences: tuple[str, ...],
        first: int,
        log: dict[str, list[str]],
    ) -> Explained:
        """So many reasons of each candidate; the rest as above."""
        rows = range(len(probabilities))
        return cls(
            probabilities, tuple(reasons_of(found, row, reasons, first) for row in rows), sentences, found, first, log
        )

    def fewest_removed(self, candidate: int, below: float) -> tuple[int, ...] | None:
        """Without which behaviours a candidate's probability would be lower: the smallest set that does it, exactly.

        Args:
            candidate: which.
            below: the probability that it is to be under, such as that of the last one that is shown.

        Returns:
            behaviours as they were given, the oldest being 0; empty: it is below already; None: it is not below
            without all of those that the model saw.
        """
        found = fewest_removed(self.contributions, candidate, math.log(below / (1 - below)))
        return None if found is None else tuple(self.first + place for place in found)


def reasons_of(found: Contributions, row: int, count: int, first: int = 0) -> tuple[Reason, ...]:
    """The terms of a row that count most.

    Args:
        found: contributions.
        row: which row.
        count: how many at most.
        first: number of the first behaviour that the model saw.
    """
    reasons = []
    for place in found.strongest(row, count):
        seen = int(found.behaviour[row, place])
        behaviour = None if seen < 0 else first + seen
        reasons.append(Reason(found.names[place], float(found.values[row, place]), behaviour))
    return tuple(reasons)
