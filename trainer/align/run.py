"""A run of ``align``: opened with all that it works with, new or as an interrupted one of the same settings left it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from crossmedia.errors import TrainingDiverged
from crossmedia.features.reading.prefetch import ahead
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import Vectors
from crossmedia.trainer import processes
from crossmedia.trainer.align.batches import PairBatch, PairBatches
from crossmedia.trainer.align.learner import AlignLearner
from crossmedia.trainer.align.measure import Measured
from crossmedia.trainer.align.pairs import Pairs, pairs_of
from crossmedia.trainer.align.settings import AlignConfig
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.open_images import open_spaces, spaces_of
from crossmedia.trainer.images.places import Given
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.runs.run_folder import RunFolder, kept_said
from crossmedia.trainer.runs.state import Epochs, Trained, load_state
from crossmedia.trainer.settings import FitConfig
from crossmedia.trainer.training.averaging import Averaging

NAME = "aligned"  # of the head, as its vectors' version says it, and of a fresh folder


@dataclass
class Aligning(Epochs):
    """What has happened so far; ``rows`` are pairs.

    Attributes:
        best_recall: of the held-out images of validation; that of the start before an epoch beats it.
    """

    best_recall: float = -math.inf


@dataclass(frozen=True)
class AlignRun:
    """One head that is aligned.

    Attributes:
        config: how.
        spaces: the one space whose head learns.
        folder: where what it finds is written.
        pairs: what is learned from.
        batches: the same, in steps.
        measured: says how good a head is.
        trained: the weights, and what steps them.
        start: the weights of the head before the first step.
        state: what has happened so far.
        in_step: the learner, whose backward pass gives all processes one gradient.
        device: that trains.
    """

    config: AlignConfig
    spaces: Spaces
    folder: RunFolder
    pairs: Pairs
    batches: PairBatches
    measured: Measured
    trained: Trained
    start: Mapping[str, Tensor]
    state: Aligning
    in_step: nn.Module
    device: torch.device

    @property
    def learner(self) -> AlignLearner:
        """What learns."""
        assert isinstance(self.trained.learner, AlignLearner)
        return self.trained.learner

    @property
    def images(self) -> ImageHead:
        """Makes the vectors."""
        return self.learner.images

    @property
    def goes_on(self) -> bool:
        """Whether another epoch is trained."""
        state = self.state
        return state.epoch < self.config.epochs and state.epoch - 1 - state.best_epoch < self.config.patience

    def steps(self) -> Iterator[tuple[PairBatch, Vectors | None]]:
        """The batches of the epoch that begins, with what was fetched of their keys."""
        return ahead(self.batches.epoch(self.state.epoch), lambda batch: self.images.fetch(batch.keys))

    def checked(self, loss: float) -> float:
        """A loss that is a number.

        Raises:
            TrainingDiverged: it is none.
        """
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"The loss is {loss} at step {self.state.step}; the head has diverged. "
                f"Try a learning rate below {self.config.learning_rate}."
            )
        return loss


@contextmanager
def open_features(config: AlignConfig, samples: Samples, space: str, given: Given) -> Iterator[Spaces]:
    """The space whose head learns, over its features, with a head as it starts.

    Raises:
        BadInput: a setting is wrong.
        CrossMediaError: what the server or the way to it raised.
    """
    vectors = {name: where for name, where in config.vectors.items() if name == space}
    if not vectors and len(spaces_of(samples)) > 1:
        vectors = {space: config.store or config.server}
    of_fit = FitConfig(
        samples=config.samples,
        server=config.server,
        store="" if vectors else config.store,
        vectors=vectors,
        head=f"{space}=learn",
        head_widths=config.head_widths,
        seed=config.seed,
        timeout_s=config.timeout_s,
        device=config.device,
    )
    torch.manual_seed(config.seed)  # of layers that begin at random
    with open_spaces(of_fit, samples, given) as spaces:
        assert spaces.head is not None
        spaces.head.spec = replace(spaces.head.spec, name=NAME)
        yield spaces


@contextmanager
def open_run(
    config: AlignConfig,
    samples: Samples,
    spaces: Spaces,
    folder: RunFolder,
    device: torch.device,
    announce: Callable[[str], None],
) -> Iterator[AlignRun]:
    """A run that is ready for its first epoch, or for the one behind that which an interrupted run ended last.

    Args:
        config: how.
        samples: whose behaviours make pairs.
        spaces: of ``open_features``.
        folder: of ``claimed``.
        device: that trains.
        announce: told that the run goes on from what was kept of it.

    Raises:
        BadInput: there are no pairs, nothing to measure a head by, or what was kept is damaged.
    """
    space = spaces.learning
    pairs = pairs_of(samples, replace(config.pairs, seed=config.seed), space)
    images = next(of for _, of in spaces.items())
    assert isinstance(images, ImageHead)
    learner = AlignLearner(images, config.penalty, config.temperature).to(device)
    optimizer = torch.optim.Adam(learner.parameters(), lr=config.learning_rate, fused=True)
    trained, state = Trained(learner, [optimizer], Averaging(learner, on=False)), Aligning()
    start = {name: weight.detach().clone() for name, weight in images.state_dict().items()}
    measured = Measured.of(samples, images, space, config)
    if saved := load_state(folder.path, folder.identity, device):
        trained.restore(saved)
        state = Aligning(**saved["progress"])
        announce(f"The run in {folder.path} was interrupted: it goes on behind epoch {state.epoch}.")
    else:
        state.best_recall = measured.watched()
        trained.best = {name: weight.clone() for name, weight in learner.state_dict().items()}
    with kept_said(folder.path, state):
        batches = PairBatches(pairs, config.batch_size, config.seed)
        in_step = processes.in_step(learner)
        yield AlignRun(config, spaces, folder, pairs, batches, measured, trained, start, state, in_step, device)
