"""Intervals of differences between rows of ``summary.rows``: over users, items and seeds, from the runs' predictions.

Legend: N rows of the test part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from crossmedia.disk import open_regular
from crossmedia.errors import BadInput
from crossmedia.features.columns import label_column
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer.baselines import ITEM_USER, baselines
from crossmedia.trainer.metrics import log_loss
from crossmedia.trainer.metrics.bootstrap import PairedRows, interval_over
from crossmedia.trainer.report.summary import PARTS, Pair, base_name, called, in_words, model_name, pair_of, spaces_of
from crossmedia.trainer.runs.checkpoint import PREDICTIONS, of_run
from crossmedia.trainer.runs.results import Line
from crossmedia.trainer.settings import FitConfig

Array = npt.NDArray[Any]
ByPair = dict[Pair, Array]
METRICS: tuple[Literal["auc", "gauc"], ...] = ("auc", "gauc")
MOST_ROWS = 2_000_000  # of a test part: the draws of more take longer than the training
SAME = 1e-9  # log loss of predictions that are those of a line


@dataclass(frozen=True)
class JudgedRows:
    """What the rows of the test part are of.

    Attributes:
        labels: shape (N,).
        users: shape (N,), who each is of.
        items: shape (N,), what each is of; those that training did not know are told apart, too.
        known: shape (N,), whether training knew the user: GAUC is of these.
        parts: name of a part -> which rows it has, shape (N,).
    """

    labels: Array
    users: Array
    items: Array
    known: npt.NDArray[np.bool_]
    parts: dict[str, npt.NDArray[np.bool_]]

    @classmethod
    def of(cls, samples: Samples, label: str) -> JudgedRows:
        """Those of samples; of the first label when ``label`` is empty."""
        held_out = ["held_out"] if samples.has_held_out else []
        raw = ["raw_user_id", "raw_item_id"]
        column = label_column(samples.labels, label)
        table = samples.frame("test", [column, "user_id", "item_id", *raw, *held_out])
        labels, users, items = (np.asarray(table[name].combine_chunks()) for name in (column, "user_id", "item_id"))
        codes = [np.asarray(table[name].combine_chunks().dictionary_encode().indices) for name in raw]
        parts = {"all": np.ones(len(labels), dtype=np.bool_)}
        parts["unseen_items"] = (items == 0) | (samples.item_counts()[items] == 0)
        if held_out:
            parts["held_out_items"] = np.asarray(table["held_out"].combine_chunks()) > 0
        return cls(labels, codes[0], codes[1], users > 0, parts)

    def paired(
        self, part: str, metric: Literal["auc", "gauc"], first: Sequence[Array], second: Sequence[Array]
    ) -> PairedRows:
        """The rows of a part that a metric is of, with what two sides predict of them, an array a seed."""
        chosen = self.parts[part] & self.known if metric == "gauc" else self.parts[part]
        one, other = (np.stack([values[chosen] for values in side]) for side in (first, second))
        return PairedRows(self.labels[chosen], one, other, self.users[chosen], self.items[chosen])


Sides = tuple[JudgedRows, list[Array], list[Array]]  # rows of a hold-out, and what two sides predict of them


def ends(sets: Sequence[PairedRows], metric: Literal["auc", "gauc"]) -> dict[str, float]:
    """Ends of the 95 % interval of a difference over one hold-out or several; empty where rows are too few for one."""
    there = [rows for rows in sets if len(rows.label)]
    found = interval_over(there, metric=metric) if there else None
    return {"low": found.low, "high": found.high} if found and np.isfinite(found.low) else {}


def with_intervals(
    rows: Sequence[dict[str, Any]], runs: Sequence[tuple[Line, Path]], config: FitConfig, folders: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows whose differences to the means, and to ids only, have the ends of their intervals: ``low`` and ``high``.

    A row has them where the predictions of all of its runs are there.

    Args:
        rows: of ``summary.rows``.
        runs: line and run folder of each.
        config: of the runs, which says what rows they are of.
        folders: of samples, one a hold-out; those of ``config`` alone when there are none.

    Returns:
        the rows, and a sentence on those that have no interval.
    """
    opened = [samples_of(folder, config.validate_on) for folder in folders or (config.samples,)]
    label = config.labels[0] if config.labels else ""
    if opened[0].rows("test") > MOST_ROWS:
        said = f"No interval over users and items is drawn of more than {MOST_ROWS:,} test rows: ± is of seeds alone."
        return list(rows), [said]
    tests = {samples.hash: JudgedRows.of(samples, label) for samples in opened}
    means = {samples.hash: baselines(samples, label)[ITEM_USER] for samples in opened}
    predicted: dict[tuple[str, tuple[str, ...]], ByPair] = {}
    lines: dict[tuple[str, tuple[str, ...]], int] = {}
    base: dict[str, str] = {}
    for line, folder in runs:
        key = model_name(line), spaces_of(line)
        lines[key] = lines.get(key, 0) + 1
        base[key[0]] = base_name(line)
        test = tests.get(line["samples"])
        if test and (values := predictions(line, folder, test.labels)) is not None:
            predicted.setdefault(key, {})[pair_of(line)] = values
    whole = {key: found for key, found in predicted.items() if len(found) == lines[key]}
    found = []
    for row in rows:
        own = whole.get((row["model"], tuple(row["spaces"])), {})
        ids = whole.get((base.get(row["model"], ""), ()), {})
        both = sorted(own.keys() & ids.keys()) if row["spaces"] else []
        sides: dict[str, list[Sides]] = {"over_mean": [], "gain": []}
        for samples, test in tests.items():
            if here := [values for (of, _), values in own.items() if of == samples]:
                sides["over_mean"].append((test, here, [means[samples]]))
            if pairs := [pair for pair in both if pair[0] == samples]:
                sides["gain"].append((test, [own[pair] for pair in pairs], [ids[pair] for pair in pairs]))
        found.append(_row(row, sides))
    return found, _without(found)


def _row(row: dict[str, Any], sides: Mapping[str, Sequence[Sides]]) -> dict[str, Any]:
    row = dict(row)
    for part in (name for name in PARTS if name in row):
        row[part] = dict(row[part])
        for metric, (kind, of_kind) in product(METRICS, sides.items()):
            if (gain := row[part][f"{metric}_{kind}"]) and of_kind:
                sets = [test.paired(part, metric, first, second) for test, first, second in of_kind]
                row[part][f"{metric}_{kind}"] = gain | ends(sets, metric)
    return row


def predictions(line: Line, folder: Path, labels: Array) -> Array | None:
    """What the run of a line predicts of the test rows, shape (N,); None: the folder has no predictions, or others'.

    Args:
        line: of the run.
        folder: of the run.
        labels: shape (N,), which say whether predictions are those of the line: by its log loss.
    """
    try:
        path = of_run(folder, PREDICTIONS)
    except BadInput:
        return None
    if path is None:
        return None
    with open_regular(path) as file:  # Arrow takes no path that is not UTF-8
        values = np.asarray(pq.read_table(file, columns=["probability"])["probability"].combine_chunks())
    if len(values) != len(labels) or abs(log_loss(labels, values) - line["test"]["all"]["log_loss"]) > SAME:
        return None
    return values


def _without(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence on the rows that have no interval; none: all have."""
    absent = [called(row) for row in rows if (over := row["all"]["auc_over_mean"]) and "low" not in over]
    if not absent:
        return []
    return [
        f"{in_words(absent)} {'have' if len(absent) > 1 else 'has'} no interval over users and items, for the "
        f"predictions of the runs are not in this folder: ± is of seeds alone."
    ]
