"""Which of the probes that hold are told: a vector has few numbers, and many words say the same of a photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossmedia.imgserver.concepts.linear import Doubles, Floats

LEAST_NEW = 0.1  # of its variance: what those that are taken tell together with a correlation of .95 is said already


@dataclass(frozen=True)
class Choice:
    """What was taken, and what was not.

    Attributes:
        taken: columns, in the order in which they were.
        said: columns that those that are taken say already.
        crowded: columns for which there was no room.
    """

    taken: tuple[int, ...]
    said: tuple[int, ...]
    crowded: tuple[int, ...]


def choose(outputs: Floats, before: Floats, order: Sequence[int], most: int) -> Choice:
    """Take columns one by one, in the order given, that those that are taken do not explain already.

    That is Gram and Schmidt's orthogonalisation, which passes over what has too little left.

    Args:
        outputs: standardised, shape (n, V).
        before: columns that are there already, standardised, shape (n, A).
        order: columns of ``outputs``, each once.
        most: columns to take.
    """
    left = outputs.astype(np.float64)
    for column in _basis(before.astype(np.float64)).T:
        left -= np.outer(column, column @ left)
    taken: list[int] = []
    said: list[int] = []
    crowded: list[int] = []
    for place in order:
        if (left[:, place] ** 2).mean() < LEAST_NEW:
            said.append(place)
        elif len(taken) == most:
            crowded.append(place)
        else:
            taken.append(place)
            column = left[:, place] / np.linalg.norm(left[:, place])
            left -= np.outer(column, column @ left)
    return Choice(tuple(taken), tuple(said), tuple(crowded))


def _basis(columns: Doubles) -> Doubles:
    """Columns that span the same and are orthonormal."""
    if not columns.shape[1]:
        return columns
    vectors, values, _ = np.linalg.svd(columns, full_matrices=False)
    kept: Doubles = vectors[:, values > 1e-6 * values.max(initial=1e-12)]
    return kept
