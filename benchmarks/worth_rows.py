"""Rows and tables of ``benchmarks.worth``: means over hold-outs and seeds, gains, and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from crossmedia.trainer.intervals import METRICS, JudgedRows, ends
from crossmedia.trainer.report import summary
from crossmedia.trainer.report.tables import number
from crossmedia.trainer.runs.results import Line

PARTS = {
    "all": "all rows of the test part",
    "unseen_items": "items unseen in training",
    "held_out_items": "items held out entirely",
}
KNOWN = {"true logits without the photos' part": "without_photos", "the best that is possible": "test"}
WIDTH = 200  # of a table in which no number is cut
Pair = tuple[int, int]  # the number of the hold-out, and the seed: what two variants have in common


@dataclass(frozen=True)
class Ran:
    """A run that has a line.

    Attributes:
        line: of the results file.
        predictions: of the test rows, shape (N,); None: they are not in the run's folder any more.
    """

    line: Line
    predictions: npt.NDArray[Any] | None


def rows(runs: Mapping[str, Mapping[Pair, Ran]], base_name: str, tests: Sequence[JudgedRows]) -> list[dict[str, Any]]:
    """A row a variant: mean and deviation of each metric, and the difference to the base, of pairs.

    Args:
        runs: by the name of the variant.
        base_name: of the variant that gains are over.
        tests: the test rows of each hold-out.

    Returns:
        the rows. A gain has ``low`` and ``high``, the ends of its 95 % interval over users, items, seeds and hold-outs,
        where all predictions of both sides are there.
    """
    base = runs.get(base_name, {})
    found = []
    for name, own in runs.items():
        lines = [ran.line for ran in own.values()]
        row: dict[str, Any] = {"variant": name, "seeds": len({seed for _, seed in own}), "runs": len(own)}
        row["hold_outs"] = len({number for number, _ in own})
        row["validation_auc"] = summary.mean_std([line["validation"]["all"].get("auc") for line in lines])
        pairs = sorted(own.keys() & base.keys()) if name != base_name else []
        for part in PARTS:
            if not all(part in line["test"] and line["test"][part].get("rows") for line in lines):
                continue
            of_part = [line["test"][part] for line in lines]
            row[part] = {
                metric: summary.mean_std([of.get(metric) for of in of_part]) for metric in summary.METRIC_NAMES
            }
            for metric in summary.METRIC_NAMES:
                sides = [[side[pair].line["test"][part].get(metric) for pair in pairs] for side in (own, base)]
                gains = [None if None in both else both[0] - both[1] for both in zip(*sides, strict=True)]
                row[part][f"{metric}_gain"] = summary.mean_std(gains) if pairs else None
            for metric in METRICS:
                if gain := row[part][f"{metric}_gain"]:
                    gain |= _ends(own, base, pairs, part, metric, tests)
        row["rows"] = {part: lines[0]["test"].get(part, {}).get("rows") for part in PARTS}
        row["by_item_count"] = {
            bucket: summary.mean_std([line["test"]["by_item_count"][bucket].get("auc") for line in lines])
            for bucket in lines[0]["test"]["by_item_count"]
        }
        found.append(row)
    return found


def _ends(
    own: Mapping[Pair, Ran],
    base: Mapping[Pair, Ran],
    pairs: Sequence[Pair],
    part: str,
    metric: Any,
    tests: Sequence[JudgedRows],
) -> dict[str, float]:
    """The interval's ends; empty where a prediction is gone or rows are too few."""
    sets = []
    for hold_out, test in enumerate(tests):
        here = [pair for pair in pairs if pair[0] == hold_out]
        sides = [[side[pair].predictions for pair in here] for side in (own, base)]
        if any(values is None for side in sides for values in side):
            return {}
        if here:
            sets.append(test.paired(part, metric, *([np.asarray(values) for values in side] for side in sides)))
    return ends(sets, metric)


def show(title: str, found: Sequence[dict[str, Any]], reference: dict[str, Any]) -> None:
    """Print the tables: ± is a deviation over runs; what stands in brackets is an interval of 95 %."""
    for part, of_part in PARTS.items():
        if part not in found[0]:
            continue
        table = Table(title=f"{title}, {of_part}: {found[0]['rows'][part]:,} rows", title_justify="left")
        for heading in ("", "runs", "AUC", "gain", "95 %", "GAUC", "gain", "95 %", "log loss"):
            table.add_column(heading, no_wrap=True)
        for row in found:
            cells = [row["variant"], str(row["runs"])]
            for metric in METRICS:
                gain = row[part].get(f"{metric}_gain")
                cells += [number(row[part].get(metric)), number(gain), interval(gain)]
            table.add_row(*cells, number(row[part].get("log_loss")))
        for heading, known in KNOWN.items():
            if part in reference.get(known, {}):
                table.add_row(heading, "", number(reference[known][part]))
        Console(width=WIDTH).print(table)
    buckets = list(found[0]["by_item_count"])
    table = Table("", *(f"{name} training rows" for name in buckets), title="AUC by item count", title_justify="left")
    for row in found:
        table.add_row(row["variant"], *(number(row["by_item_count"][name]) for name in buckets))
    Console(width=WIDTH).print(table)


def interval(gain: dict[str, float] | None) -> str:
    """The ends of an interval; empty without one."""
    return f"[{gain['low']:+.4f}, {gain['high']:+.4f}]" if gain and "low" in gain else ""
