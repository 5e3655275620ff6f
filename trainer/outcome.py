"""What a run found: metrics of its best weights, and what training cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch

from crossmedia.disk import replacing
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import FetchStats, Status
from crossmedia.trainer import processes
from crossmedia.trainer.doubts import doubts, of_one_class
from crossmedia.trainer.evaluate import measure, predict, predictions_table
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.models.rocket import booster_of
from crossmedia.trainer.runs.checkpoint import PREDICTIONS
from crossmedia.trainer.runs.state import Progress

if TYPE_CHECKING:
    from crossmedia.trainer.fit import FitConfig


def outcome(
    config: FitConfig,
    samples: Samples,
    model: Model,
    images: ImageHead | None,
    device: torch.device,
    state: Progress,
    out: Path,
) -> dict[str, Any]:
    """Metrics of the best weights, what they say of themselves, and what training cost; writes the predictions.

    Args:
        config: of the run.
        samples: what it was trained on.
        model: with its best weights, in evaluation mode.
        images: likewise; None: images are off.
        device: that trains.
        state: what has happened.
        out: run folder.

    Returns:
        most of what ``metrics.json`` holds.
    """
    labels = model.spec.labels
    probabilities = {
        split: predict(model, samples, split, images, config.batch_size, device) for split in ("validation", "test")
    }
    if processes.rank() == 0:
        with replacing(out / PREDICTIONS) as part:
            pq.write_table(predictions_table(probabilities["test"], labels), part)
    found: dict[str, Any] = {
        split: measure(samples, split, values[:, 0], labels[0]) for split, values in probabilities.items()
    }
    if len(labels) > 1:
        found["labels"] = {
            label: {split: measure(samples, split, values[:, n], label) for split, values in probabilities.items()}
            for n, label in enumerate(labels)
        }
    if booster := booster_of(model):
        values = predict(booster, samples, "test", images, config.batch_size, device)
        found["booster"] = {"test": measure(samples, "test", values[:, 0], labels[0])}
    stats = stats_of_all(images, device)
    rows_on_disk = sum(samples.rows(split) for split in ("train", "validation", "test"))
    return {
        **found,
        "doubts": _doubts(found, labels),
        "notes": model.notes(),
        "train": {
            "epochs": state.epoch,
            "best_epoch": state.best_epoch + 1,
            "seconds": state.seconds,
            "samples_per_s": state.rows_per_s,
            "fetch_wait_s": state.wait_s if images else 0.0,
            "bytes_per_sample": samples.size_bytes / rows_on_disk,
            "images_fetched": stats.unique,
            "images_per_s": stats.unique / stats.seconds if stats.seconds else 0.0,
            "images_computed": stats.computed,
            "images_missing": stats.missing,
            "retries": stats.retries,
            "bytes_received": stats.bytes_received,
            "head_bytes": stats.head_bytes_sent + stats.head_bytes_received,
            "processes": processes.world(),
            "head_parameters": sum(p.numel() for p in images.parameters()) if images else 0,
            "staleness": float(np.mean(images.staleness)) if images and images.staleness else 0.0,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
    }


def _doubts(found: dict[str, Any], labels: tuple[str, ...]) -> list[str]:
    """What speaks against the model, in sentences."""
    said = [one for one in [of_one_class("validation", found["validation"]["all"])] if one]
    said += doubts("test", found["test"]["all"])
    for label in labels[1:]:
        said += doubts(f"test (label {label})", found["labels"][label]["test"]["all"])
    return said


def stats_of_all(images: ImageHead | None, device: torch.device) -> FetchStats:
    """What the clients of all processes fetched; nothing without images."""
    own = asdict(images.source.stats if images else FetchStats())
    missing, missing_id = own.pop("missing"), own.pop("missing_id")
    failures = [status.name for status in Status]
    counts = processes.total(own | {name: missing.get(name, 0) for name in failures}, device)
    found = {name: int(counts[name]) for name in failures if counts[name]}
    whole: dict[str, Any] = {name: counts[name] if name == "seconds" else int(counts[name]) for name in own}
    return FetchStats(**whole, missing=found, missing_id=missing_id)
