"""By how often an item was shown in training: what a model's order of the test rows gains, with intervals.

Legend: N rows of the test part, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.baselines import ITEM_USER, baselines
from crossmedia.trainer.intervals import JudgedRows, predictions
from crossmedia.trainer.metrics.bootstrap import interval_over
from crossmedia.trainer.report.summary import base_name, in_words, is_baseline, model_name, spaces_of
from crossmedia.trainer.runs.results import Line

GROUPS, FEWEST = 4, 100  # groups of items that training has shown; rows of a group that says something
Array = npt.NDArray[Any]
Runs = Sequence[tuple[Line, Path]]  # the line and the folder of each


@dataclass(frozen=True)
class Group:
    """Test rows of items that were shown about as often.

    Attributes:
        name: how often, in words.
        rows: how many.
        items: of how many.
        gain: in AUC, on the mean of the seeds.
        low, high: the 95 % interval over users, items and seeds.
    """

    name: str
    rows: int
    items: int
    gain: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval has no zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ByPopularity:
    """What a model gains, by popularity of the item.

    Attributes:
        beside: what it is compared with, in words.
        groups: those that are shown least first; empty: nothing can be said.
        absent: why, in a sentence.
    """

    beside: str = ""
    groups: tuple[Group, ...] = ()
    absent: str = ""

    @property
    def reach(self) -> float:
        """The largest end of an interval."""
        return max((abs(end) for one in self.groups for end in (one.low, one.high)), default=1.0) or 1.0

    @property
    def sentence(self) -> str:
        """Where it gains most, and whether that may be chance."""
        if not self.groups:
            return self.absent
        gains, loses = (
            [one.name for one in self.groups if one.is_clear and (one.gain > 0) is up] for up in (True, False)
        )
        if len(gains) == len(self.groups) > 1:
            most = max(self.groups, key=lambda one: one.gain)
            return f"It gains on items of every group, most on those {most.name}."
        said = [
            f"it {what} on items {in_words(names)}" for what, names in (("gains", gains), ("loses", loses)) if names
        ]
        if not said:
            return "On no group of items can users, items and seeds tell the difference from chance."
        rest = "; elsewhere the difference may be chance" if len(gains) + len(loses) < len(self.groups) else ""
        return f"{' and '.join(said).capitalize()}{rest}."


def by_popularity(samples: Samples, runs: Runs, row: dict[str, Any]) -> ByPopularity:
    """What the model of a row gains over ids only; over the item's and the user's mean where there are no such runs.

    Args:
        samples: that the runs were trained on; of several hold-outs those runs count that are of these.
        runs: of the comparison.
        row: of ``summary.rows``.
    """
    own = [run for run in runs if _is_of(run[0], row["model"], row["spaces"]) and run[0]["samples"] == samples.hash]
    if not own:
        return ByPopularity(absent="The runs are of other samples than these.")
    label = str((own[0][0]["options"].get("labels") or samples.labels)[0])
    rows = JudgedRows.of(samples, label)
    ids = [run for run in runs if _is_of(run[0], base_name(own[0][0]), [])] if row["spaces"] else []
    first, second = _of_seeds(own, rows.labels), _of_seeds(ids, rows.labels)
    seeds = sorted(first.keys() & second.keys())
    if seeds:
        beside, others = "ids only", [second[seed] for seed in seeds]
    else:
        beside, others, seeds = "the item's and the user's mean", [baselines(samples, label)[ITEM_USER]], sorted(first)
    if not seeds:
        return ByPopularity(absent="The predictions of the runs are not in their folders.")
    counts = _counts(samples)
    groups = [_group(rows, here, name, [first[seed] for seed in seeds], others) for name, here in _groups(counts)]
    found = tuple(one for one in groups if one is not None)
    absent = "" if found else "No group of items has test rows enough."
    return ByPopularity(beside, found, absent)


def _is_of(line: Line, model: str, spaces: Sequence[str]) -> bool:
    return not is_baseline(line) and model_name(line) == model and list(spaces_of(line)) == list(spaces)


def _of_seeds(runs: Runs, labels: Array) -> dict[int, Array]:
    """What runs predict, by their seeds; those whose predictions are not there are left out."""
    found = {line["seed"]: predictions(line, folder, labels) for line, folder in runs}
    return {seed: values for seed, values in found.items() if values is not None}


def _counts(samples: Samples) -> Array:
    """How often training has shown the item of each test row, shape (N,)."""
    items = np.asarray(samples.frame("test", ["item_id"])["item_id"].combine_chunks())
    return np.where(items == 0, 0, samples.item_counts()[items])


def _groups(counts: Array) -> list[tuple[str, Array]]:
    """Rows of items that were never shown, and of four groups of as many rows each, by how often; with their names."""
    known = counts[counts > 0]
    if not len(known):
        return [("never shown in training", counts == 0)]
    ends = np.unique(np.quantile(known, np.arange(1, GROUPS + 1) / GROUPS, method="higher"))
    found, low = [("never shown in training", counts == 0)], 0
    for end in ends:
        here = (counts > low) & (counts <= end)
        least, most = int(counts[here].min()), int(counts[here].max())
        times = f"{least:,} to {most:,} times" if least < most else f"{most:,} times"
        found.append((f"shown {times}" if most > 1 else "shown once", here))
        low = end
    return found


def _group(rows: JudgedRows, here: Array, name: str, first: list[Array], second: list[Array]) -> Group | None:
    """What the first predictions gain on some rows; None: they are too few to say."""
    if here.sum() < FEWEST:
        return None
    own = replace(rows, parts={name: here}).paired(name, "auc", first, second)
    found = interval_over([own], metric="auc")
    if not np.isfinite([found.mean, found.low]).all():
        return None
    return Group(name, int(here.sum()), len(np.unique(own.items)), found.mean, found.low, found.high)
