"""``crossmedia trainer``: the group of commands."""

from __future__ import annotations

import click

from crossmedia.allocator import keep_freed_memory
from crossmedia.config import Group, config_option
from crossmedia.trainer.commands.aligning import align_command
from crossmedia.trainer.commands.reporting import report, results
from crossmedia.trainer.commands.scoring import evaluate, explain, export, score
from crossmedia.trainer.commands.serving import health, serve, stop, switch
from crossmedia.trainer.commands.training import compare, fit_command, models

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Train": (models, align_command, fit_command, compare),
    "Look": (evaluate, results, report),
    "Use": (score, explain, export),
    "Serve": (serve, health, switch, stop),
}


@click.group(cls=Group, name="trainer", sections=SECTIONS)
@config_option
def trainer(config: str | None) -> None:
    """Train and compare CTR models on samples, with image vectors fetched on demand."""
    keep_freed_memory()
