"""Use a trained model: evaluate it, write its predictions, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossmedia.config import Command, json_option
from crossmedia.options import Several
from crossmedia.trainer.commands.options import metrics_line, vectors_options
from crossmedia.words import counted

if TYPE_CHECKING:
    from crossmedia.trainer.export.exported import Form


def _say(text: str) -> None:
    """A line on standard error."""
    click.echo(text, err=True)


@click.command(cls=Command, example="runs/din")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", default="", help="Folder of samples; the run's own when it is not given.")
@vectors_options
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", help="Rows to evaluate.")
@click.option("--timeout-s", type=float, default=30.0, help="Seconds that a fetch may take, retries included.")
@json_option
def evaluate(run: Path, split: str, as_json: bool, **values: Any) -> None:
    """Evaluate the model of the folder RUN, with vectors of the version that it was trained with."""
    from crossmedia.trainer.doubts import doubts
    from crossmedia.trainer.evaluate import evaluate as work

    found = work(run, split=split, announce=_say, **values)
    if as_json:
        click.echo(json.dumps(found))
        return
    of_labels = {f"{split}, label {label}": result for label, result in found.get("labels", {}).items()}
    for part, result in (of_labels or {split: found}).items():
        lines = [f"{part}: {metrics_line(result['all'])}"]
        if result["unseen_items"]["rows"]:
            lines.append(f"{part}, unseen items: {metrics_line(result['unseen_items'])}")
        click.echo("\n".join([*lines, *doubts(part, result["all"])]))


@click.command(
    cls=Command,
    example="runs/din --samples samples --out scores.parquet",
    sections={
        "The model": ("--exported", "--trust-native"),
        "What it scores": ("--samples", "--split", "--batch-size", "--reasons", "--out"),
        "Vectors of images": ("--server", "--store", "--vectors", "--timeout-s"),
    },
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--exported", is_flag=True, help="MODEL is what 'trainer export' wrote, not a run folder.")
@click.option(
    "--trust-native",
    type=Several(str, "digests"),
    default="",
    help="Digests (sha256), separated by commas, of exported models that may hold native code: it runs with all "
    "rights of this user.",
)
@click.option("--samples", default="samples", help="Folder that 'features build' made.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", help="Rows to score.")
@vectors_options
@click.option("--timeout-s", type=float, default=30.0, help="Seconds that a fetch may take, retries included.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1024, help="Rows at a time.")
@click.option(
    "--reasons",
    type=click.IntRange(min=0),
    default=0,
    help="So many of each row, and a sentence, beside its scores; of 'concepts' alone. 0: scores alone.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="scores.parquet",
    help="Parquet file to write (.parquet): time, user, item, labels and probabilities of each row, in the samples' "
    "order.",
)
@json_option
def score(model: Path, out: Path, split: str, as_json: bool, **values: Any) -> None:
    """Write the predictions of MODEL, a run folder or an exported model, for a file of samples."""
    from crossmedia.trainer.evaluate import score as work

    told = work(model, out, split=split, announce=_say, **values)
    rows, mean = told["rows"], told["mean_probability"]
    click.echo(
        json.dumps(told) if as_json else f"{counted(rows, 'row')} of {split}, mean probability {mean:.4f}: {out}"
    )


@click.command(cls=Command, example="runs/din --out din.pt2")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", default="", help="Folder of samples, for the vocabulary; the run's own when not given.")
@click.option("--out", type=click.Path(path_type=Path), default="model.pt2", help="The file to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["pt2", "aoti", "onnx"]),
    default="pt2",
    help="Form of the file: pt2 is a program of PyTorch, as data; aoti is native code for x86-64 CPUs and this release "
    "of PyTorch, which needs a C++ compiler here, and --trust-native where it is used; onnx is for other runtimes, "
    "too, and needs the extra onnx.",
)
@click.option(
    "--items/--no-items",
    default=True,
    help="Put the samples' item table in it, so that requests may name items by their ids alone.",
)
@json_option
def export(run: Path, samples: str, out: Path, form: Form, items: bool, as_json: bool) -> None:
    """Write the model of the folder RUN as one file that needs none of its classes; vectors are an input of it."""
    from crossmedia.trainer.export.exported import export_model
    from crossmedia.trainer.runs.sealed import file_digest

    written = export_model(run, samples, out, items=items, form=form)
    digest = file_digest(written)
    said = f"exported model: {written}" + (f"; used with --trust-native {digest}" if form == "aoti" else "")
    click.echo(json.dumps({"exported": str(written), "sha256": digest}) if as_json else said)


@click.command(cls=Command, example="runs/white --samples samples --out reasons.parquet")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", default="", help="Folder of samples; the run's own when it is not given.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", help="Rows to explain.")
@click.option("--rows", type=click.IntRange(min=0), default=0, help="Explain the first so many rows; 0: all.")
@click.option("--reasons", type=click.IntRange(min=0), default=0, help="Largest terms of each row; 0: all terms.")
@click.option("--label", default="", help="A label of the run; the first when it is not given.")
@vectors_options
@click.option("--timeout-s", type=float, default=30.0, help="Seconds that a fetch may take, retries included.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="reasons.parquet",
    help="Parquet file to write: row, term, contribution, and the behaviour that it comes from most.",
)
@json_option
def explain(run: Path, as_json: bool, **values: Any) -> None:
    """Write what each term adds to the logit of each row, for the model of the folder RUN.

    It is exact for 'concepts', whose logit is the sum; for models with a net it is an approximation.
    """
    from crossmedia.trainer.reasons.explain import explain as work

    told = work(run, announce=_say, **values)
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(
        f"{counted(told['rows'], 'row')}, {told['contributions']}: sums differ from the logits by {told['error']:.1e} "
        f"at most: {told['reasons']}"
    )
