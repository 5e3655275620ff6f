"""Align a head with behaviour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import click

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput
from crossmedia.options import options_of
from crossmedia.progress import Bar
from crossmedia.trainer.align.pair_options import PairOptions
from crossmedia.trainer.align.settings import AlignConfig
from crossmedia.words import counted

BY_SIZE = ("head_widths", "penalty", "temperature", "learning_rate", "epochs", "patience", "batch_size")
UNSET = dict.fromkeys(BY_SIZE, " When it is not given, the size of the log decides (docs/aligned-head.md).")
OWN = tuple(field.name for field in fields(AlignConfig) if field.name != "pairs")
OF_PAIRS = tuple(field.name for field in fields(PairOptions) if field.name != "seed")


@click.command(
    name="align",
    cls=Command,
    example="--samples samples --store store --out runs/aligned",
    goes_on=True,
    sections={
        "What is aligned": (
            "--samples",
            "--space",
            "--head-widths",
            "--product-digits",
            "--seed",
            "--out",
            "--overwrite",
        ),
        "Which behaviours make a pair": tuple(f"--{name.replace('_', '-')}" for name in OF_PAIRS),
        "Where features are": ("--server", "--store", "--vectors", "--max-missing", "--timeout-s"),
        "How it is trained": (
            "--epochs",
            "--patience",
            "--batch-size",
            "--learning-rate",
            "--temperature",
            "--penalty",
            "--device",
        ),
    },
)
@options_of(AlignConfig, OWN, UNSET)
@options_of(PairOptions, OF_PAIRS)
@json_option
def align_command(as_json: bool, **values: Any) -> None:
    """Align a head with behaviour, before a model sees it: what a user liked in one sitting gets vectors that are near.

    It writes a folder whose head 'imgserver precompute --head' makes vectors of, and 'trainer fit --head learn
    --warm-start' trains on. Started by torchrun, its processes train one head together.
    """
    from crossmedia.trainer import processes
    from crossmedia.trainer.align.train import align

    weights = values.pop("weights")
    pairs = PairOptions(**{name: values.pop(name) for name in OF_PAIRS if name != "weights"})
    pairs = replace(pairs, weights=pairs.weights | {name: _number(name, text) for name, text in weights.items()})
    given = {name: value for name, value in values.items() if value is not None}
    with processes.joined(values["device"]):
        first = processes.rank() == 0
        with Bar("starting", left=False, shown=first) as bar:
            announce = bar.say if first else (lambda text: None)
            config = AlignConfig.suited_to(**given, pairs=pairs)
            chosen = {name: getattr(config, name) for name in BY_SIZE if values[name] is None}
            announce("By the size of the log: " + ", ".join(_setting(*item) for item in chosen.items()) + ".")
            result = align(config, progress=bar, announce=announce)
    if first:
        click.echo(json.dumps(result) if as_json else "\n".join(_said(result)))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"--weights {name}={text!r} is no number, such as {name}=3.") from None


def _setting(name: str, value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{name.replace('_', '-')} {text}"


def _said(result: dict[str, Any]) -> Iterator[str]:
    """The lines that a run ends with."""
    for part, found in result["recall"].items():
        yield (
            f"{part}: {counted(found['queries'], 'query', 'queries')} for the next liked of {found['pool']:,} images "
            f"that no pair has"
        )
        for name in ("random", "features", "start", "aligned"):
            told = {k: value for k, value in found[name].items() if int(k) < found["pool"]}  # among fewer it is 1
            if told:
                yield f"  {name:<8} " + ", ".join(f"recall@{k} {value:.4f}" for k, value in told.items())
    yield from result["doubts"]
    best = f"best {result['best_epoch']}" if result["best_epoch"] else "none better than the start"
    yield (
        f"{result['pairs']:,} pairs of {result['users']:,} users and {result['images']:,} images; "
        f"{counted(result['epochs'], 'epoch')}, {best}; {result['pairs_per_s']:,.0f} pairs/s; "
        f"temperature {result['temperature']:.3f}"
    )
    yield f"head: {result['vector_version']} ({result['head_parameters']:,} parameters)"
    yield f"run folder: {result['out']}"
