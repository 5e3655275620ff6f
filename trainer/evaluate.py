"""Predictions of a model over a split, and every metric of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from crossmedia.features.reading.prefetch import fetch_ahead
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer import processes
from crossmedia.trainer.images.image_head import ImageHead, vectors_of
from crossmedia.trainer.metrics import auc, base_log_loss, calibration, gauc, log_loss
from crossmedia.trainer.metrics.gather import gather_rows
from crossmedia.trainer.tensors import ImageVectors, TensorBatch, to_tensors

BUCKETS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20-99": (20, 99), "100+": (100, 2**62)}

Probabilities = npt.NDArray[np.float32]


class Predictor(Protocol):
    """A trained model in evaluation mode, or an exported one."""

    def probabilities(self, batch: TensorBatch, image_vectors: ImageVectors | None) -> Tensor:
        """Shape (B, L)."""
        ...


@torch.inference_mode()
def predict(
    model: Predictor, samples: Samples, split: str, images: ImageHead | None, batch_size: int, device: torch.device
) -> Probabilities:
    """Probabilities, shape (rows, L), in file order, of a model in evaluation mode.

    Several processes share the rows; each gets the probabilities of all.
    """
    batches = processes.own_rows(samples.batches(split, batch_size))
    parts = []
    for batch, fetched in fetch_ahead(batches, images.fetch if images else None):
        found = model.probabilities(to_tensors(batch, device), vectors_of(images, batch, fetched))
        parts.append(found.float().cpu().numpy())
    numbers = np.arange(samples.rows(split))
    own = numbers[numbers % batch_size % processes.world() == processes.rank()]
    rows, found_rows = gather_rows(own, np.concatenate(parts))
    probabilities: Probabilities = np.empty_like(found_rows)
    probabilities[rows] = found_rows
    return probabilities


def predictions_table(probabilities: Probabilities, labels: tuple[str, ...]) -> pa.Table:
    """Probabilities, shape (rows, L), as columns: ``probability``, and ``probability_<label>`` for the other labels."""
    names = ["probability", *(f"probability_{label}" for label in labels[1:])]
    return pa.table({name: probabilities[:, number] for number, name in enumerate(names)})


def scores_table(samples: Samples, split: str, probabilities: Probabilities, labels: tuple[str, ...]) -> pa.Table:
    """Predictions of a split beside what each row can be joined by.

    Args:
        samples: the folder.
        split: which rows.
        probabilities: shape (rows, L), in file order.
        labels: which labels they are of, L of them.

    Returns:
        ``timestamp``, ``raw_user_id`` and ``raw_item_id``, which are the keys of the log; ``label``, of the first of
        ``labels``, and ``label_<label>`` of the others; and what ``predictions_table`` gives.
    """
    names = ["label", *(f"label_{label}" for label in labels[1:])]
    frame = samples.frame(split, ["timestamp", "raw_item_id", *(label_column(samples, label) for label in labels)])
    time, item, *of_labels = frame.columns
    scored = predictions_table(probabilities, labels)
    columns = [time, _raw_users(samples, split), item, *of_labels, *scored.columns]
    return pa.table(columns, names=["timestamp", "raw_user_id", "raw_item_id", *names, *scored.column_names])


def _raw_users(samples: Samples, split: str) -> pa.ChunkedArray:
    """The users of a split as the log has them; of samples of former releases null where training has none."""
    if "raw_user_id" in samples.head(split, 1)[0]:
        return samples.frame(split, ["raw_user_id"])["raw_user_id"]
    known = pa.concat_arrays([pa.nulls(1, pa.string()), samples.vocabulary.values["user_id"]])
    return pa.chunked_array([known.take(samples.frame(split, ["user_id"])["user_id"].combine_chunks())])


def label_column(samples: Samples, label: str) -> str:
    """The column of a label; of the first one when it is empty."""
    return "label" if label in ("", samples.labels[0]) else f"label_{label}"


def measure(samples: Samples, split: str, probabilities: Probabilities, label: str = "") -> dict[str, Any]:
    """Metrics of a split: over all rows, over rows whose item has no training row, and by item-count bucket.

    Args:
        samples: the folder.
        split: which rows.
        probabilities: shape (rows,), in file order.
        label: which label they are of; the first when it is not given.

    GAUC is over users that training knows: the others are one place of the vocabulary, and cannot be told apart.

    Returns:
        ``all``, ``unseen_items``, ``by_item_count``, each with the ``gauc_users`` that GAUC counts of its ``users``;
        where items were held out entirely, their rows of the test part are one more part, ``held_out_items``.
    """
    held_out = ["held_out"] if samples.has_held_out and split == "test" else []
    column = label_column(samples, label)
    table = samples.frame(split, [column, "user_id", "item_id", *held_out])
    labels, users, items = (np.asarray(table[name].combine_chunks()) for name in (column, "user_id", "item_id"))
    # Place 0 is every unknown item at once; none of them was a target in training.
    counts = np.where(items == 0, 0, samples.item_counts()[items])

    def metrics(chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        y, p = labels[chosen], probabilities[chosen]
        if not len(y):
            return {"rows": 0}
        known = users[chosen] > 0  # place 0 is every unknown user at once, whose rows are nobody's to order
        grouped = gauc(y[known], p[known], users[chosen][known])
        return {
            "rows": len(y),
            "positives": int(y.sum()),
            "auc": _finite(auc(y, p)),
            "gauc": _finite(grouped.value),
            "gauc_users": grouped.users,
            "users": len(np.unique(users[chosen][known])),
            "log_loss": log_loss(y, p),
            "base_log_loss": base_log_loss(y),
            "calibration": _finite(calibration(y, p)),
        }

    parts = {
        "all": metrics(np.ones(len(labels), dtype=np.bool_)),
        "unseen_items": metrics(counts == 0),
        "by_item_count": {name: metrics((counts >= low) & (counts <= high)) for name, (low, high) in BUCKETS.items()},
    }
    if held_out:
        parts["held_out_items"] = metrics(np.asarray(table["held_out"].combine_chunks()) > 0)
    return parts


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
