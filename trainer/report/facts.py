"""What a comparison was made from, and what it says in one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossmedia.features.columns import label_column
from crossmedia.features.reading.samples import Samples
from crossmedia.features.splits import SPLITS
from crossmedia.trainer.doubts import doubts
from crossmedia.trainer.report import summary, verdict


@dataclass(frozen=True)
class SplitFacts:
    """Rows of a part of the samples.

    Attributes:
        name: of the part.
        rows: how many.
        positives: rows whose label is 1.
        unseen_items, unseen_users: rows whose item, or user, is in no training row.
    """

    name: str
    rows: int
    positives: int
    unseen_items: int
    unseen_users: int


def of_splits(samples: Samples, label: str) -> list[SplitFacts]:
    """Counts of each part, read once.

    Args:
        samples: the folder.
        label: which label is meant; the first when it is empty.
    """
    column, shown = label_column(samples.labels, label), samples.item_counts()
    found = []
    for name in SPLITS:
        counts = np.zeros(4, dtype=np.int64)
        for table in samples.frames(name, [column, "item_id", "user_id"]):
            labels, items, users = (np.asarray(values.combine_chunks()) for values in table.columns)
            # Place 0 is every unknown value at once; places that an older vocabulary gave may be in no training row.
            unseen = (items == 0) | (shown[items] == 0)
            counts += [len(labels), (labels > 0).sum(), unseen.sum(), (users == 0).sum()]
        found.append(SplitFacts(name, *counts.tolist()))
    return found


@dataclass(frozen=True)
class Headline:
    """The result in plain words.

    Attributes:
        number: the one number, with its sign where it is a difference.
        text: what it counts.
        certainty: whether it may be chance.
    """

    number: str
    text: str
    certainty: str


def told_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row that a page tells first: of what is compared with ids only, if anything is, the best; None: no AUC."""
    known = [row for row in rows if row["all"]["auc"] and not row["baseline"]]
    compared = [row for row in known if row["spaces"] and row["all"]["auc_gain"]]
    return max(compared or known, key=lambda row: row["all"]["auc"]["mean"], default=None)


def headline(rows: Sequence[dict[str, Any]]) -> Headline:
    """What pictures add to the best model with pictures; where none can be compared, how good the best model is.

    The AUC is a share of pairs: of 100 pairs of a positive and a negative row, so many have the positive one first.

    Args:
        rows: of ``summary.rows``.
    """
    best = told_row(rows)
    if best is None:
        return Headline("–", "There is no AUC: the labels of the test part are all alike.", "")
    if not best["all"]["auc_gain"]:
        text = (
            f"So many of 100 pairs of a positive and a negative test row are put in the right order by "
            f"{summary.called(best)}. Guessing gets 50."
        )
        return Headline(f"{100 * best['all']['auc']['mean']:.1f}", text, "")
    gain = best["all"]["auc_gain"]
    more = "more" if gain["mean"] >= 0 else "fewer"
    text = (
        f"With {verdict.vectors_of(best['spaces'])}, {best['model']} puts so many {more} of 100 pairs of a positive "
        f"and a negative test row in the right order than with ids only."
    )
    return Headline(f"{100 * gain['mean']:+.1f}", text, verdict.certainty(gain, best["all"]["pairs"]))


def warnings(comparison: dict[str, Any]) -> list[str]:
    """What speaks against the models, in sentences; a run alone says it of its validation part as well."""
    runs, of_means = comparison["runs"], verdict.doubts_of_means(comparison["rows"])
    if len(runs) == 1:
        return [*of_means, *(runs[0].get("doubts") or doubts("test", runs[0]["test"]["all"]))]
    return [*of_means, *summary.doubts(runs)]
