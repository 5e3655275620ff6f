"""The run of a report whose photos and impressions are drawn, with its samples and vectors at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.spec import BY_IMAGE
from crossmedia.imgserver.client import ImageClient
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.open_images import images_of, places_of
from crossmedia.trainer.images.places import Sources, closing_places
from crossmedia.trainer.images.spaces import Spaces, named_versions
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.models.din import DIN
from crossmedia.trainer.reasons.contributions import is_additive
from crossmedia.trainer.report.shown_runs import run_folder
from crossmedia.trainer.runs.checkpoint import Lineage, load_cards, load_model
from crossmedia.trainer.runs.results import Line
from crossmedia.trainer.settings import ReportConfig

BATCH, TIMEOUT_S = 1024, 20.0


@dataclass(frozen=True)
class LoadedRun:
    """A run with vectors of photos.

    Attributes:
        folder: of the run.
        model: of it, in evaluation mode.
        lineage: what its vectors and columns are.
        fitted: its settings.
        space: the first whose vectors are of photos.
    """

    folder: Path
    model: Model
    lineage: Lineage
    fitted: Mapping[str, Any]
    space: str

    @property
    def version(self) -> str:
        """Of the vectors, by space."""
        return named_versions(self.lineage.versions)

    @property
    def cards(self) -> Mapping[str, ConceptCard]:
        """What the numbers of its vectors mean; empty of a model that is no sum of terms."""
        return load_cards(self.folder) if is_additive(self.model) else {}

    @contextmanager
    def opened(self, config: ReportConfig, samples: Samples) -> Iterator[OpenedRun]:
        """Its vectors, where a report says that they are.

        Raises:
            BadInput: the samples are others than those of the run.
            CrossMediaError: what a server or the way to it raised.
        """
        self.lineage.check_samples(samples)
        sources = Sources.of_run(self.fitted, config.server, config.store, config.vectors, config.catalogue)
        with closing_places(places_of(self.lineage.versions, sources)) as places, ExitStack() as opened:
            spaces = {}
            for name, place in places.items():
                client = opened.enter_context(ImageClient(place.source, timeout_s=TIMEOUT_S))
                learned = name == self.lineage.learned
                with sources.said():
                    spaces[name] = images_of(self.folder, self.lineage.versions[name], client, learned=learned)
            yield OpenedRun(self, Feed(samples, Spaces(spaces), BATCH, torch.device("cpu")), spaces[self.space])


@dataclass(frozen=True)
class OpenedRun:
    """A run with its rows and vectors; ``images`` are those of photos, and where the photos are."""

    run: LoadedRun
    feed: Feed
    images: StoredVectors


def loaded_run(folder: Path, lines: list[Line]) -> LoadedRun:
    """The run whose photos are drawn: the first that attends to behaviours, else that is a sum of terms, else any.

    Args:
        folder: of the comparison, or of the run.
        lines: of its results.

    Raises:
        BadInput: none was trained with vectors of photos, or their weights are elsewhere, or damaged.
    """
    with_images = [line for line in lines if line["images"]]
    if not with_images:
        raise BadInput("No run was trained with images.")
    found, away = list[LoadedRun](), ""
    for line in {line["model"]: line for line in reversed(with_images)}.values():
        place = run_folder(folder, line)
        if not place.is_dir():  # its line came from a file of results
            away = f"The weights of the run are not at {place}."
            continue
        model, lineage, fitted = load_model(place)
        keys = lineage.inputs.space_keys
        if space := next((name for name in lineage.versions if keys[name] == BY_IMAGE), ""):
            found.append(LoadedRun(place, model.eval(), lineage, fitted, space))
    if not found:
        raise BadInput(away or "The vectors of the runs are of no images.")
    return max(reversed(found), key=lambda run: (isinstance(run.model, DIN), is_additive(run.model)))
