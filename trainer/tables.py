"""Results as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def number(value: dict[str, float | None] | float | None, digits: int = 4) -> str:
    """``mean ± std``, a plain number (one seed has no deviation), or a dash."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
        return f"{value['mean']:.{digits}f}{spread}"
    return f"{value:.{digits}f}"


def comparison_table(comparison: dict[str, Any]) -> Table:
    """The rows of ``compare.json``, mean and standard deviation over the seeds."""
    seeds = comparison["seeds"]
    table = Table(
        title=f"test rows, mean ± standard deviation of {seeds} seeds" if seeds > 1 else "test rows, one seed"
    )
    for name in ("model", "AUC", "GAUC", "log loss", "RelaImpr %", "AUC unseen items"):
        table.add_column(name, no_wrap=True)
    for name in ("samples/s", "images/s", "B/sample"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison["rows"]:
        everything, train = row["all"], row["train"]
        table.add_row(
            f"{row['model']} {'+ images' if row['images'] else 'ids only'}",
            number(everything["auc"]),
            number(everything["gauc"]),
            number(everything["log_loss"]),
            number(everything["rela_impr"], 1),
            number(row["unseen_items"]["auc"]),
            f"{train['samples_per_s']:,.0f}",
            f"{train['images_per_s']:,.0f}" if row["images"] else "-",
            f"{train['bytes_per_sample']:.0f}",
        )
    if reference := comparison["reference"]:
        test = reference["test"]
        table.add_section()
        table.add_row(reference["name"], number(test["all"]), "", "", "", number(test.get("unseen_items")), "", "", "")
    return table
