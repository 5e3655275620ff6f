"""Train one CTR model, early-stopped on the validation part, with vectors fetched ahead.

    crossmedia trainer fit --samples samples --model din --images --server localhost:7070 --out runs/din

The loop is below: ``fit`` opens a run, and goes through its epochs; ``train_epoch`` has the step. What a run works with
is made in ``training/run.py``. A run that was killed goes on from its last epoch when the same command is given, and
ends with the same numbers.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmedia.disk import replacing
from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.options import checked
from crossmedia.trainer import processes
from crossmedia.trainer.doubts import of_one_class
from crossmedia.trainer.evaluate import measure, predict
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.images.places import Given
from crossmedia.trainer.images.spaces import Missing, named_versions
from crossmedia.trainer.layers.sharded import whole_tables
from crossmedia.trainer.metrics.gather import gather_rows
from crossmedia.trainer.outcome import outcome, stats_of_all
from crossmedia.trainer.runs.checkpoint import HEAD, METRICS, STATE, Lineage, save_cards, save_run
from crossmedia.trainer.runs.results import made
from crossmedia.trainer.runs.run_folder import Claim, claimed
from crossmedia.trainer.runs.state import save_state
from crossmedia.trainer.runs.tracking import Tracking, tracked
from crossmedia.trainer.settings import FitConfig, identity_of, settings_of, suited
from crossmedia.trainer.training.forget import forget
from crossmedia.trainer.training.id_dropout import without_ids
from crossmedia.trainer.training.run import Run, open_feed, open_run
from crossmedia.words import counted

__all__ = ["FitConfig", "fit"]

log = logging.getLogger(__name__)

FEW_STEPS = 20  # in an epoch, below which its AUC says next to nothing


def fit(
    config: FitConfig,
    transport: Given = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    announce: Callable[[str], None] = lambda text: None,
    epoch_ended: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Train, measure, and write the run folder; a run of these settings that ended there before is not repeated.

    Args:
        config: how.
        transport: instead of a connection to ``config.server``; one for each space by name, where there are several.
        progress: told rows done, rows in all of the epoch, and a line on the state.
        announce: told that the run goes on from what was kept of it, or ended before.
        epoch_ended: told of each epoch what the learning curve has of it.

    Returns:
        what ``metrics.json`` holds, and the run folder as ``out``.

    Raises:
        BadInput: the samples or a setting are wrong, or the run folder holds another run, or is in use.
        ServerUnavailable, DeadlineExceeded, Overloaded: vectors could not be had within ``timeout_s``.
        TooManyMissingImages: more than ``max_missing`` of the images are missing, or, however few they are, all.
        TrainingDiverged: the loss, or a prediction, is no number any more.
        VersionMismatch: the server changed to another version.
        StoreError: the run folder cannot be written, the disk being full; a run that is tried again goes on.

    Example:
        >>> from crossmedia import FitConfig, fit
        >>> result = fit(FitConfig.suited_to("samples", server="localhost:7070", epochs=1))
        >>> sorted(result["test"]["all"])[:3]
        ['auc', 'base_log_loss', 'calibration']
        >>> result["train"]["epochs"]
        1
    """
    config = checked(config, FitConfig)
    with open_feed(config, transport) as feed:
        _warn_of_few_steps(config, feed.samples.rows("train"))
        _warn_of_one_version(feed)
        identity = identity_of(config, feed.samples.hash, named_versions(feed.spaces.bases))
        name = config.model if config.images else f"{config.model}-ids"
        with claimed(Claim(config.out, name, config.overwrite), identity, feed.device) as folder:
            if folder.ended is not None:
                out = str(folder.path)
                announce(f"{out} holds this very run, finished: it is not trained again; with --overwrite it is.")
                return {**folder.ended, "out": out}
            with open_run(config, feed, folder, announce) as run, _tracked(run) as tracking:
                for line in run.state.curve:  # of a run that goes on
                    tracking.epoch(line)
                while run.goes_on:
                    log_loss = train_epoch(run, progress)
                    validate(run, log_loss, announce, epoch_ended)
                    tracking.epoch(run.state.curve[-1])
                result = finish(run, announce)
                tracking.ended(result)
                return result


