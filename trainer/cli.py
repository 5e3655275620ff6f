"""``crossmedia``: one command with the groups imgserver, features and trainer, each imported when it is used."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from imgserver.allocator import keep_freed_memory
from imgserver.config import Command, Group, config_option, json_option, run
from imgserver.errors import BadInput

GROUPS = {
    "imgserver": ("imgserver.cli", "Run the image server, and embed catalogues of photos."),
    "features": ("features.cli", "Turn logs into samples that hold ids only, and look at them."),
    "trainer": ("trainer.cli", "Train and compare CTR models on samples, with image vectors fetched on demand."),
}


class _LazyGroup(Group):
    """Lists the groups without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in GROUPS:
            return None
        command: click.Command = getattr(importlib.import_module(GROUPS[name][0]), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in GROUPS.items()])


@click.group(cls=_LazyGroup, name="crossmedia")
@config_option
@click.version_option(version("crossmedia"), prog_name="crossmedia")
def crossmedia(config: str | None) -> None:
    """Train click-through-rate models on pictures that stay on an image server."""


def main() -> None:
    """Entry point of the command ``crossmedia``."""
    run(crossmedia, "CROSSMEDIA")


@click.group(cls=Group, name="trainer")
@config_option
def trainer(config: str | None) -> None:
    """Train and compare CTR models on samples, with image vectors fetched on demand."""
    keep_freed_memory()


