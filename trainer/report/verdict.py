"""What rows of ``summary.rows`` say in words: which is the best, whether it beats a mean, whether vectors helped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.trainer.baselines import ITEM_USER
from crossmedia.trainer.report.summary import called, in_words, told_parts

T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # two-sided, by degrees of freedom from 1
OVER = {"auc": "AUC", "gauc": "GAUC"}
OF_ONE_SEED = "With one seed the intervals are over users and items alone: another training may give another sign."
Row = dict[str, Any]


def _half_width(std: float, n: int) -> float:
    """Half of the 95 % confidence interval of the mean of n values, by Student's t."""
    return float(T95[min(n - 1, len(T95)) - 1] * std / np.sqrt(n))


def is_chance(gain: Row, pairs: int) -> bool:
    """Whether the 95 % confidence interval of a gain over some pairs of seeds, two or more, has a zero in it.

    Args:
        gain: mean and deviation over the seeds; where it has an interval over users, items and seeds, that decides.
        pairs: how many seeds.
    """
    if gain.get("low") is not None:
        return bool(gain["low"] <= 0 <= gain["high"])
    return bool(abs(gain["mean"]) <= _half_width(gain["std"], pairs))


def certainty(gain: Row, pairs: int) -> str:
    """A sentence on whether a gain in AUC may be chance; its interval is told in pairs of 100, as the headline is.

    Args:
        gain: mean and deviation over the seeds.
        pairs: how many seeds.
    """
    if gain.get("low") is not None:
        between = f"(95 %: {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        said = f"Other users, items and seeds would say the same {between}: this is more than chance."
        if is_chance(gain, pairs):
            said = f"It may be chance: other users, items and seeds could say the opposite {between}."
        return f"{said} {OF_ONE_SEED}" if pairs < 2 else said
    if gain["std"] is None:
        return "One seed cannot tell a difference from chance."
    if is_chance(gain, pairs):
        return f"{pairs} seeds cannot tell this from chance."
    return f"Over {pairs} seeds this is more than chance explains."


def _interval(gain: Row) -> str:
    return f"{gain['low']:+.4f} to {gain['high']:+.4f}"


def winner(table: Sequence[Row]) -> str:
    """Which row orders the test rows best, be it a model, with or without vectors, or a mean; and whether by chance.

    A constant, which has an AUC of .5, takes part. Empty: no model has an AUC.
    """
    known = sorted((row for row in table if row["all"]["auc"]), key=lambda row: -row["all"]["auc"]["mean"])
    if all(row["baseline"] for row in known):
        return ""
    if known[0]["all"]["auc"]["mean"] <= 0.5:
        return "No model orders the test rows better than a constant, whose AUC is .5."
    first, *others = known
    said = f"Best on the test rows: {_with_auc(first)}"
    return f"{said}, before {_with_auc(others[0])}{_unsure(first, others[0])}." if others else f"{said}."


def _unsure(first: Row, second: Row) -> str:
    """What stands behind the two best rows where chance may have put them in this order."""
    trained = [row for row in (first, second) if not row["baseline"]]  # a mean has no seeds, and no deviation
    if not trained:
        return ""
    seeds, deviations = min(row["seeds"] for row in trained), [row["all"]["auc"]["std"] for row in trained]
    if seeds < 2 or None in deviations:
        return "; one seed cannot tell the two from chance"
    if ITEM_USER in (first["model"], second["model"]):
        over = trained[0]["all"].get("auc_over_mean") or {}
        if over.get("low") is not None:
            return "; users, items and seeds cannot tell the two apart" if is_chance(over, seeds) else ""
    lead = first["all"]["auc"]["mean"] - second["all"]["auc"]["mean"]
    if is_chance({"mean": lead, "std": float(np.linalg.norm(deviations))}, seeds):
        return f"; {seeds} seeds cannot tell the two apart"
    return ""


def _with_auc(row: Row) -> str:
    auc = row["all"]["auc"]
    spread = "" if auc["std"] is None else f" ± {auc['std']:.4f}"
    return f"{called(row)} (AUC {auc['mean']:.4f}{spread})"


def doubts_of_means(table: Sequence[Row]) -> list[str]:
    """A sentence on each model that cannot be told to be better than what needs no model: the item's and user's mean.

    Where a row has no interval over users, items and seeds, the seeds alone decide, and one seed does not.
    """
    said = []
    for row in table:
        not_better = {
            f"{name}{where} {_change(gain)}": gain
            for part, where in told_parts(row).items()
            for metric, name in OVER.items()
            if (gain := row[part].get(f"{metric}_over_mean")) and not _is_better(gain, row["seeds"])
        }
        if not_better:
            worse = all(gain["mean"] < 0 and not _may_be_chance(gain, row["seeds"]) for gain in not_better.values())
            how = "worse" if worse else "not shown to be better"
            said.append(f"{called(row)} is {how} than {ITEM_USER}: {'; '.join(not_better)}.")
    return said


def _is_better(gain: Row, seeds: int) -> bool:
    return bool(gain["mean"] > 0 and not _may_be_chance(gain, seeds))


def _may_be_chance(gain: Row, seeds: int) -> bool:
    """Whether a difference may be chance, as far as is known of its spread; one seed without an interval knows none."""
    return (gain.get("low") is None and gain["std"] is None) or is_chance(gain, seeds)


def _change(gain: Row) -> str:
    """A difference as text, with how sure it is."""
    if gain.get("low") is not None:
        return f"{gain['mean']:+.4f}, 95 % {_interval(gain)}"
    return f"{gain['mean']:+.4f}" + ("" if gain["std"] is None else f" ± {gain['std']:.4f}")


def sentence(table: Sequence[Row]) -> str:
    """The winner, and whether the vectors of each choice of spaces helped.

    A difference counts when its 95 % confidence interval has no zero.
    """
    best = [one for one in [winner(table)] if one]
    compared = [row for row in table if row["spaces"] and row["all"]["auc_gain"]]
    if not compared:
        return " ".join([*best, "No run with images can be compared with one without."])
    by_spaces: dict[tuple[str, ...], list[str]] = {}
    for row in compared:
        by_spaces.setdefault(tuple(row["spaces"]), []).extend(_helped(row))
    said = [f"The {vectors_of(spaces)} {'; '.join(parts)}." for spaces, parts in by_spaces.items()]
    if min(row["all"]["pairs"] for row in compared) < 2:
        without = any(row["all"]["auc_gain"].get("low") is None for row in compared)
        said.append("One seed cannot tell a difference from chance." if without else OF_ONE_SEED)
    return " ".join([*best, *said])


def vectors_of(spaces: Sequence[str]) -> str:
    """What the vectors of some spaces are called: pictures, where samples have no other."""
    return "pictures" if list(spaces) == [IMAGE_SPACE] else f"vectors of {in_words(spaces)}"


def _helped(row: Row) -> Iterator[str]:
    """What vectors did to a model, of each part of the rows."""
    for part, where in told_parts(row).items():
        gain = row[part].get("auc_gain")
        if gain is None:
            continue
        verdict = "helped" if gain["mean"] > 0 else "hurt"
        if gain["std"] is None and gain.get("low") is None:
            verdict = "changed"  # one seed says by how much, and nothing on whether that is chance
        elif is_chance(gain, row[part]["pairs"]):
            who = "so few seeds" if gain.get("low") is None else "users, items and seeds"
            verdict = f"had no effect that {who} can tell from chance on"
        yield f"{verdict} {row['model']}{where} (AUC {_change(gain)})"
