"""Whether a head that was aligned finds more than what it is compared with, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

CHANCE = 1.96  # standard errors: 95 % of differences between two that are alike are below


def doubts(part: str, found: Mapping[str, Any], others: tuple[str, ...] = ("start", "random")) -> list[str]:
    """Sentences on a head that is not shown to be better; none: nothing speaks against it.

    Args:
        part: name of the queries.
        found: of them: ``queries``, ``pool``, and the recall by k of ``aligned`` and of each of ``others``.
        others: what the head should be better than.

    Example:
        >>> from crossmedia.trainer.align.doubts import doubts
        >>> found = {"queries": 298, "pool": 70, "aligned": {"10": 0.22}, "start": {"10": 0.13}, "random": {"10": 0.26}}
        >>> doubts("test", found)[0][:66]
        'test: aligned is not shown to be better than random: recall@10 0.2'
    """
    k = next((k for k in reversed(list(found["aligned"])) if int(k) < found["pool"]), None)
    if k is None:
        return [f"{part}: {found['pool']} images are too few to tell heads apart: a recall among them says nothing."]
    aligned, said = found["aligned"][k], []
    for name in others:
        other = found[name][k]
        chance = CHANCE * math.sqrt((aligned * (1 - aligned) + other * (1 - other)) / found["queries"])
        if aligned - other <= chance:
            said.append(
                f"{part}: aligned is not shown to be better than {name}: recall@{k} {aligned:.4f} and {other:.4f}, "
                f"where {found['queries']:,} queries differ by {chance:.4f} by chance."
            )
    return said