def _tracked(run: Run) -> AbstractContextManager[Tracking]:
    """The run in MLflow, of which one process tells."""
    versions = {f"vectors.{name}": version for name, version in run.feed.spaces.bases.items()}
    tags = {"samples": run.feed.samples.hash, **versions}
    uri = run.config.mlflow if processes.rank() == 0 else ""
    return tracked(uri, run.folder.path, asdict(run.config), tags)


def _warn_of_few_steps(config: FitConfig, rows: int) -> None:
    """A line in the log where so few steps are trained that they show little, though the rows allow more."""
    steps = math.ceil(rows / config.batch_size)
    if steps < FEW_STEPS and config.epochs < suited(rows, config.batch_size)["epochs"] and processes.rank() == 0:
        log.warning(
            "%s training rows are %s of batch_size %d, and epochs is %d: so few steps show little. Without "
            "--epochs and --batch-size (in Python: by FitConfig.suited_to) the number of rows chooses both.",
            f"{rows:,}",
            counted(steps, "step"),
            config.batch_size,
            config.epochs,
        )


def _warn_of_one_version(feed: Feed) -> None:
    """A line in the log where vectors of one version are asked for by images and by items: ids of one are wrong."""
    of: dict[str, dict[str, str]] = {}
    for name, version in feed.spaces.bases.items():
        of.setdefault(version, {})[feed.samples.spaces[name].key] = name
    for version, names in of.items():
        if len(names) > 1 and processes.rank() == 0:
            log.warning(
                "The spaces %s have vectors of one version, %s, which one asks for by the ids of images and the other "
                "by those of items. If these are not the same, one gets vectors of something else: see --vectors.",
                " and ".join(sorted(names.values())),
                version,
            )


def train_epoch(run: Run, progress: Callable[[int, int, str], None]) -> float:
    """Train on each row once; the mean log loss over its steps."""
    config, state, spaces, device = run.config, run.state, run.feed.spaces, run.feed.device
    learner, optimizers = run.trained.learner, run.trained.optimizers
    learner.train()
    # What a model draws is the same after a resume.
    torch.manual_seed((config.seed * 1_000_003 + state.epoch + 1) * processes.world() + processes.rank())
    losses, done, first_rows, total, started = [], 0, 0, run.feed.samples.rows("train"), time.monotonic()
    asked = time.monotonic()
    for fed in run.batches():
        state.wait_s += time.monotonic() - asked
        fed = replace(fed, tensors=without_ids(fed.tensors, config.id_dropout))
        loss = run.in_step(fed)
        learner.zero_grad(set_to_none=True)
        loss.backward()
        run.regularise(fed.tensors)
        for optimizer in optimizers:
            optimizer.step()
        run.trained.average.add(state.step)

        losses.append(run.checked(loss.item()))
        if state.step % 20 == 0:
            run.board.add("train/log_loss", losses[-1], state.step)
        state.step += 1
        done += fed.tensors.rows
        if state.epoch == run.first_epoch and len(losses) == 1:  # everything starts in this step
            first_rows, state.first_s = done, state.first_s + time.monotonic() - started
        progress(done * processes.world(), total, f"epoch {state.epoch + 1} log loss {np.mean(losses[-50:]):.4f}")
        Missing(spaces.stats).check(config.max_missing)
        asked = time.monotonic()
    if config.max_missing < 1:
        stats_of_all(run.feed).check_found()
    state.seconds += time.monotonic() - started
    rows = processes.total({"rows": done, "first_rows": first_rows}, device)
    state.rows, state.first_rows = state.rows + int(rows["rows"]), state.first_rows + int(rows["first_rows"])
    of_all = gather_rows(np.array(losses))[0]  # the mean over processes is that over rows
    return float(np.mean(of_all))


