"""The loop around a peer's step: the rule of early stopping is that of our trainer."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import torch

from benchmarks.ctr_peers.arrays import Arrays, Float32Array
from benchmarks.ctr_peers.peer import BATCH, Peer
from crossmedia.features.batch import Int64Array
from crossmedia.trainer.metrics import auc

EPOCHS = 20
PATIENCE = 1


def train(peer: Peer, training: Arrays, validation: Arrays, seed: int) -> dict[str, Any]:
    """Train until an epoch does not improve the AUC on the validation part, and restore the best weights.

    Returns:
        ``curve`` (validation AUC of each epoch), ``best_epoch`` from 1, ``seconds`` and ``samples_per_s`` of the
        training alone, batches included, and ``parameters``.
    """
    rows, beside = peer.prepare(training), peer.prepare(validation)
    best, best_epoch, seconds, curve = {}, -1, 0.0, list[float]()
    while len(curve) < EPOCHS and len(curve) - best_epoch <= PATIENCE:
        order = np.random.default_rng([seed, len(curve)]).permutation(len(training))
        started = time.perf_counter()
        peer.model.train()
        for batch in _batches(order):
            if len(batch) > 1:  # one row alone has no variance to normalise by
                peer.step(peer.batch(rows, batch))
        seconds += time.perf_counter() - started
        curve.append(auc(validation.labels, predict(peer, beside, len(validation))))
        if best_epoch < 0 or curve[-1] > curve[best_epoch]:
            best, best_epoch = copy.deepcopy(peer.model.state_dict()), len(curve) - 1
    peer.model.load_state_dict(best)
    return {
        "curve": curve,
        "best_epoch": best_epoch + 1,
        "seconds": seconds,
        "samples_per_s": len(training) * len(curve) / seconds,
        "parameters": sum(parameter.numel() for parameter in peer.model.parameters()),
    }


def predict(peer: Peer, prepared: Any, rows: int) -> Float32Array:
    """Probabilities of all rows, in their order, shape (R,)."""
    peer.model.eval()
    with torch.no_grad():
        return np.concatenate([peer.predict(peer.batch(prepared, batch)) for batch in _batches(np.arange(rows))])


def _batches(order: Int64Array) -> list[Int64Array]:
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
