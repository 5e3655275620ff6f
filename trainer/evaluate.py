"""Predictions of a model over a part of the samples, and every metric of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from crossmedia.arguments import check_places, check_seconds, check_whole
from crossmedia.disk import replacing
from crossmedia.errors import BadInput
from crossmedia.features.columns import label_column, label_columns
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer import processes
from crossmedia.trainer.export.exported import Exported
from crossmedia.trainer.export.native import trusted_digests
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.images.open_images import open_versions
from crossmedia.trainer.images.places import Sources
from crossmedia.trainer.metrics import auc, base_log_loss, calibration, gauc, log_loss
from crossmedia.trainer.metrics.gather import gather_rows
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.reasons.tables import reasons_table
from crossmedia.trainer.runs.checkpoint import Lineage, load_cards, load_model, samples_folder
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch

BUCKETS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20-99": (20, 99), "100+": (100, 2**62)}

Probabilities = npt.NDArray[np.float32]
CPU = torch.device("cpu")
Announce = Callable[[str], None]


class Predictor(Protocol):
    """A trained model in evaluation mode, or an exported one."""

    def probabilities(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Shape (B, L)."""
        ...


@torch.inference_mode()
def predict(model: Predictor, feed: Feed, split: str) -> Probabilities:
    """Probabilities, shape (rows, L), in file order, of a model in evaluation mode.

    Several processes share the rows; each gets the probabilities of all.

    Args:
        model: that predicts.
        feed: the rows, with the vectors of their items.
        split: which of them.
    """
    samples, batch_size = feed.samples, feed.batch_size
    parts = [
        model.probabilities(fed.tensors, fed.vectors(feed.spaces)).float().cpu().numpy()
        for fed in feed.of(processes.own_rows(samples.batches(split, batch_size)))
    ]
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
    keys = ["timestamp", "raw_user_id", "raw_item_id"]
    frame = samples.frame(split, [*keys, *(label_column(samples.labels, label) for label in labels)])
    rows = frame.rename_columns([*keys, *label_columns(labels).values()])
    return _beside(rows, predictions_table(probabilities, labels))


def measure(samples: Samples, split: str, probabilities: npt.NDArray[Any], label: str = "") -> dict[str, Any]:
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
    column = label_column(samples.labels, label)
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


def evaluate(
    run: str | Path,
    *,
    samples: str | Path = "",
    server: str = "",
    store: str | Path = "",
    vectors: Mapping[str, str] = MappingProxyType({}),
    split: str = "test",
    timeout_s: float = 30.0,
    announce: Announce = lambda text: None,
) -> dict[str, Any]:
    """Metrics of the model of a run, with vectors of the version that it was trained with, whichever is active.

    Args:
        run: its folder.
        samples: folder of samples; empty takes the run's own.
        server: address of the image server; a model without images asks nobody. Where nothing is given here and in the
            next two, vectors are where the run had them.
        store: take the vectors from this store in this process; no server is asked.
        vectors: address, or folder of a store, by space, for a model with several spaces.
        split: ``validation`` or ``test``, or ``train``.
        timeout_s: seconds that a fetch may take, retries included.
        announce: told which images there are no vectors of.

    Returns:
        what ``measure`` gives for the first label; with several labels also ``labels``, the same for each by name.

    Raises:
        BadInput: the folder is no run, or the samples have another vocabulary.
        VersionMismatch: the server has no vectors of that version.
        TooManyMissingImages: not one image is there.
        CrossMediaError: what else the server or the way to it raised.

    Example:
        >>> from crossmedia import evaluate
        >>> found = evaluate("runs/din", samples="samples", server="localhost:7070")
        >>> 0 <= found["all"]["auc"] <= 1
        True
    """
    check_places(run=run, samples=samples, store=store)
    check_seconds(timeout_s)
    model, lineage, config = load_model(run)
    opened = samples_of(samples_folder(run, config["samples"], samples), config.get("validate_on", "all-items"))
    lineage.check_samples(opened)
    sources = Sources.of_run(config, server, str(store), vectors)
    with open_versions(lineage.versions, opened, sources, timeout_s, announce) as spaces:
        probabilities = predict(model, Feed(opened, spaces, config["batch_size"], CPU), split)
    labels = lineage.inputs.labels
    found = {label: measure(opened, split, probabilities[:, n], label) for n, label in enumerate(labels)}
    return found[labels[0]] | ({"labels": found} if len(labels) > 1 else {})


