"""Commands that make and show samples."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, Group, config_option, json_option
from crossmedia.features.columns import label_columns
from crossmedia.progress import Bar
from crossmedia.words import counted

if TYPE_CHECKING:
    from crossmedia.features.reading.samples import Samples


@click.group(cls=Group, name="features")
@config_option
def features(config: str | None) -> None:
    """Turn logs into samples that hold ids only, and look at them."""


@features.command(name="build", cls=Command, example="logs/samples.toml --out samples")
@click.argument("schema", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default="samples", help="Folder to write samples to."
)
@click.option(
    "--extend",
    type=click.Path(file_okay=False, path_type=Path),
    help="Continue the vocabularies of these samples: every value keeps its place and new values are appended, so that "
    "tomorrow's model can start from today's weights.",
)
@click.option(
    "--hold-out-seed",
    type=click.IntRange(min=0),
    help="Hold out other items than hold_out_seed of SCHEMA does: one set of items is one draw, and 'trainer compare' "
    "takes several.",
)
@click.option("--overwrite", is_flag=True, help="Replace the samples that are in the folder already.")
@json_option
def build_command(
    schema: Path, out: Path, extend: Path | None, hold_out_seed: int | None, overwrite: bool, as_json: bool
) -> None:
    """Build samples from the logs that the TOML file SCHEMA describes; logs may be larger than memory."""
    from crossmedia.features.schema import load_schema
    from crossmedia.features.writing.build import build_samples

    read = load_schema(schema)
    if hold_out_seed is not None:
        read = read.with_hold_out_seed(hold_out_seed)
    with Bar("reading the log", left=False) as bar:
        report = build_samples(read, out, extend, lambda what, done, total: bar(done, total, what), overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
        return
    rows = ", ".join(f"{name} {count:,}" for name, count in report.rows.items())
    rates = ", ".join(f"{name} {rate:.1%}" for name, rate in report.positive_rate.items())
    click.echo(f"samples in {out}: {rows} ({report.seconds:.1f} s)")
    found = ((report.users, "user"), (report.items, "item"), (report.images, "image"))
    click.echo(f"{', '.join(counted(*one) for one in found)}; positive: {rates}")
    click.echo(f"{report.mean_history:.1f} behaviours a row, {report.bytes_per_sample:.0f} bytes a sample")
    unknown = {name: share for name, share in report.unknown["test"].items() if share}
    if unknown:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in unknown.items())
        click.echo(f"test rows whose value is missing or in no training row: {shares}")
    for line in report.notes_in_words():
        click.echo(f"note: {line}")


@features.command(cls=Command, example="samples --rows 5")
@click.argument("samples", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(0, 100), default=3, help="How many test rows to show, decoded.")
@json_option
def inspect(samples: Path, rows: int, as_json: bool) -> None:
    """Show what is in a SAMPLES folder: splits, labels, vocabularies, histories, and a few rows decoded."""
    from crossmedia.features.reading.samples import Samples

    opened = Samples(samples)
    summary = _summary(opened, rows)
    if as_json:
        click.echo(json.dumps(summary))
        return
    console = Console()
    splits = Table("split", "rows", *(f"{label} %" for label in opened.labels), "mean history")
    unknown = Table("rows of unknown", *opened.id_columns)
    lengths = Table("length of history", *summary["splits"]["train"]["history_share"])
    for name, found in summary["splits"].items():
        rates = (f"{found['positive_rate'][label]:.1%}" for label in opened.labels)
        splits.add_row(name, f"{found['rows']:,}", *rates, f"{found['mean_history']:.1f}")
        unknown.add_row(name, *(f"{share:.1%}" for share in found["unknown"].values()))
        lengths.add_row(name, *(f"{share:.0%}" for share in found["history_share"].values()))
    click.echo(f"samples in {samples}, {counted(opened.items.rows, 'item')}")
    console.print(splits, lengths, unknown)
    sizes = Table("column", "values")
    for name, size in summary["vocabulary"].items():
        sizes.add_row(name, f"{size:,}")
    console.print(sizes)
    for name, how in summary["numbers"].items():
        click.echo(f"{name} is a number: {how}")
    for name, space in summary["spaces"].items():
        click.echo(f"{name} is a space of vectors, by {space['key']}")
    for row in summary["rows"]:
        console.print_json(json.dumps(row), indent=None)


EDGES = {"0": (0, 0), "1-9": (1, 9), "10-49": (10, 49), "50+": (50, 2**62)}


def _summary(samples: Samples, rows: int) -> dict[str, Any]:
    from crossmedia.features.splits import SPLITS

    splits = {split: _split_summary(samples, split) for split in SPLITS}
    return {
        "folder": str(samples.folder),
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
    import pyarrow.compute as pc

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
