"""Results as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from crossmedia.words import counted

CONSTANT = "a constant, the share of positives"


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


def comparison_table(title: str, rows: list[dict[str, Any]], reference: dict[str, Any] | None = None) -> Table:
    """Rows of ``summary.rows``: mean and standard deviation over the seeds."""
    held_out = any("held_out_items" in row for row in rows)
    seeds = sorted({row["seeds"] for row in rows})
    several = f"mean ± standard deviation of {'-'.join(map(str, seeds))} seeds"
    counting = gauc_users(rows[0]["all"]) if rows else ""
    caption = f"GAUC is of users with rows of both labels: {counting}" if counting else None
    table = Table(title=f"{title}, {several if seeds[-1] > 1 else 'one seed'}", caption=caption)
    unseen = ["AUC unseen items", *(["AUC held-out items"] if held_out else [])]
    for name in ("model", "AUC", "GAUC", "log loss", "RelaImpr %", *unseen):
        table.add_column(name, no_wrap=True)
    for name in ("samples/s", "images/s", "B/sample"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        everything, train = row["all"], row["train"]
        table.add_row(
            f"{row['model']} {'+ images' if row['images'] else 'ids only'}",
            number(everything["auc"]),
            number(everything["gauc"]),
            number(everything["log_loss"]),
            number(everything["rela_impr"], 1),
            number(row["unseen_items"]["auc"]),
            *([number(row["held_out_items"]["auc"])] if held_out else []),
            f"{train['samples_per_s']:,.0f}",
            f"{train['images_per_s']:,.0f}" if row["images"] else "-",
            f"{train['bytes_per_sample']:.0f}",
        )
    base = next((row["all"]["base_log_loss"] for row in rows if row["all"].get("base_log_loss") is not None), None)
    if base is not None or reference:
        table.add_section()
    if base is not None:
        table.add_row(CONSTANT, number(0.5), number(0.5), number(base), "", number(0.5), *[""] * held_out, "", "", "")
    if reference:
        test = reference["test"]
        unseen_items = number(test.get("unseen_items"))
        table.add_row(reference["name"], number(test["all"]), "", "", "", unseen_items, *[""] * held_out, "", "", "")
    return table