def score(
    model: str | Path,
    out: str | Path,
    *,
    exported: bool = False,
    trust_native: Collection[str] = (),
    samples: str | Path = "samples",
    server: str = "",
    store: str | Path = "",
    vectors: Mapping[str, str] = MappingProxyType({}),
    split: str = "test",
    batch_size: int = 1024,
    reasons: int = 0,
    timeout_s: float = 30.0,
    announce: Announce = lambda text: None,
) -> dict[str, Any]:
    """Write the predictions of a model for a part of the samples, as ``scores_table`` has them.

    Args:
        model: a run folder, or an exported model.
        out: the Parquet file.
        exported: the model is what ``export_model`` wrote.
        trust_native: sha256 digests of exported files that may hold native code.
        samples: folder of samples.
        server: as for ``evaluate``, and so are the next two.
        store: a store in this process.
        vectors: by space.
        split: which rows.
        batch_size: rows at a time.
        reasons: so many of each row, and a sentence for the shopper, beside the predictions of a run of ``concepts``.
        timeout_s: seconds that a fetch may take, retries included.
        announce: told which images there are no vectors of.

    Returns:
        the file as ``scores``, its ``rows``, and their ``mean_probability``.

    Raises:
        BadInput: ``out`` is no name of a Parquet file, the model is none, has another vocabulary, or has no reasons.
        CrossMediaError: as ``evaluate``.

    Example:
        >>> from crossmedia import score
        >>> told = score("runs/din", "scores.parquet", server="localhost:7070")
        >>> told["scores"], 0 < told["mean_probability"] < 1
        ('scores.parquet', True)
    """
    check_places(model=model, out=out, samples=samples, store=store)
    check_seconds(timeout_s)
    check_whole("batch_size", batch_size)
    out = _file_for_scores(Path(model), Path(out), exported, reasons)
    predictor, lineage, fitted = _predictor(model, exported, trust_native)
    opened = Samples(samples)
    lineage.check_samples(opened)
    sources = Sources.of_run(fitted, server, str(store), vectors)
    with open_versions(lineage.versions, opened, sources, timeout_s, announce) as spaces:
        feed = Feed(opened, spaces, batch_size, CPU)
        table = scores_table(opened, split, predict(predictor, feed, split), lineage.inputs.labels)
        if isinstance(predictor, Model) and reasons:
            table = _beside(table, reasons_table(predictor, load_cards(model), feed, split, reasons))
    with replacing(out) as part:
        pq.write_table(table, part)
    return {"scores": str(out), "rows": table.num_rows, "mean_probability": pc.mean(table["probability"]).as_py()}


def _file_for_scores(model: Path, out: Path, exported: bool, reasons: int) -> Path:
    """``out``, where the model can give what is asked of it."""
    check_whole("reasons", reasons, least=0)
    if out.suffix != ".parquet":
        raise BadInput(f"--out is {out}: scores are written as Parquet. Give a name that ends in .parquet.")
    if model.is_file() and not exported:
        raise BadInput(f"{model} is a file and no run folder. If 'trainer export' wrote it, give --exported, too.")
    if exported and reasons:
        raise BadInput("An exported model gives probabilities alone. For reasons give the run folder.")
    return out


def _beside(first: pa.Table, second: pa.Table) -> pa.Table:
    return pa.table([*first.columns, *second.columns], names=[*first.column_names, *second.column_names])


def _predictor(
    model: str | Path, exported: bool, trust_native: Collection[str]
) -> tuple[Predictor, Lineage, dict[str, Any]]:
    """A model, what it was trained with, and its settings, which an exported one does not have."""
    trusted = trusted_digests(trust_native)
    if exported:
        found = Exported(model, trusted)
        return found, found.lineage, {}
    loaded, lineage, fitted = load_model(model)
    return loaded.served(), lineage, fitted
