"""Train one CTR model, early-stopped on the validation part, with image vectors fetched ahead.

    crossmedia trainer fit --samples samples --model din --images --server localhost:7070 --out runs/din

The loop is below, in ``fit``; everything before it prepares, everything after it measures. A run that was killed goes
on from its last epoch when the same command is given, and ends with the same numbers.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, TrainingDiverged
from crossmedia.features.reading.prefetch import fetch_ahead
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.sampling import keep_negatives
from crossmedia.imgserver.client import ImageClient, Transport
from crossmedia.trainer import processes
from crossmedia.trainer.doubts import of_one_class
from crossmedia.trainer.evaluate import measure, predict
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.open_images import fix_version, open_images, vectors_from
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.sharded import shard_tables, spread, spread_optimizer, whole_tables
from crossmedia.trainer.metrics.gather import gather_rows
from crossmedia.trainer.models import make, model_class
from crossmedia.trainer.outcome import outcome, stats_of_all
from crossmedia.trainer.runs.board import Board
from crossmedia.trainer.runs.checkpoint import HEAD, METRICS, STATE, Lineage, save_run
from crossmedia.trainer.runs.results import made
from crossmedia.trainer.runs.run_folder import BOARD, claimed, kept_said
from crossmedia.trainer.runs.state import Progress, load_state, save_state
from crossmedia.trainer.settings import FitConfig, identity_of
from crossmedia.trainer.tensors import to_tensors
from crossmedia.trainer.training.id_dropout import without_ids
from crossmedia.trainer.training.learner import Learner
from crossmedia.trainer.training.regularise import mini_batch_aware
from crossmedia.trainer.training.warm_start import warm_start

__all__ = ["FitConfig", "fit", "served_version"]

log = logging.getLogger(__name__)


def fit(
    config: FitConfig,
    transport: Transport | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    announce: Callable[[str], None] = lambda text: None,
    epoch_ended: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Train, measure, and write the run folder; a run of these settings that ended there before is not repeated.

    Args:
        config: how.
        transport: instead of a connection to ``config.server``.
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
    """
    teaches = model_class(config.model).teaches_head  # before anybody is asked for vectors
    if config.head == "learn" and not teaches:
        raise BadInput(f"{config.model} has no gradient for a head to learn from; train it with --head frozen.")
    samples, first = Samples(config.samples), processes.rank() == 0
    if config.images and not samples.has_images:
        raise BadInput(f"The samples in {config.samples} have no images; train with --no-images.")
    device = processes.own_device(config.device)
    torch.manual_seed(config.seed)
    with open_images(config, samples, transport) as images, ExitStack() as opened:
        version, generation = _base(images), (images.source.generation or 0) if images else 0
        processes.check_same({"samples": samples.hash, "image vectors": version}, device)
        identity = identity_of(config, samples.hash, version)
        out, ended = opened.enter_context(claimed(config, identity, device))
        if ended is not None:
            announce(f"{out} holds this very run, finished: it is not trained again; with --overwrite it is.")
            return {**ended, "out": str(out)}
        torch.manual_seed(config.seed)
        spec = InputSpec.of(samples, images.dim if images else 0, config.labels)
        if config.negative_rate < 1 and len(spec.labels) > 1:
            raise BadInput("Sampled negatives are re-calibrated for one label only: train one, or keep them all.")
        model = make(config.model, spec, config.width, config.options).to(device)
        model.sampled(config.negative_rate)
        if images is not None:
            images.to(device)
        if config.warm_start:
            warm_start(model, config.warm_start, samples, version, partial=config.warm_up == "partial")
        apart = [f"model.{name}" for name in shard_tables(model, config.shard_tables, device)]
        learner = Learner(model, images)
        optimizers = model.optimizers(config.learning_rate)
        if images is not None and images.head is not None:
            step = config.head_learning_rate or config.learning_rate
            optimizers.append(torch.optim.Adam(images.parameters(), lr=step, fused=True))
        best: dict[str, Tensor] = {}
        state = Progress()
        if saved := load_state(out, identity, device):
            like = learner.state_dict()
            learner.load_state_dict(spread(saved["model"], like))
            for optimizer, of_optimizer in zip(optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(spread_optimizer(of_optimizer, optimizer))
            best, state = spread(saved["best"], like), Progress(**saved["progress"])
            announce(f"The run in {out} was interrupted: it goes on behind epoch {state.epoch}.")
        opened.enter_context(kept_said(out, state))
        model.prepare(samples, images, config.batch_size, config.seed)
        regularise = mini_batch_aware(model, samples, config.embedding_l2)
        board = Board(out / BOARD, state.step) if first else None
        if board:
            opened.callback(board.close)
        in_step = processes.in_step(learner, apart)
        total, starting = samples.rows("train"), True

        while state.epoch < config.epochs and state.epoch - state.best_epoch <= config.patience:
            learner.train()
            # What a model draws is the same after a resume.
            torch.manual_seed((config.seed * 1_000_003 + state.epoch + 1) * processes.world() + processes.rank())
            batches = samples.batches("train", config.batch_size, shuffle_seed=config.seed, epoch=state.epoch)
            batches = keep_negatives(batches, spec.labels[0], config.negative_rate, config.seed, state.epoch)
            batches = processes.own_rows(batches)
            losses, done, first_rows, started = [], 0, 0, time.monotonic()
            asked = time.monotonic()
            for batch, fetched in fetch_ahead(batches, images.fetch if images else None, images.depth if images else 2):
                state.wait_s += time.monotonic() - asked
                tensors = without_ids(to_tensors(batch, device), config.id_dropout)
                loss = in_step(tensors, batch, fetched)
                learner.zero_grad(set_to_none=True)
                loss.backward()
                regularise(tensors)
                for optimizer in optimizers:
                    optimizer.step()

                losses.append(_finite(loss.item(), state.step, config))
                if board and state.step % 20 == 0:
                    board.add("train/log_loss", losses[-1], state.step)
                state.step += 1
                done += len(batch)
                if starting:
                    starting, first_rows, state.first_s = False, done, state.first_s + time.monotonic() - started
                progress(
                    done * processes.world(), total, f"epoch {state.epoch + 1} log loss {np.mean(losses[-50:]):.4f}"
                )
                if images is not None:
                    images.source.stats.check_missing(config.max_missing)
                asked = time.monotonic()
            if images is not None and config.max_missing < 1:
                stats_of_all(images, device).check_found()
            state.seconds += time.monotonic() - started
            rows = processes.total({"rows": done, "first_rows": first_rows}, device)
            state.rows, state.first_rows = state.rows + int(rows["rows"]), state.first_rows + int(rows["first_rows"])
            of_all = gather_rows(np.array(losses))[0]  # the mean over processes is that over rows

            learner.eval()
            probabilities = predict(model, samples, "validation", images, config.batch_size, device)
            found = measure(samples, "validation", probabilities[:, 0], spec.labels[0])
            line = {
                "epoch": state.epoch + 1,
                "step": state.step,
                "train_log_loss": float(np.mean(of_all)),
                "validation_auc": found["all"]["auc"],
                "validation_log_loss": found["all"]["log_loss"],
            }
            state.curve.append(line)
            epoch_ended(line)
            _finite(line["validation_log_loss"], state.step, config)
            auc = line["validation_auc"]
            if state.epoch == 0 and (alike := of_one_class("validation", found["all"])):
                announce(f"{alike} No epoch can be told from another: all are trained, and the last one is kept.")
            if board:
                if auc is not None:
                    board.add("validation/auc", auc, state.step)
                board.add("validation/log_loss", line["validation_log_loss"], state.step)
            if auc is None or auc > state.best_auc:  # None: labels of one class, where no epoch is better
                state.best_auc, state.best_epoch = auc or 0.0, state.epoch
                best = copy.deepcopy(learner.state_dict())
            save_state(out, identity, learner, optimizers, best, replace(state, epoch=state.epoch + 1))
            state.epoch += 1

        learner.load_state_dict(best)
        learner.eval()
        result = outcome(config, samples, model, images, device, state, out)
        result["vector_version"] = images.version if images else ""
        result["generation"] = (images.source.generation or 0) if images else 0
        if images is not None and (said := stats_of_all(images, device).missing_said):
            announce(said)
        result["curve"] = state.curve
        result |= made()
        if result["generation"] != generation:
            result["generation_at_start"] = generation
            log.warning(
                "photos were replaced while the model was trained: the store went from generation %d to %d",
                generation,
                result["generation"],
            )
        lineage = Lineage(
            samples.vocabulary_hash,
            result["vector_version"],
            result["generation"],
            spec,
            config.width,
            config.model,
            config.options,
            samples.hash,
        )
        whole_tables(model)
        if first:
            if images is not None and images.head is not None:
                with replacing(out / HEAD) as part:
                    part.write_bytes(images.head.to_bytes())
            else:
                (out / HEAD).unlink(missing_ok=True)  # of an earlier run in this folder
            with replacing(out / METRICS) as part:
                part.write_text(json.dumps(result, indent=1) + "\n")
            save_run(out, model, lineage, asdict(config))
            (out / STATE).unlink(missing_ok=True)
        return {**result, "out": str(out)}


def served_version(config: FitConfig, transport: Transport | None = None) -> str:
    """The version of the vectors, or with a head that learns the features, that a run would be trained on.

    Raises:
        ServerUnavailable, NotReady: there is none to be had.
    """
    source = transport or vectors_from(config.server, config.store)
    with ImageClient(source, timeout_s=config.timeout_s) as client:
        # Servers that each own a part may have different versions active; a head only needs the same features.
        if config.head != "frozen" and (backbone := client.infos()[0].backbone):
            return backbone
        info = fix_version(client)
        return info.version if config.head == "frozen" else info.backbone


def _base(images: ImageHead | None) -> str:
    """Version of what comes from outside the run: stored vectors, or features."""
    return "" if images is None else images.backbone or images.version


def _finite(loss: float, step: int, config: FitConfig) -> float:
    if not math.isfinite(loss):
        of_head = f", and of the head below {config.head_learning_rate}" if config.head_learning_rate else ""
        raise TrainingDiverged(
            f"The loss is {loss} at step {step}; the model has diverged. "
            f"Try a learning rate below {config.learning_rate}{of_head}."
        )
    return loss
