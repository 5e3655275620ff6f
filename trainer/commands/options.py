"""Options and output that several commands of the trainer share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from crossmedia.options import Function, options_of
from crossmedia.trainer.settings import FitConfig, VectorsConfig
from crossmedia.words import counted

OF_ONE_RUN = ("model", "images", "labels", "warm_start", "warm_up", "seed")  # what 'trainer compare' sets, or leaves
UNSET = {
    "epochs": f" When it is not given: {FitConfig.epochs}, more in small logs.",
    "patience": f" When it is not given: {FitConfig.patience}, more in small logs.",
    "batch_size": f" When it is not given: {FitConfig.batch_size}, less in small logs (docs/models.md has the rule).",
    "head_widths": "",
}

# Of ``training_options`` in the help; what a command adds of its own stands before them.
TRAINING_SECTIONS = {
    "Vectors of images": ("--server", "--store", "--vectors", "--cache", "--max-missing", "--timeout-s"),
    "A head that learns": (
        *("--head", "--head-widths", "--head-activation", "--head-normalisation", "--head-start"),
        *("--head-learning-rate", "--max-staleness"),
    ),
    "How it is trained": (
        *("--epochs", "--patience", "--validate-on", "--batch-size", "--learning-rate", "--width"),
        *("--embedding-l2", "--averaging", "--id-dropout", "--negative-rate", "--device", "--shard-tables"),
    ),
}


def training_options(own: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Options of training, which ``fit`` and ``compare`` share, behind those that a command has of its own."""
    shared = [field.name for field in fields(FitConfig) if field.name not in ("options", *OF_ONE_RUN)]
    return options_of(FitConfig, [*own, *shared], UNSET)


def vectors_options(function: Function) -> Function:
    """Where vectors are now, for commands that use a run."""
    return options_of(VectorsConfig, ("server", "store", "vectors"))(function)


def config_of(values: dict[str, Any], announce: Callable[[str], None]) -> FitConfig:
    """The settings of the training options; those that were not given suit the log, and it says which."""
    from crossmedia.features.reading.samples import Samples

    config = FitConfig.suited_to(**{name: value for name, value in values.items() if value is not None})
    chosen = {name: getattr(config, name) for name in ("batch_size", "epochs", "patience") if values[name] is None}
    if any(value != getattr(FitConfig, name) for name, value in chosen.items()):
        text = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in chosen.items())
        announce(f"For {Samples(config.samples).rows('train'):,} training rows: {text}.")
    return config


def epoch_line(epoch: dict[str, Any]) -> str:
    """A line of a learning curve."""
    from crossmedia.trainer.report.tables import number

    return (
        f"epoch {epoch['epoch']}: log loss {epoch['train_log_loss']:.4f}; validation AUC "
        f"{number(epoch['validation_auc'])}, log loss {epoch['validation_log_loss']:.4f}"
    )


def metrics_line(found: dict[str, Any]) -> str:
    """A line of a part of ``measure``."""
    from crossmedia.trainer.report.tables import gauc_users, number

    constant = f" (a constant: {number(found['base_log_loss'])})" if "base_log_loss" in found else ""
    return (
        f"AUC {number(found['auc'])} (a constant: .5), GAUC {number(found['gauc'])} (a constant: .5; "
        f"{gauc_users(found)}), log loss {number(found['log_loss'])}{constant}, {counted(found['rows'], 'row')}"
    )
