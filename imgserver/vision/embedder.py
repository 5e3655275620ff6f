"""A backbone and the engine that runs it, made when it is first needed: seconds, and hundreds of megabytes."""

from __future__ import annotations

import threading
from pathlib import Path

from crossmedia.errors import StoreError
from crossmedia.imgserver.vision.backbone import Backbone
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.engines import Engine, make_engine


class Embedder:
    """Runs the backbone whose features a store holds.

    Args:
        recipe: what makes the backbone.
        version: the backbone's version in the store.
        cache: folder for converted graphs.
        threads: of the engine; 0 takes all cores.
    """

    def __init__(self, recipe: str, version: str, cache: Path, threads: int):
        self.version, self._recipe, self._cache, self._threads = version, recipe, cache, threads
        self._lock = threading.Lock()
        self._made: tuple[Backbone, Engine] | None = None

    @property
    def engine_name(self) -> str:
        """What runs it; ``none`` before it was needed."""
        return self._made[1].name if self._made else "none"

    @property
    def backbone(self) -> Backbone:
        """The backbone; made now if it was not needed before."""
        return self._get()[0]

    @property
    def engine(self) -> Engine:
        """Its engine; made now if it was not needed before."""
        return self._get()[1]

    def _get(self) -> tuple[Backbone, Engine]:
        """Both.

        Raises:
            BadInput: the backbone's files are not there any more.
            StoreError: they are not what the store's features came from.
        """
        with self._lock:
            if self._made is None:
                backbone = get_backbone(self._recipe)
                if backbone.version != self.version:
                    raise StoreError(
                        f"The backbone {self._recipe} is {backbone.version} here; the store holds features of "
                        f"{self.version}. Bring back the former weights, or run 'imgserver precompute' again."
                    )
                self._made = backbone, make_engine(backbone, self._cache, self._threads)
            return self._made
