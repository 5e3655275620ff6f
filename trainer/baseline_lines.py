"""The baselines as lines of results, so that every table made of a file of results has them."""

from __future__ import annotations

from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer.baselines import NAMES, fitted
from crossmedia.trainer.evaluate import measure
from crossmedia.trainer.runs.results import Line, key_fields, made
from crossmedia.trainer.settings import FitConfig


def baseline_lines(config: FitConfig, data: str) -> list[Line]:
    """A line for each baseline on the rows, and of the label, that runs are trained with; no key of one has a seed.

    Args:
        config: of the runs.
        data: the name people know the data by.
    """
    label = config.labels[0] if config.labels else ""
    samples = samples_of(config.samples, config.validate_on)
    found = fitted(samples, label)
    probabilities = {split: found.of(samples, split) for split in ("validation", "test")}
    lines = []
    for name in NAMES:
        run = FitConfig(config.samples, model=name, images=False, labels=config.labels, validate_on=config.validate_on)
        metrics = {split: measure(samples, split, of[name], label) for split, of in probabilities.items()}
        chosen = {"shrinkage": {"item": found.items.shrinkage, "user": found.users.shrinkage}}
        lines.append({**key_fields(run, data, samples, ""), **metrics, **chosen, "train": {}, "curve": [], **made()})
    return lines
