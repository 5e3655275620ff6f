"""How well predictions order rows: AUC, its mean over users, and what one model gains over another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Weight = Literal["impressions", "positives", "none"]


@dataclass(frozen=True)
class GroupedAUC:
    """AUC by user.

    Attributes:
        value: weighted mean of the users' AUC; NaN when no user counts.
        users: users that counted: those with a positive and a negative row.
        impressions: their rows.
    """

    value: float
    users: int
    impressions: int


def auc(labels: Floats, predictions: Floats) -> float:
    """Probability that a positive row is predicted above a negative one, ties counting one half.

    Args:
        labels: shape (B,), 0 or 1.
        predictions: shape (B,), any scale.

    Returns:
        NaN when there is only one class.
    """
    return gauc(labels, predictions, np.zeros(len(labels), dtype=np.int64)).value


def gauc(labels: Floats, predictions: Floats, groups: Floats, weight: Weight = "impressions") -> GroupedAUC:
    """Weighted mean of the AUC of each group: sum_u w_u AUC_u / sum_u w_u.

    A user whose rows are all positive or all negative has no AUC and is skipped, weight and all.

    Args:
        labels: shape (B,), 0 or 1.
        predictions: shape (B,).
        groups: shape (B,), the user of each row.
        weight: of a user: its rows (as in DIN and DICM), its positive rows, or 1.
    """
    labels, predictions = np.asarray(labels) > 0.5, np.asarray(predictions)
    if not len(labels):
        return GroupedAUC(float("nan"), 0, 0)
    order = np.lexsort((predictions, groups))
    y, p, g = labels[order], predictions[order], np.asarray(groups)[order]
    new_group = np.concatenate([[True], g[1:] != g[:-1]])
    group = np.cumsum(new_group) - 1
    first = np.flatnonzero(new_group)
    # Rows of one group and one prediction are tied and share the mean of their ranks.
    tie = np.cumsum(new_group | np.concatenate([[True], p[1:] != p[:-1]])) - 1
    tie_size = np.bincount(tie)
    tie_first = np.cumsum(tie_size) - tie_size
    rank = (tie_first + (tie_size - 1) / 2)[tie] - first[group] + 1
    rows = np.bincount(group)
    positives = np.bincount(group, weights=y)
    negatives = rows - positives
    counts = (positives > 0) & (negatives > 0)
    if not counts.any():
        return GroupedAUC(float("nan"), 0, 0)
    ranks = np.bincount(group, weights=rank * y)[counts]
    rows, positives, negatives = rows[counts], positives[counts], negatives[counts]
    each = (ranks - positives * (positives + 1) / 2) / (positives * negatives)
    weights = {"impressions": rows, "positives": positives, "none": np.ones(len(rows))}[weight]
    return GroupedAUC(float((each * weights).sum() / weights.sum()), int(counts.sum()), int(rows.sum()))


def rela_impr(model: float, base: float) -> float:
    """RelaImpr = ((AUC_model - 1/2) / (AUC_base - 1/2) - 1) * 100, in per cent (DIN, section 6.3).

    NaN when the base is no better than chance: there is nothing that could be improved by a share.
    """
    return ((model - 0.5) / (base - 0.5) - 1) * 100 if base > 0.5 else float("nan")
