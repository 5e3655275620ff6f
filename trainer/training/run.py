"""A run of ``fit``: opened with all that it works with, new or as an interrupted one of the same settings left it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput, TrainingDiverged
from crossmedia.features.reading.sampling import keep_negatives
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer import processes
from crossmedia.trainer.feed import Fed, Feed
from crossmedia.trainer.images.open_images import open_spaces, spaces_of
from crossmedia.trainer.images.places import Given, learning_space
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.sharded import shard_tables
from crossmedia.trainer.models import make, model_class
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.room import COPIES, check_model_fits
from crossmedia.trainer.runs.board import Board
from crossmedia.trainer.runs.run_folder import BOARD, RunFolder, kept_said
from crossmedia.trainer.runs.state import Progress, Trained, load_state
from crossmedia.trainer.settings import FitConfig
from crossmedia.trainer.training.averaging import Averaging
from crossmedia.trainer.training.forget import check_can_forget
from crossmedia.trainer.training.learner import Learner
from crossmedia.trainer.training.regularise import AfterBackward, mini_batch_aware
from crossmedia.trainer.training.warm_start import started_from, starts_from_head_alone, warm_start


@dataclass(frozen=True)
class Run:
    """One model that is trained.

    Attributes:
        config: how.
        feed: the samples, and the vectors of their items.
        folder: where what it finds is written.
        model: what is trained, without the head that makes vectors.
        trained: the weights, and what steps them.
        state: what has happened so far.
        in_step: the learner, whose backward pass gives all processes one gradient.
        regularise: called after each backward pass.
        board: takes the curves.
        generations: of each space's store, when the run was opened.
        first_epoch: that this process trains, from 0 on.
        cards: what the numbers of vectors mean, of the spaces whose numbers are concepts.
    """

    config: FitConfig
    feed: Feed
    folder: RunFolder
    model: Model
    trained: Trained
    state: Progress
    in_step: nn.Module
    regularise: AfterBackward
    board: Board
    generations: dict[str, int]
    first_epoch: int
    cards: dict[str, ConceptCard] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        """Whether another epoch is trained."""
        state = self.state
        return state.epoch < self.config.epochs and state.epoch - state.best_epoch <= self.config.patience

    def batches(self) -> Iterator[Fed]:
        """The rows of this process in the epoch that begins, in its order, with what was fetched of their vectors."""
        config, samples = self.config, self.feed.samples
        batches = samples.batches("train", config.batch_size, shuffle_seed=config.seed, epoch=self.state.epoch)
        label = self.model.spec.labels[0]
        batches = keep_negatives(batches, label, config.negative_rate, config.seed, self.state.epoch)
        return self.feed.of(processes.own_rows(batches))

    def checked(self, loss: float) -> float:
        """A loss that is a number.

        Raises:
            TrainingDiverged: it is none.
        """
        config = self.config
        if not math.isfinite(loss):
            of_head = f", and of the head below {config.head_learning_rate}" if config.head_learning_rate else ""
            raise TrainingDiverged(
                f"The loss is {loss} at step {self.state.step}; the model has diverged. "
                f"Try a learning rate below {config.learning_rate}{of_head}."
            )
        return loss


@contextmanager
def open_feed(config: FitConfig, transport: Given) -> Iterator[Feed]:
    """The samples of a run and the vectors of their items, whose versions are fixed from here on.

    Raises:
        BadInput: model, samples and vectors do not go together, or processes have different ones.
        CrossMediaError: what the server or the way to it raised.
    """
    teaches = model_class(config.model).teaches_head  # before anybody is asked for vectors
    samples = samples_of(config.samples, config.validate_on)
    if not teaches and learning_space(config, list(config.vectors or spaces_of(samples))):
        raise BadInput(f"{config.model} has no gradient for a head to learn from; train it with --head frozen.")
    if config.images and not spaces_of(samples):
        raise BadInput(
            f"The samples in {config.samples} have no images, and no vectors by item; train with --no-images."
        )
    device = processes.own_device(config.device)
    torch.manual_seed(config.seed)  # of a head that begins at random
    with open_spaces(config, samples, transport) as spaces:
        processes.check_same({"samples": samples.hash, "vectors": named_versions(spaces.bases)}, device)
        yield Feed(samples, spaces.to(device), config.batch_size, device)


@contextmanager
def open_run(config: FitConfig, feed: Feed, folder: RunFolder, announce: Callable[[str], None]) -> Iterator[Run]:
    """A run that is ready for its first epoch, or for the one behind that which an interrupted run ended last.

    Args:
        config: how it is trained.
        feed: of ``open_feed``.
        folder: of ``claimed``.
        announce: told that the run goes on from what was kept of it.

    Raises:
        BadInput: a setting is wrong, or what was kept is damaged.
    """
    samples, spaces, device = feed.samples, feed.spaces, feed.device
    generations, cards = spaces.generations, spaces.cards()
    torch.manual_seed(config.seed)
    spec = InputSpec.of(samples, spaces.dims, config.labels)
    if config.negative_rate < 1 and len(spec.labels) > 1:
        raise BadInput("Sampled negatives are re-calibrated for one label only: train one, or keep them all.")
    # Rows that are spread over processes are whole in each of them only until training begins.
    copies = 1 if config.shard_tables and processes.world() > 1 else COPIES
    check_model_fits(config.model, spec, config.width, config.options, device, copies)
    model = make(config.model, spec, config.width, config.options).to(device)
    model.sampled(config.negative_rate)
    check_can_forget(model, samples.unseen)
    learns = spaces.head is not None
    if config.warm_start and not starts_from_head_alone(config.warm_start, learns=learns):
        warm_start(model, config.warm_start, samples, spaces.bases, partial=config.warm_up == "partial")
    model.acquaint(torch.from_numpy(samples.item_counts()), cards)
    apart = [f"model.{name}" for name in shard_tables(model, config.shard_tables, device)]
    learner = Learner(model, spaces)
    optimizers = model.optimizers(config.learning_rate)
    if spaces.head is not None:
        step = config.head_learning_rate or config.learning_rate
        optimizers.append(torch.optim.Adam(spaces.parameters(), lr=step, fused=True))
    average = Averaging(learner, config.averaging and model.averages)
    trained, state = Trained(learner, optimizers, average), Progress()
    if saved := load_state(folder.path, folder.identity, device):
        trained.restore(saved)
        state = Progress(**saved["progress"])
        announce(f"The run in {folder.path} was interrupted: it goes on behind epoch {state.epoch}.")
    elif config.warm_start:
        announce(started_from(config, spaces))
    with kept_said(folder.path, state), ExitStack() as opened:
        model.prepare(feed.first_rows(config.seed), config.seed)
        regularise = mini_batch_aware(model, samples, config.embedding_l2, config.id_dropout)
        board = Board(folder.path / BOARD if processes.rank() == 0 else None, state.step)
        opened.callback(board.close)
        in_step = processes.in_step(learner, apart)
        run = Run(config, feed, folder, model, trained, state, in_step, regularise, board, generations, state.epoch)
        yield replace(run, cards=cards)