def validate(
    run: Run, train_log_loss: float, announce: Callable[[str], None], epoch_ended: Callable[[dict[str, Any]], None]
) -> None:
    """Measure an epoch on the validation part, keep the weights if it is the best one, and save the state."""
    state, trained, board = run.state, run.trained, run.board
    trained.learner.eval()
    found, weights = _better(run)
    auc, log_loss = found["auc"], found["log_loss"]
    line = {
        "epoch": state.epoch + 1,
        "step": state.step,
        "train_log_loss": train_log_loss,
        "validation_auc": auc,
        "validation_log_loss": log_loss,
    }
    state.curve.append(line)
    epoch_ended(line)
    run.checked(log_loss)
    if state.epoch == 0 and (alike := of_one_class("validation", found)):
        announce(f"{alike} No epoch can be told from another: all are trained, and the last one is kept.")
    if auc is not None:
        board.add("validation/auc", auc, state.step)
    board.add("validation/log_loss", log_loss, state.step)
    if auc is None or auc > state.best_auc:  # None: labels of one class, where no epoch is better
        state.best_auc, state.best_epoch = auc or 0.0, state.epoch
        trained.best = weights
    save_state(run.folder.path, run.folder.identity, trained, replace(state, epoch=state.epoch + 1))
    state.epoch += 1


def _better(run: Run) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metrics of the validation part, and the weights that they are of: the last ones, or their average if better.

    The average lags behind while a run learns fast, and has less noise when it does not.
    """
    trained = run.trained

    def measured() -> tuple[dict[str, Any], dict[str, Tensor]]:
        probabilities = predict(run.model, run.feed, "validation")
        found = measure(run.feed.samples, "validation", probabilities[:, 0], run.model.spec.labels[0])["all"]
        return found, copy.deepcopy(trained.learner.state_dict())

    last = measured()
    if not trained.average.on:
        return last
    with trained.average.in_place():
        average = measured()
    return max(last, average, key=lambda one: one[0]["auc"] or 0.0)


def finish(run: Run, announce: Callable[[str], None]) -> dict[str, Any]:
    """Measure the best weights, and write the run folder."""
    config, spaces, out = run.config, run.feed.spaces, run.folder.path
    learner, model, samples = run.trained.learner, run.model, run.feed.samples
    learner.load_state_dict(run.trained.best)
    learner.eval()
    result = outcome(run)
    result |= {"vector_version": named_versions(spaces.versions), "generations": spaces.generations}
    if said := stats_of_all(run.feed).said:
        announce(said)
    result |= {"curve": run.state.curve, **made()}
    if result["generations"] != run.generations:
        result["generations_at_start"] = run.generations
        for name, generation in spaces.generations.items():
            if generation != run.generations[name]:
                log.warning(
                    "vectors were replaced while the model was trained: the store%s went from generation %d to %d",
                    "" if name == IMAGE_SPACE else f" of the space {name!r}",
                    run.generations[name],
                    generation,
                )
    lineage = Lineage(
        samples.vocabulary_hash,
        spaces.versions,
        spaces.generations,
        model.spec,
        config.width,
        config.model,
        config.options,
        samples.hash,
        spaces.learning,
    )
    whole_tables(model)
    forget(model, samples.unseen)
    if processes.rank() == 0:
        if spaces.head is not None:
            with replacing(out / HEAD) as part:
                part.write_bytes(spaces.head.to_bytes())
        else:
            (out / HEAD).unlink(missing_ok=True)  # of an earlier run in this folder
        save_cards(out, run.cards)
        with replacing(out / METRICS) as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
        save_run(out, model, lineage, settings_of(config))
        (out / STATE).unlink(missing_ok=True)
    return {**result, "out": str(out)}
