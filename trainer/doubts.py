"""Whether a model is any better than a constant, in sentences: what its metrics say against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from crossmedia.words import counted

CHANCE = 1.96  # standard errors: 95 % of models that know nothing have an AUC as near to 1/2


def of_one_class(split: str, found: Mapping[str, Any]) -> str:
    """A sentence on a part of the rows whose labels are all alike; empty: they are not.

    Args:
        split: name of the part.
        found: metrics of its rows, as ``measure`` gives them.
    """
    rows, positives = found["rows"], found.get("positives")
    if not rows or positives not in (0, rows):
        return ""
    what = "positive" if positives else "negative"
    if rows == 1:
        return f"The {split} part has one row, a {what} one: it has no AUC."
    return f"All {rows:,} rows of the {split} part are {what}: they have no AUC."


def chance_of(found: Mapping[str, Any]) -> float:
    """How far from .5 the AUC of ranks that are drawn is in 95 % (Mann and Whitney); 0 where nothing is known of it.

    Args:
        found: metrics of some rows, as ``measure`` gives them; those of older releases lack what is needed.
    """
    rows, positives = found["rows"], found.get("positives")
    if not positives or positives == rows:
        return 0.0
    return CHANCE * math.sqrt((rows + 1) / (12 * positives * (rows - positives)))


def above_chance(found: Mapping[str, Any]) -> bool:
    """Whether the AUC of some rows is above .5, and by more than chance gives."""
    return found["auc"] is not None and found["auc"] > 0.5 + chance_of(found)


def doubts(split: str, found: Mapping[str, Any]) -> list[str]:
    """Sentences on a model that is no better than a constant; none: nothing speaks against it. See ``by_metric``."""
    return list(by_metric(split, found).values())


def by_metric(split: str, found: Mapping[str, Any]) -> dict[str, str]:
    """What speaks against a model, a sentence of each metric; empty: nothing does.

    The constant is the share of positives of these very rows, which nobody knows beforehand: none has a lower log loss.

    Args:
        split: name of the part of the rows.
        found: metrics of its rows, as ``measure`` gives them; those of older releases lack what is needed.
    """
    if not found["rows"] or "positives" not in found:
        return {}
    if one_class := of_one_class(split, found):
        return {"labels": one_class}
    said = {}
    auc, rows, positives = found["auc"], found["rows"], found["positives"]
    chance = chance_of(found)
    if auc < 0.5 - chance:
        said["auc"] = (
            f"The AUC on the {split} part, {auc:.4f}, is below .5: the model orders rows worse than a constant, which "
            f"has .5."
        )
    elif auc <= 0.5 + chance:
        below = "below .5, and " if auc < 0.5 else ""
        said["auc"] = (
            f"The AUC on the {split} part, {auc:.4f}, is {below}no better than that of a constant, .5: on {rows:,} "
            f"rows with {counted(positives, 'positive')} chance alone gives .5 ± {chance:.3f}."
        )
    if found["log_loss"] >= found["base_log_loss"]:
        share = positives / rows
        said["log_loss"] = (
            f"The log loss on the {split} part, {found['log_loss']:.4f}, is no better than that of a constant, "
            f"{found['base_log_loss']:.4f} of the share of positives {share:.1%}: its numbers are no probabilities."
        )
    if said.keys() >= {"auc", "log_loss"} and auc <= 0.5 + chance:
        said["log_loss"] += (
            " Perhaps the net has not begun: see 'no better than that of a constant' in docs/troubleshooting.md."
        )
    return said
