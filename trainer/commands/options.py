"""Options and output that several commands of the trainer share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from crossmedia.config import json_option
from crossmedia.errors import BadInput


class _Widths(click.ParamType):  # type: ignore[type-arg]  # generic in late releases of click only
    """A list of whole numbers: ``256,64,12``, or a list in the configuration file."""

    name = "widths"
    takes_lists = True

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        try:
            return tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no list of whole numbers separated by commas.", param, ctx)


def training_options(*, single: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of training that ``fit`` and ``compare`` share."""
    options = [
        click.option("--samples", default="samples", help="Folder that 'features build' made."),
        click.option(
            "--server",
            default="localhost:7070",
            help="Address of the image server. Several, separated by commas, are asked each for the images that it "
            "owns, if they were started with --servers or a head learns; else they are copies that take turns, as are "
            "all addresses behind dns:///NAME:PORT.",
        ),
        click.option(
            "--head",
            type=click.Choice(["frozen", "learn"]),
            default="frozen",
            help="Take vectors as the server has them, or train the net that makes them from the features.",
        ),
        click.option(
            "--store",
            default="",
            help="Take vectors, or features for a head that learns, from this store in this process: no server is "
            "asked.",
        ),
        click.option(
            "--head-widths",
            type=_Widths(),
            default="256,64,12",
            help="Widths of the layers of a head that learns, behind the feature; the last is the vector's.",
        ),
        click.option(
            "--head-activation",
            type=click.Choice(["prelu", "relu"]),
            default="prelu",
            help="Activation between its layers.",
        ),
        click.option(
            "--head-normalisation",
            type=click.Choice(["none", "layer"]),
            default="none",
            help="Normalisation of its hidden layers.",
        ),
        click.option(
            "--head-start",
            type=click.Choice(["pca", "random"]),
            default="pca",
            help="It begins as the PCA of the features, or at random.",
        ),
        click.option(
            "--head-learning-rate",
            type=click.FloatRange(min=0),
            default=0.0,
            help="Step size of Adam on the head; 0 takes --learning-rate.",
        ),
        click.option(
            "--max-staleness",
            type=click.IntRange(min=0),
            default=0,
            help="Steps that a head on servers may be ahead of the vectors of a batch; from 2 on they are asked for "
            "while earlier batches are trained.",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            help="At most so many passes over the rows; 5, more in small logs, when not given.",
        ),
        click.option(
            "--patience",
            type=click.IntRange(min=1),
            help="Stop after so many epochs without a better AUC on the validation part; 1, more in small logs, when "
            "not given.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(min=2),
            help="Rows in a step; 1024, less in small logs, when not given (docs/models.md has the rule).",
        ),
        click.option("--learning-rate", type=click.FloatRange(min=0), default=1e-3, help="Step size of Adam."),
        click.option("--width", type=click.IntRange(min=1), default=16, help="Numbers in an embedding."),
        click.option(
            "--embedding-l2",
            type=click.FloatRange(min=0),
            default=0.0,
            help="Lambda of the mini-batch aware regularisation of embeddings (DIN); 0 leaves it out.",
        ),
        click.option(
            "--id-dropout",
            type=click.FloatRange(0, 1, max_open=True),
            default=0.0,
            help="Share of a batch's items whose ids the model does not see, so that it learns what pictures and words "
            "say of items that it will not know.",
        ),
        click.option(
            "--negative-rate",
            type=click.FloatRange(0, 1, min_open=True),
            default=1.0,
            help="Share of the negative rows to train on; predictions are re-calibrated for it.",
        ),
        click.option(
            "--max-missing",
            type=click.FloatRange(0, 1),
            default=0.05,
            help="Share of images that may be missing for good; above it training stops, because a model that trains "
            "on holes looks fine and is not.",
        ),
        click.option(
            "--timeout-s", type=float, default=30.0, help="Seconds that a fetch of vectors may take, retries included."
        ),
        click.option(
            "--shard-tables",
            type=click.IntRange(min=0),
            default=0,
            help="Under torchrun, spread the rows of each table with so many ids, with gradient and optimizer state, "
            "over the processes, for vocabularies that cannot be trained in one; 0 keeps all tables in each process.",
        ),
        click.option("--device", default="", help="cpu or cuda; empty takes CUDA where there is one."),
        click.option(
            "--out",
            default="",
            help=f"Folder for what comes out; a fresh {'runs/MODEL' if single else 'runs/compare'}, numbered where "
            "that is taken, when not given.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace a finished run, or one of other settings, in that folder; else it is refused.",
        ),
        json_option,
    ]

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def for_the_log(values: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    """Values of the training options; those that were not given follow from the size of the log, and it says which."""
    from crossmedia.features.reading.samples import Samples
    from crossmedia.trainer.settings import FitConfig, suited

    rows = Samples(values["samples"]).rows("train")
    chosen = {name: value for name, value in suited(rows, values["batch_size"]).items() if values[name] is None}
    if any(value != getattr(FitConfig, name) for name, value in chosen.items()):
        text = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in chosen.items())
        announce(f"For {rows:,} training rows: {text}.")
    return values | chosen


def missing_extra(error: ImportError) -> BadInput:
    """The error that says what to install when an import fails."""
    return BadInput(
        f"This command needs the trainer's packages ({error.name} is missing). "
        f'Install them with: pip install "crossmedia[trainer]"'
    )


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
        """Print a line above the bar, on standard error."""
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show the progress."""
        self.progress.update(self.task, completed=done, total=total, description=what)


def metrics_line(found: dict[str, Any]) -> str:
    """The line that shows one part of what ``measure`` returns."""
    from crossmedia.trainer.report.tables import number

    constant = f" (a constant: {number(found['base_log_loss'])})" if "base_log_loss" in found else ""
    return (
        f"AUC {number(found['auc'])}, GAUC {number(found['gauc'])} ({found['gauc_users']} users), "
        f"log loss {number(found['log_loss'])}{constant}, {found['rows']:,} rows"
    )
