"""A model that is served: what it is called, which one it is, and how it answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossmedia.errors import DeadlineExceeded, InvalidRequest, Overloaded, ServerUnavailable
from crossmedia.features.columns import ITEM
from crossmedia.imgserver.client import ImageClient
from crossmedia.trainer.answers import Answer
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.serving.requests import Request
from crossmedia.trainer.serving.settings import ServingConfig
from crossmedia.trainer.serving.vectors import ServedVectors

log = logging.getLogger(__name__)

DIGITS = 12  # of a digest


class Apart:
    """How far the scores of a model that runs beside are from those that were given.

    Attributes:
        candidates: that both scored.
        difference: sum of the absolute differences.
        failed: requests that it could not score.
    """

    def __init__(self) -> None:
        self.candidates, self.difference, self.failed = 0, 0.0, 0

    def observe(self, differences: npt.NDArray[np.float32]) -> None:
        """Note absolute differences, shape (n,); from one thread."""
        self.candidates += len(differences)
        self.difference += float(differences.sum())


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that is served.

    Attributes:
        name: by which requests name it.
        version: digits of the digest of its file; of a run's ``config.json``, which holds the digests of the others.
        path: of the file or folder.
        scorer: that answers.
        apart: how far it is from the one that answers, while it runs beside.
    """

    name: str
    version: str
    path: Path
    scorer: Scorer
    apart: Apart = field(default_factory=Apart)

    @classmethod
    def load(
        cls, path: Path, trust_native: str, *, config: ServingConfig, client: Callable[[str], ImageClient]
    ) -> ServedModel:
        """Read a run folder or an exported file.

        Args:
            path: of it.
            trust_native: digest of a file that may hold native code, beside those of ``config``.
            config: where vectors, names and items are.
            client: makes the client of an address.

        Raises:
            BadInput: there is no such model, or what it needs is not there.
        """
        server = {space: client(address) for space, address in config.vectors.items()} or client(config.server)
        scorer = Scorer.load(
            path,
            server=server,
            manifest=config.manifest or "",
            items=config.items or "",
            images=ServedVectors,
            trust_native=(*config.trust_native, trust_native),
        )
        return cls(name_of(path), scorer.digest[:DIGITS], path, scorer)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what it predicts."""
        return self.scorer.lineage.inputs.labels

    @property
    def vectors(self) -> str:
        """Versions of the vectors that it was trained with; empty without images."""
        return named_versions(self.scorer.lineage.versions)

    def answer(self, request: Request) -> Answer:
        """Scores of a request's candidates.

        Raises:
            InvalidRequest: reasons are asked for, and the model has none.
            BadInput: a value is not what its column takes.
        """
        if request.reasons and not self.scorer.gives_reasons:
            what = "is no run of the model 'concepts'" if self.path.is_dir() else "is an exported file"
            raise InvalidRequest(
                f"The model {self.name} gives no reasons: it {what}. Have the run folder of a model 'concepts' served "
                f"in its place (trainer serve RUN), or leave the parameter reasons out."
            )
        return self.scorer.answer(request.user, request.candidates, request.now_s, reasons=request.reasons)

    def probe(self) -> Request:
        """A request of nobody for an item that nobody knows."""
        columns = self.scorer.columns
        user = dict.fromkeys(columns.of_rows) | {name: [] for name in columns.behaviours}
        return Request(user, {name: [None] for name in columns.of_candidates} | {ITEM: ["no such item"]}, 1)

    def check_vectors(self) -> None:
        """Refuse a model whose vectors the image servers do not have; one that is away is believed.

        Raises:
            VersionMismatch, NotReady: they have others.
        """
        for space, source in self.sources().items():
            try:
                source.source.get([0])
            except (ServerUnavailable, DeadlineExceeded, Overloaded) as error:
                log.warning("the vectors of %s, space %s, could not be looked at: %s", self.path, space, error)

    def sources(self) -> dict[str, ServedVectors]:
        """Where the vectors of each space come from."""
        return {name: images for name, images in self.scorer.spaces.items() if isinstance(images, ServedVectors)}

    def share_vectors(self, other: ServedModel) -> None:
        """Use the connections and the caches of another model, in each space of which both have the same version.

        Without this a model that takes the place of another would ask for all vectors anew.
        """
        known = other.sources()
        for space, source in self.sources().items():
            if space in known and known[space].version == source.version:
                source.source.close()
                source.source = known[space].source

    def close(self, but: Collection[ImageClient] = ()) -> None:
        """Give up its connections, but those of some clients."""
        for source in self.sources().values():
            source.close(source.source not in but)


def name_of(path: Path) -> str:
    """By what a model is called: the name of its file without what stands behind the dot, or of its folder."""
    return path.resolve().name if path.is_dir() else path.stem