def _options(*, single: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of training, which ``fit`` and ``compare`` share."""
    options = [
        click.option("--samples", default="samples", help="Folder that 'features build' made."),
        click.option("--server", default="localhost:7070", help="Address of the image server."),
        click.option("--epochs", type=click.IntRange(min=1), default=5, help="At most so many passes over the rows."),
        click.option(
            "--patience",
            type=click.IntRange(min=1),
            default=1,
            help="Stop after so many epochs without a better AUC on the validation part.",
        ),
        click.option("--batch-size", type=click.IntRange(min=2), default=1024, help="Rows in a step."),
        click.option("--learning-rate", type=float, default=1e-3, help="Step size of Adam."),
        click.option("--width", type=click.IntRange(min=1), default=16, help="Numbers in an embedding."),
        click.option(
            "--embedding-l2",
            type=click.FloatRange(min=0),
            default=0.0,
            help="Lambda of the mini-batch aware regularisation of embeddings (DIN); 0 leaves it out.",
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
        click.option("--device", default="", help="cpu or cuda; empty takes CUDA where there is one."),
        click.option("--out", default="runs/run" if single else "runs/compare", help="Folder for what comes out."),
        json_option,
    ]

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _missing_extra(error: ImportError) -> BadInput:
    return BadInput(
        f"This command needs the trainer's packages ({error.name} is missing). "
        f'Install them with: pip install "crossmedia[trainer]"'
    )


class _Bar:
    """A progress bar on standard error that starts anew with each epoch."""

    def __init__(self) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.progress.add_task("starting", total=None)

    def __call__(self, done: int, total: int, what: str) -> None:
        self.progress.update(self.task, completed=done, total=total, description=what)


def _metrics_line(found: dict[str, Any]) -> str:
    from trainer.tables import number

    return (
        f"AUC {number(found['auc'])}, GAUC {number(found['gauc'])} ({found['gauc_users']} users), "
        f"log loss {number(found['log_loss'])}, {found['rows']:,} rows"
    )


@trainer.command(name="fit", cls=Command)
@click.option("--model", default="din", help="Which model; 'trainer models' lists them.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the model, such as hidden=200,80; may be given several times. 'trainer models' lists them.",
)
@click.option("--images/--no-images", default=True, help="Train with the images' vectors, or with ids only.")
@click.option("--labels", default="", help="Labels to train, separated by commas; the first when it is not given.")
@click.option("--warm-start", default="", help="Run folder whose weights to start from, such as yesterday's.")
@click.option(
    "--warm-up",
    type=click.Choice(["partial", "full"]),
    default="partial",
    help="What to take of them: all but the weights of ids, or all.",
)
@click.option("--seed", type=int, default=0, help="Seed of the weights and of the order of the rows.")
@_options(single=True)
def fit_command(as_json: bool, settings: tuple[str, ...], labels: str, **values: Any) -> None:
    """Train one model and write a run folder: weights, metrics, curves, predictions."""
    try:
        from trainer.fit import FitConfig, fit
        from trainer.options import parse_options
    except ImportError as error:
        raise _missing_extra(error) from error

    values["options"] = parse_options(values["model"], settings)
    values["labels"] = tuple(name.strip() for name in labels.split(",") if name.strip())
    bar = _Bar()
    with bar.progress:
        result = fit(FitConfig(**values), progress=bar)
    if as_json:
        click.echo(json.dumps(result))
        return
    for part, name in (("all", "test"), ("unseen_items", "test, unseen items")):
        if result["test"][part]["rows"]:
            click.echo(f"{name}: {_metrics_line(result['test'][part])}")
    for label in list(result.get("labels", {}))[1:]:
        click.echo(f"test, label {label}: {_metrics_line(result['labels'][label]['test']['all'])}")
    if "booster" in result:
        click.echo(f"test, booster: {_metrics_line(result['booster']['test']['all'])}")
    if result["notes"]:
        click.echo(", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in result["notes"].items()))
    cost = result["train"]
    click.echo(
        f"{cost['epochs']} epochs, best {cost['best_epoch']}; {cost['samples_per_s']:,.0f} samples/s; "
        f"{cost['images_fetched']:,} vectors fetched, {cost['fetch_wait_s']:.1f} s waited for them"
    )
    click.echo(f"run folder: {values['out']}")


@trainer.command(cls=Command)
@json_option
def models(as_json: bool) -> None:
    """List the models, with what each is, its paper, and the options that --set takes."""
    try:
        from trainer.models import MODELS, model_class, options_of
    except ImportError as error:
        raise _missing_extra(error) from error

    found: dict[str, dict[str, Any]] = {
        name: {
            "about": (model_class(name).__doc__ or "").splitlines()[0],
            "paper": model_class(name).paper,
            "options": options_of(name),
        }
        for name in MODELS
    }
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


@trainer.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", default=None, help="Folder of samples; the run's own when it is not given.")
@click.option("--server", default="localhost:7070", help="Address of the image server.")
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", help="Rows to evaluate.")
@click.option("--timeout-s", type=float, default=30.0, help="Seconds that a fetch may take, retries included.")
@json_option
def evaluate(run: Path, samples: str | None, server: str, split: str, timeout_s: float, as_json: bool) -> None:
    """Evaluate the model of the folder RUN; refuses vectors of another version than it was trained with."""
    try:
        import torch

        from trainer.checkpoint import load_model
        from trainer.evaluate import measure, predict
    except ImportError as error:
        raise _missing_extra(error) from error
    from features.samples import Samples

    model, lineage, config = load_model(run)
    opened = Samples(samples or config["samples"])
    lineage.check_samples(opened)
    client = _client_for(lineage, server, timeout_s)
    labels = lineage.inputs.labels
    probabilities = predict(model, opened, split, client, config["batch_size"], torch.device("cpu"))
    found = {label: measure(opened, split, probabilities[:, n], label) for n, label in enumerate(labels)}
    if as_json:
        click.echo(json.dumps(found[labels[0]] | ({"labels": found} if len(labels) > 1 else {})))
        return
    for label, result in found.items():
        click.echo(f"{split}{f', label {label}' if len(labels) > 1 else ''}: {_metrics_line(result['all'])}")


def _client_for(lineage: Any, server: str, timeout_s: float) -> Any:
    """A client that asks for the vectors of a model; None for a model without images."""
    from imgserver.client import ImageClient

    if not lineage.vector_version:
        return None
    client = ImageClient(server, timeout_s=timeout_s)
    lineage.check_version(client.info().version)
    client.version = lineage.vector_version
    return client


@trainer.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--exported", is_flag=True, help="MODEL is what 'trainer export' wrote, not a run folder.")
@click.option("--samples", default="samples", help="Folder that 'features build' made.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", help="Rows to score.")
@click.option("--server", default="localhost:7070", help="Address of the image server.")
@click.option("--timeout-s", type=float, default=30.0, help="Seconds that a fetch may take, retries included.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1024, help="Rows at a time.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="scores.parquet",
    help="Parquet file to write: time, item, label and probability of each row, in the order of the samples.",
)
@json_option
def score(
    model: Path,
    exported: bool,
    samples: str,
    split: str,
    server: str,
    timeout_s: float,
    batch_size: int,
    out: Path,
    as_json: bool,
) -> None:
    """Write the predictions of MODEL, a run folder or an exported model, for a file of samples."""
    try:
        import pyarrow.parquet as pq
        import torch

        from trainer.checkpoint import load_model
        from trainer.evaluate import Predictor, predict, predictions_table
        from trainer.exported import Exported
    except ImportError as error:
        raise _missing_extra(error) from error
    from features.samples import Samples

    predictor: Predictor
    if exported:
        predictor = found = Exported(model)
        lineage = found.lineage
    else:
        loaded, lineage, _ = load_model(model)
        predictor = loaded.served()
    opened = Samples(samples)
    lineage.check_samples(opened)
    client = _client_for(lineage, server, timeout_s)
    probabilities = predict(predictor, opened, split, client, batch_size, torch.device("cpu"))
    table = opened.frame(split, ["timestamp", "raw_item_id", "label"])
    scored = predictions_table(probabilities, lineage.inputs.labels)
    for name in scored.column_names:
        table = table.append_column(name, scored[name])
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, out)
    mean = float(probabilities[:, 0].mean())
    if as_json:
        click.echo(json.dumps({"scores": str(out), "rows": len(table), "mean_probability": mean}))
        return
    click.echo(f"{len(table):,} rows of {split}, mean probability {mean:.4f}: {out}")


@trainer.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", default="", help="Folder of samples, for the vocabulary; the run's own when not given.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="model.pt2",
    help="The file to write; for gbdt_lr, which is no single program, the folder.",
)
@json_option
def export(run: Path, samples: str, out: Path, as_json: bool) -> None:
    """Write the model of the folder RUN as one file that needs none of its classes; vectors are an input of it."""
    try:
        from trainer.checkpoint import load_model
        from trainer.exported import export_model
    except ImportError as error:
        raise _missing_extra(error) from error
    from features.samples import Samples

    written = export_model(run, Samples(samples or load_model(run)[2]["samples"]), out)
    click.echo(json.dumps({"exported": str(written)}) if as_json else f"exported model: {written}")


@trainer.command(cls=Command)
@click.option("--models", default="embedding_mlp,din", help="Models to compare, separated by commas.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="How many seeds each.")
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file with the best AUC that any model could reach, which is known for simulated clicks only.",
)
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that each run appends its line to; results.jsonl in the folder of --out when it is not given.",
)
@click.option("--data", default="", help="Name of the data in that file; the samples' folder when it is not given.")
@_options(single=False)
def compare(models: str, seeds: int, reference: Path | None, as_json: bool, **values: Any) -> None:
    """Train models with ids only and with images, over seeds, and say whether the pictures helped.

    Each run is a line in the file of results. Runs that have a line there, of the same samples, vectors and settings,
    are not trained again, so that a long comparison can be run in parts. Samples without images need no server.
    """
    try:
        from trainer.compare import CompareConfig
        from trainer.compare import compare as work
        from trainer.fit import FitConfig
        from trainer.tables import comparison_table
    except ImportError as error:
        raise _missing_extra(error) from error

    values["results"] = values["results"] or Path(values["out"]) / "results.jsonl"
    own = {name: values.pop(name) for name in ("results", "data")}
    names = tuple(name.strip() for name in models.split(",") if name.strip())
    bar = _Bar()
    with bar.progress:
        config = CompareConfig(FitConfig(**values), names, seeds, reference=reference, **own)
        result = work(config, announce=bar.progress.console.print, progress=bar)
    if as_json:
        click.echo(json.dumps(result))
        return
    Console(width=160).print(comparison_table("test rows", result["rows"], result["reference"]))
    click.echo(result["sentence"])


@trainer.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the AUC by item count to this .png or .svg."
)
@json_option
def results(files: tuple[Path, ...], plot: Path | None, as_json: bool) -> None:
    """Tables of the results in FILES, which 'trainer compare' filled; one table for each data and settings."""
    try:
        from trainer import figures, summary
        from trainer.results import read
        from trainer.tables import comparison_table
    except ImportError as error:
        raise _missing_extra(error) from error

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
                "sentence": summary.sentence(rows),
            }
        )
        titles.append(f"{some['data']} ({summary.options_text(some)})")
    if plot:
        figures.save(figures.auc_by_item_count(found, [lines[0]["data"] for lines in found]), plot)
    if as_json:
        click.echo(json.dumps(documents))
        return
    for title, document in zip(titles, documents, strict=True):
        Console(width=160).print(comparison_table(title, document["rows"]))
        click.echo(document["sentence"] + "\n")


@trainer.command(cls=Command)
@click.argument("comparison", type=click.Path(path_type=Path))
@click.option("--server", default="localhost:7070", help="Address of the image server, for photos and vectors.")
@click.option("--seed", type=int, default=0, help="Seed that draws the photos and impressions that are shown.")
@click.option("--title", default="Were the pictures worth it?", help="Heading of the page.")
@click.option("--note", default="", help="A sentence on the data, shown below the heading.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="report.html", help="The HTML file to write."
)
@json_option
def report(comparison: Path, server: str, seed: int, title: str, note: str, out: Path, as_json: bool) -> None:
    """Draw what 'trainer compare' left in the folder COMPARISON as one HTML file that needs no network."""
    try:
        from trainer.report.page import ReportConfig, write_report
    except ImportError as error:
        raise _missing_extra(error) from error

    write_report(ReportConfig(comparison, server, seed, title, note, out))
    click.echo(json.dumps({"report": str(out), "seed": seed}) if as_json else f"report: {out}")
