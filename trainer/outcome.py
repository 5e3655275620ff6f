"""What a run found: metrics of its best weights, and what training cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from crossmedia.disk import replacing
from crossmedia.imgserver.client import FetchStats, Status
from crossmedia.scale import doubt_of_scale
from crossmedia.trainer import processes
from crossmedia.trainer.doubts import doubts, of_one_class
from crossmedia.trainer.evaluate import measure, predict, predictions_table
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.images.spaces import Missing
from crossmedia.trainer.models.rocket import booster_of
from crossmedia.trainer.runs.checkpoint import PREDICTIONS
from crossmedia.trainer.training.run import Run


def outcome(run: Run) -> dict[str, Any]:
    """Metrics of the best weights, what they say of themselves, and what training cost; writes the predictions.

    Args:
        run: with its best weights, in evaluation mode.

    Returns:
        most of what ``metrics.json`` holds.
    """
    model, feed, samples, labels = run.model, run.feed, run.feed.samples, run.model.spec.labels
    probabilities = {split: predict(model, feed, split) for split in ("validation", "test")}
    if processes.rank() == 0:
        with replacing(run.folder.path / PREDICTIONS) as part:
            pq.write_table(predictions_table(probabilities["test"], labels), part)

    def measured(n: int) -> dict[str, Any]:
        return {split: measure(samples, split, values[:, n], labels[n]) for split, values in probabilities.items()}

    of_labels = {label: measured(n) for n, label in enumerate(labels)}
    found = of_labels[labels[0]] | ({"labels": of_labels} if len(labels) > 1 else {})
    if booster := booster_of(model):
        values = predict(booster, feed, "test")
        found["booster"] = {"test": measure(samples, "test", values[:, 0], labels[0])}
    cost = _cost(run)  # of the run alone: the scale is looked at behind it
    doubts_of_run = _doubts(found, labels) + [one for one in _of_scale(feed) if one]
    return {**found, "doubts": doubts_of_run, "notes": model.notes(), "train": cost}


def _cost(run: Run) -> dict[str, Any]:
    """What training took."""
    state, samples, spaces = run.state, run.feed.samples, run.feed.spaces
    stats = list(stats_of_all(run.feed).stats.values())
    rows_on_disk = sum(samples.rows(split) for split in ("train", "validation", "test"))
    missing: Counter[str] = Counter()
    for of_space in stats:
        missing.update(of_space.missing)

    def total(name: str) -> Any:
        return sum(getattr(of_space, name) for of_space in stats)

    # Spaces are fetched side by side, so that the slowest says how long it took.
    fetch_s = max((of_space.seconds for of_space in stats), default=0.0)
    return {
        "epochs": state.epoch,
        "best_epoch": state.best_epoch + 1,
        "seconds": state.seconds,
        "samples_per_s": state.rows_per_s,
        "fetch_wait_s": state.wait_s if spaces.dims else 0.0,
        "bytes_per_sample": samples.size_bytes / rows_on_disk,
        "items_held_out": len(samples.unseen.get("item_id", ())),
        "images_fetched": total("unique"),
        "images_per_s": total("unique") / fetch_s if fetch_s else 0.0,
        "images_computed": total("computed"),
        "images_missing": dict(missing),
        "retries": total("retries"),
        "bytes_received": total("bytes_received"),
        "head_bytes": total("head_bytes_sent") + total("head_bytes_received"),
        "processes": processes.world(),
        "head_parameters": sum(p.numel() for p in spaces.parameters()),
        "staleness": float(np.mean(spaces.staleness)) if spaces.staleness else 0.0,
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }


def _doubts(found: dict[str, Any], labels: tuple[str, ...]) -> list[str]:
    """What speaks against the model, in sentences."""
    said = [one for one in [of_one_class("validation", found["validation"]["all"])] if one]
    said += doubts("test", found["test"]["all"])
    for label in labels[1:]:
        said += doubts(f"test (label {label})", found["labels"][label]["test"]["all"])
    return said


@torch.no_grad()
def _of_scale(feed: Feed) -> Iterator[str]:
    """A sentence on each space whose vectors, which do not learn, have another scale than models begin with."""
    frozen = {name: images for name, images in feed.spaces.items() if name != feed.spaces.learning}
    first = feed.samples.batches("train", feed.batch_size)
    keys = next(iter(first)).items.vectors if frozen else {}
    for name, images in frozen.items():
        vectors = images(keys[name].unique)
        if bool(vectors.ok.any()):
            yield doubt_of_scale(vectors.values[vectors.ok].square().mean().item(), f"the space {name!r}")


def stats_of_all(feed: Feed) -> Missing:
    """What the clients of all processes fetched, of each space; nothing without images."""
    return Missing({name: _of_processes(stats, feed) for name, stats in feed.spaces.stats.items()})


def _of_processes(stats: FetchStats, feed: Feed) -> FetchStats:
    own = asdict(stats)
    missing, missing_id = own.pop("missing"), own.pop("missing_id")
    failures = [status.name for status in Status]
    counts = processes.total(own | {name: missing.get(name, 0) for name in failures}, feed.device)
    found = {name: int(counts[name]) for name in failures if counts[name]}
    whole: dict[str, Any] = {name: counts[name] if name == "seconds" else int(counts[name]) for name in own}
    return FetchStats(**whole, missing=found, missing_id=missing_id)
