"""What would have to be undone: the fewest behaviours without which a row's logit is below a threshold."""

from __future__ import annotations

import numpy as np

from crossmedia.trainer.reasons.contributions import Contributions


def fewest_removed(found: Contributions, row: int, below: float) -> list[int] | None:
    """The smallest set of behaviours without which the logit of a row is below a threshold.

    It is exact, and no smaller set does it: the sum is over behaviours, so that of sets of one size that of the largest
    contributions lowers it most; what the others count when there are fewer is counted, too.

    Args:
        found: contributions.
        row: which row.
        below: the logit that it is to be under.

    Returns:
        places of the behaviours in the history that the model saw, oldest first; empty: it is below already; None: it
        is not below without all of them.
    """
    of_each = found.behaviours(row).astype(np.float64).sum(axis=1)
    logit, count = float(found.values[row].astype(np.float64).sum()), len(of_each)
    if logit < below:
        return []
    rest = logit - of_each.sum()  # what is of no behaviour
    order = np.argsort(-of_each, kind="stable")
    left = of_each.sum()
    for removed, place in enumerate(order, start=1):
        left -= of_each[place]
        kept = count - removed
        grown = (count / kept) ** found.length_power if kept else 0.0
        if rest + left * grown < below:
            return sorted(order[:removed].tolist())
    return None
