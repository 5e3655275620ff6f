"""Commands that make and show samples."""

from __future__ import annotations

import json
from pathlib import Path

import click

from crossmedia.config import Command, Group, config_option, json_option
from crossmedia.progress import Bar
from crossmedia.words import counted


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
@click.option("--all", "everything", is_flag=True, help="Show every column, and the rows to their ends.")
@json_option
def inspect(samples: Path, rows: int, everything: bool, as_json: bool) -> None:
    """Show what is in a SAMPLES folder: splits, labels, histories, vocabularies, and a few rows decoded."""
    from crossmedia.features.inspecting import show_all, show_screen, summary_of
    from crossmedia.features.reading.samples import Samples

    found = summary_of(Samples(samples), rows)
    if as_json:
        click.echo(json.dumps(found))
    elif everything:
        show_all(found)
    else:
        show_screen(found)
