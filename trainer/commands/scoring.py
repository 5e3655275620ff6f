"""Use a trained model: evaluate it, write its predictions, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.trainer.commands.options import metrics_line, missing_extra

if TYPE_CHECKING:
    from crossmedia.features.reading.samples import Samples
    from crossmedia.trainer.images.image_head import ImageHead
    from crossmedia.trainer.runs.checkpoint import Lineage


def images_for(lineage: Lineage, samples: Samples, server: str, timeout_s: float) -> ImageHead | None:
    """The vectors of a model, in its own version, no matter which is active; None for a model without images."""
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.trainer.images.image_head import ImageHead
    from crossmedia.trainer.images.open_images import check_names

    if not lineage.vector_version:
        return None
    client = ImageClient(server, timeout_s=timeout_s)
    check_names(samples, client.infos()[0])
    client.version = lineage.vector_version
    return ImageHead(client)


def say_missing(images: ImageHead | None) -> None:
    """Say on standard error which images have no vectors.

    Raises:
        TooManyMissingImages: there is none of any.
    """
    if images is None:
        return
    images.source.stats.check_found()
    if said := images.source.stats.missing_said:
        click.echo(said, err=True)


@click.command(cls=Command, example="runs/din")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", default=None, help="Folder of samples; the run's own when it is not given.")
@click.option("--server", default="localhost:7070", help="Address of the image server.")
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", help="Rows to evaluate.")
@click.option("--timeout-s", type=float, default=30.0, help="Seconds that a fetch may take, retries included.")
@json_option
def evaluate(run: Path, samples: str | None, server: str, split: str, timeout_s: float, as_json: bool) -> None:
    """Evaluate the model of the folder RUN, with vectors of the version that it was trained with."""
    try:
        import torch

        from crossmedia.trainer.doubts import doubts
        from crossmedia.trainer.evaluate import measure, predict
        from crossmedia.trainer.runs.checkpoint import load_model
    except ImportError as error:
        raise missing_extra(error) from error
    from crossmedia.features.reading.samples import Samples

    model, lineage, config = load_model(run)
    opened = Samples(samples or config["samples"])
    lineage.check_samples(opened)
    images = images_for(lineage, opened, server, timeout_s)
    labels = lineage.inputs.labels
    probabilities = predict(model, opened, split, images, config["batch_size"], torch.device("cpu"))
    say_missing(images)
    found = {label: measure(opened, split, probabilities[:, n], label) for n, label in enumerate(labels)}
    if as_json:
        click.echo(json.dumps(found[labels[0]] | ({"labels": found} if len(labels) > 1 else {})))
        return
    for label, result in found.items():
        part = f"{split}{f', label {label}' if len(labels) > 1 else ''}"
        click.echo("\n".join([f"{part}: {metrics_line(result['all'])}", *doubts(part, result["all"])]))


@click.command(cls=Command, example="runs/din --samples samples --out scores.parquet")
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
    help="Parquet file to write (.parquet): time, user, item, labels and probabilities of each row, in the samples' "
    "order.",
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

        from crossmedia.trainer.evaluate import Predictor, predict, scores_table
        from crossmedia.trainer.export.exported import Exported
        from crossmedia.trainer.runs.checkpoint import load_model
    except ImportError as error:
        raise missing_extra(error) from error
    from crossmedia.disk import replacing
    from crossmedia.features.reading.samples import Samples

    if out.suffix != ".parquet":
        raise BadInput(f"--out is {out}: scores are written as Parquet. Give a name that ends in .parquet.")
    if model.is_file() and not exported:
        raise BadInput(f"{model} is a file and no run folder. If 'trainer export' wrote it, give --exported, too.")
    predictor: Predictor
    if exported:
        predictor = found = Exported(model)
        lineage = found.lineage
    else:
        loaded, lineage, _ = load_model(model)
        predictor = loaded.served()
    opened = Samples(samples)
    lineage.check_samples(opened)
    images = images_for(lineage, opened, server, timeout_s)
    probabilities = predict(predictor, opened, split, images, batch_size, torch.device("cpu"))
    say_missing(images)
    table = scores_table(opened, split, probabilities, lineage.inputs.labels)
    with replacing(out) as part:
        pq.write_table(table, part)
    mean = float(probabilities[:, 0].mean())
    if as_json:
        click.echo(json.dumps({"scores": str(out), "rows": len(table), "mean_probability": mean}))
        return
    click.echo(f"{len(table):,} rows of {split}, mean probability {mean:.4f}: {out}")


@click.command(cls=Command, example="runs/din --out din.pt2")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--samples", default="", help="Folder of samples, for the vocabulary; the run's own when not given.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="model.pt2",
    help="The file to write.",
)
@json_option
def export(run: Path, samples: str, out: Path, as_json: bool) -> None:
    """Write the model of the folder RUN as one file that needs none of its classes; vectors are an input of it."""
    try:
        from crossmedia.trainer.export.exported import export_model
        from crossmedia.trainer.runs.checkpoint import load_model
    except ImportError as error:
        raise missing_extra(error) from error
    from crossmedia.features.reading.samples import Samples

    written = export_model(run, Samples(samples or load_model(run)[2]["samples"]), out)
    click.echo(json.dumps({"exported": str(written)}) if as_json else f"exported model: {written}")
