"""How a model is trained: every setting with its default, and what is chosen for a log by its size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# Where things are and how long to wait change no number of a run; all others do.
PLACES = {"samples", "out", "server", "store", "timeout_s", "device", "max_missing", "overwrite"}


@dataclass(frozen=True)
class FitConfig:
    """How a model is trained.

    Attributes:
        samples: folder of samples.
        out: run folder; empty takes a fresh one (``run_folder.py``).
        model: name in ``MODELS``.
        images: train with the images' vectors.
        server: address of the image server; only asked with images. A head that learns takes several, with commas.
        head: ``frozen`` takes vectors as the server has them; ``learn`` trains the net that makes them.
        store: take vectors, or features for a head that learns, from this store in this process; no server is asked.
        head_widths: widths of a learning head behind the feature; the last one is D.
        head_activation: ``prelu`` or ``relu``.
        head_normalisation: ``none`` or ``layer``.
        head_start: ``pca``: the head begins as the PCA of the features; ``random``.
        head_learning_rate: of Adam on the head; 0 takes ``learning_rate``.
        max_staleness: steps that the head may be ahead of the vectors of a batch; from 2 on they are asked for ahead.
        seed: of weights and of the order of the rows.
        epochs: at most so many passes over the training rows.
        patience: stop after so many epochs, at least one, without a better validation AUC.
        batch_size: rows a step.
        learning_rate: of Adam.
        width: numbers in an embedding.
        options: of the model, by name.
        labels: those to train, by name; empty takes the first. The first of them decides when to stop.
        embedding_l2: lambda of the mini-batch aware regularisation of the embeddings (DIN, section 5.2); 0: none.
        id_dropout: share of a batch's items whose ids are hidden in training (``id_dropout.py``).
        negative_rate: share of the negative rows that are trained on; predictions are re-calibrated for it.
        warm_start: run folder whose weights this one starts from; empty starts anew.
        warm_up: ``full`` takes all weights, ``partial`` all but those of ids.
        max_missing: share of images that may be missing for good before training stops.
        timeout_s: seconds that a fetch may take, retries included.
        device: ``cpu``, ``cuda``, or empty: CUDA where there is one.
        shard_tables: with several processes, tables of ids with so many rows are spread over them; 0: none is.
        overwrite: replace a finished run, or another one, in the folder ``out``.
    """

    samples: str
    out: str
    model: str = "din"
    images: bool = True
    server: str = "localhost:7070"
    head: str = "frozen"
    store: str = ""
    head_widths: tuple[int, ...] = (256, 64, 12)
    head_activation: str = "prelu"
    head_normalisation: str = "none"
    head_start: str = "pca"
    head_learning_rate: float = 0.0
    max_staleness: int = 0
    seed: int = 0
    epochs: int = 5
    patience: int = 1
    batch_size: int = 1024
    learning_rate: float = 1e-3
    width: int = 16
    options: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    embedding_l2: float = 0.0
    id_dropout: float = 0.0
    negative_rate: float = 1.0
    warm_start: str = ""
    warm_up: str = "partial"
    max_missing: float = 0.05
    timeout_s: float = 30.0
    device: str = ""
    shard_tables: int = 0
    overwrite: bool = False


DEFAULTS: dict[str, Any] = {
    f.name: f.default_factory() if callable(f.default_factory) else f.default
    for f in fields(FitConfig)
    if f.name not in PLACES
}


def identity(settings: Mapping[str, Any], rows: str, version: str) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON gives it back: two runs with one identity are the same run.

    Args:
        settings: of the run, by the names of ``FitConfig``; what an older release did not name has its default.
        rows: hash of the samples.
        version: of the vectors, or of the features behind a head that learns; empty without images.
    """
    of_run = {name: settings.get(name, default) for name, default in DEFAULTS.items()}
    found: dict[str, Any] = json.loads(json.dumps({**of_run, "rows": rows, "version": version}))
    return found


def identity_of(config: FitConfig, rows: str, version: str) -> dict[str, Any]:
    """``identity`` of a configuration."""
    return identity(asdict(config), rows, version)


STEPS = 100  # in an epoch, for AUC to say something after each
LEAST_BATCH = 32


def suited(rows: int, batch_size: int | None = None) -> dict[str, int]:
    """Batch size, epochs and patience for a log of so many training rows.

    From 100 steps of 1,024 rows on they are the defaults of ``FitConfig``. In a smaller log the batch is halved until
    an epoch has 100 steps, down to 32 rows; where it still has fewer, as many epochs count for one as have 100 steps
    together.

    Args:
        rows: of training.
        batch_size: where it is given; None: it is chosen.
    """
    batch = batch_size or FitConfig.batch_size
    while not batch_size and batch > LEAST_BATCH and rows < STEPS * batch:
        batch //= 2
    longer = max(1, math.ceil(STEPS * batch / max(1, rows)))
    return {"batch_size": batch, "epochs": FitConfig.epochs * longer, "patience": FitConfig.patience * longer}
