"""Align a head with behaviour: images that one user liked in one sitting get vectors near to each other.

    crossmedia trainer align --samples samples --store store --out runs/aligned

A stage before the CTR model: the head that ``fit --head learn`` trains, over the same features, here or on servers, is
trained on pairs of behaviours alone. A run that was killed goes on from its last epoch when the same command is given,
and ends with the same numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossmedia.disk import replacing
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import Vectors
from crossmedia.options import checked
from crossmedia.trainer import processes
from crossmedia.trainer.align.batches import PairBatch
from crossmedia.trainer.align.doubts import doubts
from crossmedia.trainer.align.learner import AlignLearner
from crossmedia.trainer.align.measure import AT, BLOCK
from crossmedia.trainer.align.run import NAME, AlignRun, open_features, open_run
from crossmedia.trainer.align.settings import AlignConfig, identity_of, space_of
from crossmedia.trainer.images.places import Given
from crossmedia.trainer.images.spaces import Missing, named_versions
from crossmedia.trainer.metrics.gather import gather_rows
from crossmedia.trainer.runs.checkpoint import ALIGNED, METRICS, STATE, save_head
from crossmedia.trainer.runs.results import made
from crossmedia.trainer.runs.run_folder import Claim, claimed
from crossmedia.trainer.runs.state import save_state

__all__ = ["AlignConfig", "align"]

Announce = Callable[[str], None]
Tell = Callable[[int, int, str], None]


def align(
    config: AlignConfig,
    transport: Given = None,
    progress: Tell = lambda done, total, what: None,
    announce: Announce = lambda text: None,
) -> dict[str, Any]:
    """Align a head, measure it, and write a folder that 'precompute --head' and 'fit --warm-start' take.

    Args:
        config: how.
        transport: instead of a connection to ``config.server``; one for each space by name, where there are several.
        progress: told pairs done, pairs in all of the epoch, and a line on the state.
        announce: told of each epoch, and that the run goes on from what was kept of it, or ended before.

    Returns:
        what ``metrics.json`` holds, and the folder as ``out``.

    Raises:
        BadInput: the samples or a setting are wrong, there are no pairs, or the folder holds another run.
        ServerUnavailable, DeadlineExceeded, Overloaded: features or vectors could not be had within ``timeout_s``.
        TooManyMissingImages: more than ``max_missing`` of the images are missing, or, however few they are, all.
        TrainingDiverged: the loss is no number any more.
        StoreError: the folder cannot be written, the disk being full; a run that is tried again goes on.

    Example:
        >>> from crossmedia import AlignConfig, align
        >>> result = align(AlignConfig.suited_to("samples", server="localhost:7070", epochs=1))
        >>> sorted(result["recall"]["validation"])[-3:]
        ['random', 'start', 'watched']
    """
    config = checked(config, AlignConfig)
    samples, device = Samples(config.samples), processes.own_device(config.device)
    with open_features(config, samples, space_of(config, samples), transport) as spaces:
        spaces.to(device)
        versions = named_versions(spaces.bases)
        processes.check_same({"samples": samples.hash, "features": versions}, device)
        identity = identity_of(config, samples.hash, versions)
        with claimed(Claim(config.out, NAME, config.overwrite), identity, device) as folder:
            if folder.ended is not None:
                out = str(folder.path)
                announce(f"{out} holds this very run, finished: it is not trained again; with --overwrite it is.")
                return {**folder.ended, "out": out}
            with open_run(config, samples, spaces, folder, device, announce) as run:
                while run.goes_on:
                    loss = train_epoch(run, progress)
                    validate(run, loss, announce)
                return finish(run, announce)


def train_epoch(run: AlignRun, progress: Tell) -> float:
    """Train on each pair once; the mean loss over its steps."""
    state, learner, (optimizer,) = run.state, run.learner, run.trained.optimizers
    learner.train()
    losses: list[float] = []
    done, started = 0, time.monotonic()
    asked = started
    for batch, fetched in run.steps():
        state.wait_s += time.monotonic() - asked
        loss = train_step(learner, run.in_step, optimizer, batch, fetched)
        losses.append(run.checked(loss))
        state.step += 1
        done += len(batch.weights)
        progress(done, len(run.pairs), f"epoch {state.epoch + 1} loss {np.mean(losses[-50:]):.4f}")
        Missing(run.spaces.stats).check(run.config.max_missing)
        asked = time.monotonic()
    Missing(run.spaces.stats).check_found()
    state.seconds += time.monotonic() - started
    state.rows += done
    return float(np.mean(gather_rows(np.array(losses))[0]))  # the mean over processes is that over pairs


def train_step(
    learner: AlignLearner,
    in_step: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: PairBatch,
    fetched: Vectors | None,
) -> float:
    """One step; its loss.

    Args:
        learner: what learns.
        in_step: of ``processes.in_step``.
        optimizer: of its parameters.
        batch: of pairs.
        fetched: what ``ImageHead.fetch`` gave for its keys.
    """
    loss: Tensor = in_step(batch, fetched)
    learner.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    learner.bound()
    return loss.item()


def validate(run: AlignRun, loss: float, announce: Announce) -> None:
    """Measure an epoch on the held-out images, keep the head if it is the best one, and save the state."""
    state, learner, k = run.state, run.learner, run.measured.k
    recall = run.measured.watched()
    line = {"epoch": state.epoch + 1, "step": state.step, "loss": loss, "recall": recall}
    state.curve.append(line | {"temperature": learner.temperature})
    announce(f"epoch {state.epoch + 1}: loss {loss:.4f}; recall@{k} of held-out images {recall:.4f}")
    if recall > state.best_recall:
        state.best_recall, state.best_epoch = recall, state.epoch
        run.trained.best = {name: weight.clone() for name, weight in learner.state_dict().items()}
    save_state(run.folder.path, run.folder.identity, run.trained, replace(state, epoch=state.epoch + 1))
    state.epoch += 1


def finish(run: AlignRun, announce: Announce) -> dict[str, Any]:
    """Measure the best head beside what it is compared with, and write the folder."""
    result = outcome(run)
    if said := Missing(run.spaces.stats).said:
        announce(said)
    if result["kept"] == "start":
        announce(
            f"No epoch beat the start in recall@{run.measured.k} of held-out images: the head is the PCA that it "
            f"started from."
        )
    out, head = run.folder.path, run.images.head
    assert head is not None
    if processes.rank() == 0:
        with replacing(out / METRICS) as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
        save_head(out, head, {ALIGNED: asdict(run.config), "identity": run.folder.identity})
        (out / STATE).unlink(missing_ok=True)
    return {**result, "out": str(out)}


def outcome(run: AlignRun) -> dict[str, Any]:
    """Recall of the start and of the best head, which is the head from here on, and what it cost."""
    state, learner, images, measured = run.state, run.learner, run.images, run.measured
    best_temperature = run.trained.best["log_temperature"]
    found: dict[str, dict[str, Any]] = {}
    images.load_state_dict(run.start)
    start_length = mean_length(run)
    for part, queries in measured.queries.items():
        found[part] = {"queries": len(queries), "pool": len(queries.pool), **measured.of_others(part, AT)}
        found[part]["start"] = measured.of_head(part, AT)
    found["validation"]["watched"] = measured.k
    learner.load_state_dict(run.trained.best)
    if state.best_epoch >= 0:
        rescale(run, start_length / mean_length(run))
    for part in measured.queries:
        found[part]["aligned"] = measured.of_head(part, AT)
    kept = "aligned" if state.best_epoch >= 0 else "start"
    others = ("start", "random") if kept == "aligned" else ("random",)
    return {
        "kept": kept,
        "recall": found,
        "doubts": [sentence for part in found for sentence in doubts(part, found[part], others)],
        "temperature": float(best_temperature.exp()),
        "pairs": len(run.pairs),
        "users": len(np.unique(run.pairs.users)),
        "images": len(run.batches.keys),
        "epochs": state.epoch,
        "best_epoch": state.best_epoch + 1,
        "steps": state.step,
        "seconds": state.seconds,
        "pairs_per_s": state.rows / state.seconds,
        "fetch_wait_s": state.wait_s,
        "processes": processes.world(),
        "head_parameters": sum(weight.numel() for weight in images.parameters()),
        "vector_version": images.version,
        "curve": state.curve,
        **made(),
    }


def mean_length(run: AlignRun) -> float:
    """Root of the mean square of the vectors of some images of the pairs."""
    rng = np.random.default_rng(run.config.seed)
    keys = run.batches.keys
    values = run.measured.vectors(np.sort(rng.choice(keys, min(BLOCK, len(keys)), replace=False)))
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


@torch.no_grad()
def rescale(run: AlignRun, factor: float) -> None:
    """Make all vectors of the head longer by a factor.

    The loss sees angles alone, so lengths drift while it falls. A CTR model takes the vectors as they are: at the mean
    length of the start, its settings are as good for them as for those of the PCA.
    """
    head = run.images.head
    assert head is not None
    head.linear[-1].weight.mul_(factor)
    head.linear[-1].bias.mul_(factor)
