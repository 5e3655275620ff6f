"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from crossmedia.trainer.baselines import ITEM_USER
from crossmedia.trainer.report.summary import called, told_parts
from crossmedia.words import counted

CONSTANT = "a constant, the share of positives"
LEAST_WIDTH = 80  # of a terminal, and of a log
MOST_NAME = 26  # characters of a name in a line
GAP = 2  # between columns


def number(value: dict[str, float | None] | float | None, digits: int = 4) -> str:
    """``mean ± std``, a plain number (one seed has no deviation), or a dash."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
        return f"{value['mean']:.{digits}f}{spread}"
    return f"{value:.{digits}f}"


def gauc_users(found: dict[str, Any]) -> str:
    """How many users GAUC counts, those with rows of both labels, and of how many.

    Args:
        found: metrics of some rows, as ``measure`` gives them; those of older releases lack these.
    """
    users, of = found.get("gauc_users"), found.get("users")
    if users is None:
        return ""
    return counted(users, "user") if of is None else f"{users:,} of {counted(of, 'user')}"


def printed_table(title: str, rows: list[dict[str, Any]], reference: dict[str, Any] | None = None) -> None:
    """Print ``comparison_table`` as wide as the terminal is; 80 characters where there is none, and at least."""
    console = Console(highlight=False)
    console.width = max(LEAST_WIDTH, console.width)
    console.print(comparison_table(title, rows, reference, console.width))


def comparison_table(
    title: str, rows: list[dict[str, Any]], reference: dict[str, Any] | None = None, width: int = LEAST_WIDTH
) -> Group:
    """Rows of ``summary.rows``: mean and standard deviation over the seeds.

    Columns that do not fit beside each other stand in further tables below, with the models' names again: a name may
    take several lines, a number is never cut.

    Args:
        title: what the rows are of.
        rows: of ``summary.rows``.
        reference: the best that any model could reach, where that is known.
        width: characters in a line.
    """
    counting = gauc_users(rows[0]["all"]) if rows else ""
    names = [called(row) for row in rows]
    columns = [_Column(heading, [cell(row) for row in rows]) for heading, cell in _cells(rows).items()]
    for name, values in _constants(rows, reference):
        names.append(name)
        for column in columns:
            column.cells.append(values.get(column.heading, ""))
    room = width - GAP - sum(column.width + GAP for column in columns)
    name_width = min(max(map(len, names), default=0), max(MOST_NAME, room))
    parts: list[RenderableType] = [Text(f"{title}, {of_runs(rows)}")]
    for some in _beside(columns, width - name_width - GAP):
        parts += ["", _table(names, name_width, some)]
    said = [f"GAUC is of users with rows of both labels: {counting}"] if counting else []
    if any(row["all"]["auc_over_mean"] for row in rows):
        said.append(f"The means: {ITEM_USER}. {_spread(rows)}")
    return Group(*parts, "", *said)


def of_runs(rows: list[dict[str, Any]]) -> str:
    """What the numbers of rows are: ``mean ± standard deviation of 3 seeds``, or of so many runs; of which hold-outs.

    Lines of older releases do not say by which seed items were held out.
    """
    seeds = sorted({row["seeds"] for row in rows if not row["baseline"]}) or [1]
    hold_outs = max((row.get("hold_outs", 1) for row in rows), default=1)
    what = f"runs on {hold_outs} hold-outs" if hold_outs > 1 else "seeds"
    of = f"mean ± standard deviation of {'-'.join(map(str, seeds))} {what}" if seeds[-1] > 1 else "one seed"
    drawn = sorted({seed for row in rows for seed in row.get("hold_out_seeds", ())})
    return f"{of}, items held out by hold_out_seed {', '.join(map(str, drawn))}" if drawn else of


def _spread(rows: list[dict[str, Any]]) -> str:
    """What stands behind a difference to the means."""
    gains = [row["all"]["auc_over_mean"] for row in rows if row["all"]["auc_over_mean"]]
    if any(gain.get("low") is not None for gain in gains):
        return "In brackets: 95 % interval over users, items, seeds"
    return "±: of the seeds alone; other users and items may give another sign"


@dataclass(frozen=True)
class Table:
    """Cells of text: ``rows`` are as long as ``headings``; the first cell of each says of what they are."""

    headings: list[str]
    rows: list[list[str]]


def as_text(rows: list[dict[str, Any]], reference: dict[str, Any] | None = None) -> Table:
    """As ``comparison_table``, as one wide table."""
    cells = _cells(rows)
    found = [[called(row), *(cell(row) for cell in cells.values())] for row in rows]
    found += [[name, *(values.get(heading, "") for heading in cells)] for name, values in _constants(rows, reference)]
    return Table(["model", *cells], found)


@dataclass(frozen=True)
class _Column:
    """A heading, which may take several lines, and cells, which may not."""

    heading: str
    cells: list[str]

    @property
    def width(self) -> int:
        return max(map(len, [*self.heading.split(), *self.cells]))


def _cells(rows: list[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """The columns, by their headings: what each says of a row."""
    held_out = any("held_out_items" in told_parts(row) for row in rows)
    return {
        "AUC": lambda row: number(row["all"]["auc"]),
        "GAUC": lambda row: number(row["all"]["gauc"]),
        "log loss": lambda row: number(row["all"]["log_loss"]),
        "AUC unseen items": lambda row: number(row["unseen_items"]["auc"]),
        "GAUC unseen items": lambda row: number(row["unseen_items"]["gauc"]),
        "RelaImpr %": lambda row: number(row["all"]["rela_impr"], 1),
        **({"AUC held-out items": lambda row: number(row["held_out_items"]["auc"])} if held_out else {}),
        **({"GAUC held-out items": lambda row: number(row["held_out_items"]["gauc"])} if held_out else {}),
        "AUC over the means": lambda row: _over(row["all"]["auc_over_mean"]),
        "GAUC over the means": lambda row: _over(row["all"]["gauc_over_mean"]),
        "samples/s": lambda row: _cost(row, "samples_per_s"),
        "vectors/s": lambda row: _cost(row, "images_per_s") if row["spaces"] else "-",
        "B/sample": lambda row: _cost(row, "bytes_per_sample"),
    }


def _cost(row: dict[str, Any], name: str) -> str:
    return f"{row['train'][name]:,.0f}" if row["train"] else "-"


def _over(gain: dict[str, float | None] | None) -> str:
    """A difference, and behind it its interval in brackets, or the deviation over the seeds."""
    if gain is None:
        return "-"
    low, high = gain.get("low"), gain.get("high")
    if low is not None and high is not None:
        return f"{gain['mean']:+.4f} (± {(high - low) / 2:.4f})"
    return f"{gain['mean']:+.4f}" + ("" if gain["std"] is None else f" ± {gain['std']:.4f}")


def _constants(rows: list[dict[str, Any]], reference: dict[str, Any] | None) -> Iterator[tuple[str, dict[str, str]]]:
    """What stands below the models: what a constant has, and the best that is possible; cells by their headings."""
    base = next((row["all"]["base_log_loss"] for row in rows if row["all"].get("base_log_loss") is not None), None)
    if base is not None and not any(row["baseline"] for row in rows):
        aucs = {heading: number(0.5) for heading in _cells(rows) if heading.split()[0] in ("AUC", "GAUC")}
        aucs = {heading: half for heading, half in aucs.items() if "over" not in heading}
        yield CONSTANT, {**aucs, "log loss": number(base)}
    if reference:
        test = reference["test"]
        yield reference["name"], {"AUC": number(test["all"]), "AUC unseen items": number(test.get("unseen_items"))}


def _beside(columns: list[_Column], width: int) -> Iterator[list[_Column]]:
    """Columns in their order, as many beside each other as fit."""
    part: list[_Column] = []
    for column in columns:
        if part and sum(one.width + GAP for one in (*part, column)) > width:
            yield part
            part = []
        part.append(column)
    yield part


def _table(names: list[str], name_width: int, columns: list[_Column]) -> RichTable:
    table = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False, title_justify="left")
    table.add_column("", min_width=name_width, max_width=name_width)
    for column in columns:
        table.add_column(column.heading, min_width=column.width, max_width=column.width)
    for name, *cells in zip(names, *(column.cells for column in columns), strict=True):
        if any(cells):
            table.add_row(Text(name), *cells)
    return table
