"""Additive runs with their samples, vectors and photos at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.features.spec import BY_IMAGE
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.open_images import open_versions
from crossmedia.trainer.images.places import Sources
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.report.additive_runs import AdditiveRuns
from crossmedia.trainer.report.explained_rows import ExplainedRows, explained_rows
from crossmedia.trainer.report.photos import data_uris
from crossmedia.trainer.report.summary import in_words
from crossmedia.trainer.runs.checkpoint import samples_folder
from crossmedia.trainer.settings import ReportConfig

BATCH, TIMEOUT_S = 1024, 30.0


@dataclass(frozen=True)
class Opened:
    """Runs, and what they are explained with.

    Attributes:
        runs: of the report.
        samples: that they were trained with, and are judged on.
        spaces: the vectors of their versions.
        seed: that draws test rows, and items, where there are many.
    """

    runs: AdditiveRuns
    samples: Samples
    spaces: Spaces
    seed: int

    @property
    def image_space(self) -> str:
        """The first space whose vectors are of photos; empty: none is."""
        return next((name for name in self.spaces.of if self.samples.spaces[name].key == BY_IMAGE), "")

    @property
    def looks(self) -> str:
        """What of an item has concepts, in words: ``photo``, or ``photo and title``."""
        spaces = self.samples.spaces
        return in_words([*dict.fromkeys("photo" if spaces[name].key == BY_IMAGE else name for name in self.spaces.of)])

    def rows(self, ad: int = -1) -> ExplainedRows:
        """Test rows as the runs explain them, with what was shown, or with an item of the table in each."""
        return explained_rows(self.runs, Feed(self.samples, self.spaces, BATCH, torch.device("cpu")), self.seed, ad)

    def photos(self, wanted: Iterable[tuple[str, int]], max_side: int = 112) -> dict[tuple[str, int], str]:
        """Small photos by space and image id, to stand in a page; those of texts, and those that are away, are not."""
        ids: dict[str, list[int]] = {}
        for space, image_id in wanted:
            if self.samples.spaces[space].key == BY_IMAGE:
                ids.setdefault(space, []).append(image_id)
        found: dict[tuple[str, int], str] = {}
        for space, own in ids.items():
            images = self.spaces.of[space]
            assert isinstance(images, StoredVectors)
            uris = data_uris(images.source, own, max_side)
            found |= {(space, image_id): uri for image_id, uri in uris.items()}
        return found


@contextmanager
def opened(config: ReportConfig, runs: AdditiveRuns) -> Iterator[Opened]:
    """The samples and vectors of some runs.

    Raises:
        BadInput: the samples are others than those of the runs, or have no test rows.
        CrossMediaError: what a server or the way to it raised.
    """
    folder = samples_folder(config.comparison, runs.fitted["samples"], config.samples)
    samples = samples_of(folder, runs.fitted.get("validate_on", "all-items"))
    runs.lineage.check_samples(samples)
    if not samples.rows("test"):
        raise BadInput(f"The samples in {samples.folder} have no test rows: there are no users to explain it for.")
    sources = Sources.of_run(runs.fitted, config.server, config.store, config.vectors, config.catalogue)
    with open_versions(runs.lineage.versions, samples, sources, TIMEOUT_S, lambda _: None) as spaces:
        yield Opened(runs, samples, spaces, config.seed)
