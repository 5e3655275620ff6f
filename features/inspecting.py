"""What 'features inspect' shows of a folder of samples: a screen, or all of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from crossmedia.features.columns import label_columns
from crossmedia.features.reading.samples import Samples
from crossmedia.features.splits import SPLITS
from crossmedia.words import counted

Summary = dict[str, Any]
SHOWN = 5  # columns that a line of the screen names


EDGES = {"0": (0, 0), "1-9": (1, 9), "10-49": (10, 49), "50+": (50, 2**62)}


def summary_of(samples: Samples, rows: int) -> dict[str, Any]:
    """What samples hold, as JSON takes it.

    Args:
        samples: the folder.
        rows: how many rows of the test part, decoded.
    """
    splits = {split: _split_summary(samples, split) for split in SPLITS}
    return {
        "folder": str(samples.folder),
        "labels": list(samples.labels),
        "items": samples.items.rows,
        "numbers": {name: scale.how for name, scale in samples.vocabulary.encoding.numbers.items()},
        "tokens": samples.vocabulary.encoding.tokens,
        "spaces": {name: asdict(space) for name, space in samples.spaces.items()},
        "splits": splits,
        "vocabulary": {name: len(values) for name, values in samples.vocabulary.values.items()},
        "vocabulary_hash": samples.vocabulary_hash,
        "rows": [_decoded(samples, row) for row in samples.head("test", rows)],
    }


def _split_summary(samples: Samples, split: str) -> dict[str, Any]:
    """Sums over the row groups of a split, so that its size does not matter."""
    labels = label_columns(samples.labels)
    history = ["hist_time"] if samples.actions else []
    rows, behaviours = 0, 0
    positive, unknown, of_length = Counter[str](), Counter[str](), Counter[str]()
    for table in samples.frames(split, [*labels.values(), *samples.id_columns, *history]):
        rows += len(table)
        for label, column in labels.items():
            positive[label] += int(pc.sum(table[column]).as_py())
        for column in samples.id_columns:
            unknown[column] += int(pc.sum(pc.equal(table[column], 0)).as_py())
        lengths = np.zeros(len(table), dtype=np.int64)
        if history:
            lengths = np.asarray(pc.list_value_length(table[history[0]]).combine_chunks())
        behaviours += int(lengths.sum())
        for name, (low, high) in EDGES.items():
            of_length[name] += int(((lengths >= low) & (lengths <= high)).sum())
    return {
        "rows": rows,
        "positive_rate": {label: positive[label] / rows for label in labels},
        "unknown": {column: unknown[column] / rows for column in samples.id_columns},
        "mean_history": behaviours / rows,
        "history_share": {name: of_length[name] / rows for name in EDGES},
    }


def _decoded(samples: Samples, row: dict[str, Any]) -> dict[str, Any]:
    """A row with raw values instead of places; None stands for unknown."""

    def raw(column: str, place: int) -> str | None:
        return samples.vocabulary.values[column][place - 1].as_py() if place else None

    result: dict[str, Any] = {}
    for name, value in row.items():
        column = name.removeprefix("hist_")
        if isinstance(value, float):  # a number that is missing is nan, which JSON has not
            result[name] = None if math.isnan(value) else round(value, 6)
        elif column == "image_id" or column not in samples.vocabulary.values:
            result[name] = value
        elif isinstance(value, list):
            result[name] = [raw(column, place) for place in value]
        else:
            result[name] = raw(column, value)
    return result


def show_screen(found: Summary) -> None:
    """Print what fits on a screen: a row of the samples is a line, and the largest columns stand for the others."""
    console = Console()
    console.print(_head(found), _splits(found))
    _line(console, "unknown in the test part", _largest(found["splits"]["test"]["unknown"], "{:.1%}"))
    _line(console, "values", _largest(found["vocabulary"], "{:,}"))
    _line(console, "numbers", [f"{name} ({how})" for name, how in found["numbers"].items()][: SHOWN + 1])
    _line(console, "spaces of vectors", [f"{name} by {space['key']}" for name, space in found["spaces"].items()])
    for row in found["rows"]:
        console.print(
            json.dumps(row, ensure_ascii=False), no_wrap=True, overflow="ellipsis", markup=False, highlight=False
        )
    console.print("--all shows every column, and the rows to their ends.")


def _head(found: Summary) -> str:
    return f"samples in {found['folder']}, {counted(found['items'], 'item')}"


def _line(console: Console, what: str, names: list[str]) -> None:
    if names:
        console.print(f"{what}: {', '.join(names)}", markup=False, highlight=False)


def _largest(figures: dict[str, float], how: str) -> list[str]:
    """The columns with the largest figures, in words, and how many more there are with any."""
    there = sorted((name for name in figures if figures[name]), key=lambda name: -figures[name])
    said = [f"{name} {how.format(figures[name])}" for name in there[:SHOWN]]
    return said + ([f"{len(there) - SHOWN} columns with fewer"] if len(there) > SHOWN else [])


def _splits(found: Summary) -> Table:
    table = Table("split", "rows", *(f"{label} %" for label in found["labels"]), "mean history", "without one")
    for name, split in found["splits"].items():
        rates = (f"{split['positive_rate'][label]:.1%}" for label in found["labels"])
        none = f"{split['history_share']['0']:.0%}"
        table.add_row(name, f"{split['rows']:,}", *rates, f"{split['mean_history']:.1f}", none)
    return table


def show_all(found: Summary) -> None:
    """Print everything: each column, and rows to their ends."""
    console, splits = Console(), found["splits"]
    lengths = Table("length of history", *EDGES)
    for name, split in splits.items():
        lengths.add_row(name, *(f"{share:.0%}" for share in split["history_share"].values()))
    columns = Table("column", "values", *(f"unknown in {name}" for name in splits))
    for name, size in found["vocabulary"].items():
        unknown = (split["unknown"].get(name) for split in splits.values())
        columns.add_row(name, f"{size:,}", *("" if share is None else f"{share:.1%}" for share in unknown))
    console.print(_head(found), _splits(found), lengths, columns)
    for name, how in found["numbers"].items():
        console.print(f"{name} is a number: {how}", markup=False, highlight=False)
    for name, space in found["spaces"].items():
        console.print(f"{name} is a space of vectors, by {space['key']}", markup=False, highlight=False)
    for row in found["rows"]:
        console.print_json(json.dumps(row), indent=None)
