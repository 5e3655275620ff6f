"""Train one model, train several side by side, and list the models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.options import options_of
from crossmedia.progress import Bar
from crossmedia.trainer.commands.options import (
    OF_ONE_RUN,
    TRAINING_SECTIONS,
    config_of,
    epoch_line,
    metrics_line,
    training_options,
)
from crossmedia.trainer.settings import CompareConfig
from crossmedia.words import counted

OF_COMPARISON = ("models", "hold_outs", "seeds", "spaces", "reference", "results", "data")


@click.command(
    name="fit",
    cls=Command,
    example="--samples samples --model din --images --out runs/din",
    goes_on=True,
    sections={
        "What is trained": (
            *("--samples", "--model", "--set", "--images", "--labels", "--seed", "--out", "--overwrite", "--mlflow"),
        ),
        **TRAINING_SECTIONS,
        "Where it starts": ("--warm-start", "--warm-up"),
    },
)
@training_options(OF_ONE_RUN)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the model, such as hidden=200,80; may be given several times. 'trainer models' lists them.",
)
@json_option
def fit_command(as_json: bool, settings: tuple[str, ...], **values: Any) -> None:
    """Train one model and write a run folder: weights, metrics, curves, predictions.

    Started by torchrun, its processes train one model together: each takes its part of every batch of --batch-size.
    """
    from crossmedia.trainer import processes
    from crossmedia.trainer.fit import fit
    from crossmedia.trainer.options import parse_options

    values["options"] = parse_options(values["model"], settings)
    with processes.joined(values["device"]):
        first = processes.rank() == 0
        with Bar("starting", left=False, shown=first) as bar:
            announce = bar.say if first else (lambda text: None)
            config = config_of(values, announce)
            result = fit(config, progress=bar, announce=announce, epoch_ended=lambda line: announce(epoch_line(line)))
    if first:
        click.echo(json.dumps(result) if as_json else "\n".join(_said(result)))


def _said(result: dict[str, Any]) -> Iterator[str]:
    """The lines that a run ends with."""
    for part, name in (("all", "test"), ("unseen_items", "test, unseen items")):
        if result["test"][part]["rows"]:
            yield f"{name}: {metrics_line(result['test'][part])}"
    for label in list(result.get("labels", {}))[1:]:
        yield f"test, label {label}: {metrics_line(result['labels'][label]['test']['all'])}"
    if "booster" in result:
        yield f"test, booster: {metrics_line(result['booster']['test']['all'])}"
    yield from result["doubts"]
    if result["notes"]:
        yield ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in result["notes"].items())
    cost = result["train"]
    if cost["head_parameters"]:
        yield f"learned head: {result['vector_version']} ({cost['head_parameters']:,} parameters)"
    together = f", {cost['processes']} processes" if cost["processes"] > 1 else ""
    yield (
        f"{counted(cost['epochs'], 'epoch')}, best {cost['best_epoch']}; {cost['samples_per_s']:,.0f} samples/s"
        f"{together}; "
        f"{counted(cost['images_fetched'], 'vector')} fetched, each once a batch, {cost['fetch_wait_s']:.1f} s waited "
        f"for them"
    )
    yield f"run folder: {result['out']}"


@click.command(cls=Command, example="--json")
@json_option
def models(as_json: bool) -> None:
    """List the models, with what each is, its paper, and the options that --set takes."""
    from crossmedia.trainer.models import MODELS
    from crossmedia.trainer.models.listing import about

    found: dict[str, dict[str, Any]] = {name: about(name)._asdict() for name in MODELS}
    if as_json:
        click.echo(json.dumps(found))
        return
    console = Console(width=110, highlight=False)
    for name, entry in found.items():
        console.print(f"[bold]{name}[/bold]  {entry['about']}")
        console.print(f"  paper: {entry['paper']}", markup=False)
        console.print(f"  --set: {', '.join(_option_text(*item) for item in entry['options'].items())}\n", markup=False)


def _option_text(name: str, default: Any) -> str:
    if name.endswith("_options"):
        return f"{name.removesuffix('_options')}.NAME"
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
    return f"{name}={text}"


@click.command(
    cls=Command,
    example="--samples samples --models embedding_mlp,din --seeds 3 --out runs/compare",
    goes_on=True,
    sections={
        "What is compared": (
            *(
                "--samples",
                "--hold-outs",
                "--models",
                "--set",
                "--spaces",
                "--seeds",
                "--out",
                "--overwrite",
                "--mlflow",
            ),
        ),
        "Where results stand": ("--results", "--data", "--reference"),
        **TRAINING_SECTIONS,
    },
)
@options_of(CompareConfig, OF_COMPARISON)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="MODEL.NAME=VALUE",
    help="An option of one of the models, such as din.hidden=200,80; may be given several times.",
)
@training_options()
@json_option
def compare(as_json: bool, settings: tuple[str, ...], **values: Any) -> None:
    """Train models with ids only and with vectors, over seeds, and say whether these helped, and who beats a mean.

    Each run is a line in the file of results. Runs that have a line there, of the same samples, vectors and settings,
    are not trained again, so that a long comparison can be run in parts. Samples without images need no server.
    """
    from crossmedia.trainer.compare import compare as work
    from crossmedia.trainer.options import parse_options_of
    from crossmedia.trainer.report.summary import vectors_text
    from crossmedia.trainer.report.tables import printed_table

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput("'trainer compare' is one process: torchrun starts 'trainer fit', one run at a time.")
    own = {name: values.pop(name) for name in OF_COMPARISON}
    with Bar("starting", left=False) as bar:
        options = parse_options_of(own["models"], settings)
        config = CompareConfig(config_of(values, bar.say), options=options, **own)
        result = work(config, announce=bar.say, progress=bar)
    if as_json:
        click.echo(json.dumps(result))
        return
    title = " ".join(filter(None, ["test rows", vectors_text(result["runs"])]))
    printed_table(title, result["rows"], result["reference"])
    click.echo("\n".join([result["sentence"], *result["doubts"], f"comparison: {result['out']}"]))
