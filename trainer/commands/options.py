"""What several commands of the trainer share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from crossmedia.options import Function, options_of
from crossmedia.trainer.settings import FitConfig, suited

OF_ONE_RUN = ("model", "images", "labels", "warm_start", "warm_up", "seed")  # what 'trainer compare' sets, or leaves
UNSET = {
    "epochs": f" When it is not given: {FitConfig.epochs}, more in small logs.",
    "patience": f" When it is not given: {FitConfig.patience}, more in small logs.",
    "batch_size": f" When it is not given: {FitConfig.batch_size}, less in small logs (docs/models.md has the rule).",
}


def training_options(own: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Options of training, which ``fit`` and ``compare`` share, behind those that a command has of its own."""
    shared = [field.name for field in fields(FitConfig) if field.name not in ("options", *OF_ONE_RUN)]
    return options_of(FitConfig, [*own, *shared], UNSET)


def vectors_options(function: Function) -> Function:
    """Where vectors come from."""
    return options_of(FitConfig, ("server", "store"))(function)


def for_the_log(values: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    """Values of options of training, with those that nobody gave chosen for the size of the log; says which."""
    from crossmedia.features.reading.samples import Samples

    rows = Samples(values["samples"]).rows("train")
    chosen = {name: value for name, value in suited(rows, values["batch_size"]).items() if values[name] is None}
    if any(value != getattr(FitConfig, name) for name, value in chosen.items()):
        text = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in chosen.items())
        announce(f"For {rows:,} training rows: {text}.")
    return values | chosen


class Bar:
    """A progress bar on standard error that starts anew with each epoch.

    Args:
        shown: whether to draw it; where standard error is no terminal it is not.
    """

    def __init__(self, *, shown: bool = True) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
        self.task = self.progress.add_task("starting", total=None)

    def say(self, text: str) -> None:
        """A line above the bar, on standard error."""
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show how far it is."""
        self.progress.update(self.task, completed=done, total=total, description=what)


def metrics_line(found: dict[str, Any]) -> str:
    """A line of a part of ``measure``."""
    from crossmedia.trainer.report.tables import number

    constant = f" (a constant: {number(found['base_log_loss'])})" if "base_log_loss" in found else ""
    return (
        f"AUC {number(found['auc'])}, GAUC {number(found['gauc'])} ({found['gauc_users']} users), "
        f"log loss {number(found['log_loss'])}{constant}, {found['rows']:,} rows"
    )
