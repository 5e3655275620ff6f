"""Show results: tables of results files, and the page of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.options import check_not_empty, options_of
from crossmedia.trainer.settings import ReportConfig


@click.command(cls=Command, example="runs/compare/results.jsonl --plot auc.png")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the AUC by item count to this .png or .svg."
)
@json_option
def results(files: tuple[Path, ...], plot: Path | None, as_json: bool) -> None:
    """Tables of the results in FILES, which 'trainer compare' filled; one table for each data and settings."""
    if plot:
        from crossmedia.trainer.report import figures  # matplotlib, which takes its time
    from crossmedia.trainer.report import summary, verdict
    from crossmedia.trainer.report.tables import printed_table
    from crossmedia.trainer.runs.results import read

    found = summary.groups(read(files).values())
    if not found:
        raise BadInput(f"There is no result in {', '.join(map(str, files))}.")
    documents, titles = [], []
    for lines in found:
        rows = summary.rows(lines)
        some = max(lines, key=lambda line: len(line["vector_version"]))
        documents.append(
            {
                **{name: some[name] for name in ("data", "samples", "vector_version", "options")},
                "rows": rows,
                "sentence": verdict.sentence(rows),
                "doubts": [*verdict.doubts_of_means(rows), *summary.doubts(lines)],
            }
        )
        of_one = len({line["samples"] for group in found for line in group if line["data"] == some["data"]}) == 1
        data = some["data"] if of_one else f"{some['data']}, samples {some['samples']}"
        title = f"{data} ({summary.options_text(some)})"
        titles.append(" ".join(filter(None, [title, summary.vectors_text(lines)])))
    if plot:
        figures.save(figures.auc_by_item_count(found, [lines[0]["data"] for lines in found]), plot)
    if as_json:
        click.echo(json.dumps(documents))
        return
    for title, document in zip(titles, documents, strict=True):
        printed_table(title, document["rows"])
        click.echo("\n".join([document["sentence"], *document["doubts"]]) + "\n")


@click.command(
    cls=Command,
    example="runs/compare --out report.html",
    sections={
        "Where things are": ("--samples", "--server", "--store", "--vectors", "--catalogue"),
        "What is drawn": ("--item", "--category", "--seed", "--title", "--note", "--out"),
    },
)
@click.argument("comparison", type=click.Path(path_type=Path))
@options_of(
    ReportConfig,
    ("samples", "server", "store", "vectors", "catalogue", "seed", "title", "note", "item", "category", "out"),
)
@json_option
def report(comparison: Path, as_json: bool, **values: Any) -> None:
    """Draw a comparison, a run alone, or what it says of one item, as one HTML file that needs no network.

    COMPARISON is the folder of 'trainer compare', or the run folder of 'trainer fit'. With --item the page is for a
    merchant, and says what in the item's photo helps and hurts, for whom, and what other photos would do.
    """
    from crossmedia.trainer.report.page import written_report

    check_not_empty("item")
    if values["store"] and not values["catalogue"]:
        raise BadInput("With --store give --catalogue, too: where the photos are, to draw them.")
    written = written_report(ReportConfig(comparison, **values))
    click.echo(json.dumps(written.facts) if as_json else f"report: {written.path}")
