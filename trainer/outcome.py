"""What a run found: metrics of its best weights, and what training cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from crossmedia.disk import replacing
from crossmedia.imgserver.client import FetchStats, Status
from crossmedia.trainer import processes
from crossmedia.trainer.doubts import doubts, of_one_class
from crossmedia.trainer.evaluate import measure, predict, predictions_table
from crossmedia.trainer.feed import Feed
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
    return {**found, "doubts": _doubts(found, labels), "notes": model.notes(), "train": _cost(run)}


def _cost(run: Run) -> dict[str, Any]:
    """What training took."""
    state, samples, images = run.state, run.feed.samples, run.feed.images
    stats = stats_of_all(run.feed)
    rows_on_disk = sum(samples.rows(split) for split in ("train", "validation", "test"))
    return {
        "epochs": state.epoch,
        "best_epoch": state.best_epoch + 1,
        "seconds": state.seconds,
        "samples_per_s": state.rows_per_s,
        "fetch_wait_s": state.wait_s if images.dim else 0.0,
        "bytes_per_sample": samples.size_bytes / rows_on_disk,
        "items_held_out": len(samples.unseen.get("item_id", ())),
        "images_fetched": stats.unique,
        "images_per_s": stats.unique / stats.seconds if stats.seconds else 0.0,
        "images_computed": stats.computed,
        "images_missing": stats.missing,
        "retries": stats.retries,
        "bytes_received": stats.bytes_received,
        "head_bytes": stats.head_bytes_sent + stats.head_bytes_received,
        "processes": processes.world(),
        "head_parameters": sum(p.numel() for p in images.parameters()),
        "staleness": float(np.mean(images.staleness)) if images.staleness else 0.0,
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }


def _doubts(found: dict[str, Any], labels: tuple[str, ...]) -> list[str]:
    """What speaks against the model, in sentences."""
    said = [one for one in [of_one_class("validation", found["validation"]["all"])] if one]
    said += doubts("test", found["test"]["all"])
    for label in labels[1:]:
        said += doubts(f"test (label {label})", found["labels"][label]["test"]["all"])
    return said


def stats_of_all(feed: Feed) -> FetchStats:
    """What the clients of all processes fetched; nothing without images."""
    own = asdict(feed.images.stats)
    missing, missing_id = own.pop("missing"), own.pop("missing_id")
    failures = [status.name for status in Status]
    counts = processes.total(own | {name: missing.get(name, 0) for name in failures}, feed.device)
    found = {name: int(counts[name]) for name in failures if counts[name]}
    whole: dict[str, Any] = {name: counts[name] if name == "seconds" else int(counts[name]) for name in own}
    return FetchStats(**whole, missing=found, missing_id=missing_id)
