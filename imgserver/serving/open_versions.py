"""Which versions are served: the active one unless the caller names another that the store holds."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from crossmedia.errors import NotReady, StoreError, VersionMismatch
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.head_files import load_head
from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.stores import Lookups, ServedStore
from crossmedia.imgserver.vision.embedding import Embedder
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.version import Version

log = logging.getLogger(__name__)

KEEP_IDLE_S = 600.0


@dataclass(frozen=True)
class VectorMaker:
    """What makes more vectors of a version; imported vectors have none.

    Attributes:
        table: of the version.
        embedder: makes features.
        head: makes vectors of them; None: the version is the backbone's, and its vectors are the features.
        features: where they are kept.
    """

    table: Lookups
    embedder: Embedder
    head: Head | None
    features: Space


@dataclass(frozen=True)
class OpenVersion:
    """A version that is served; replaced as a whole, so no reply mixes two versions."""

    version: str
    table: Lookups
    maker: VectorMaker | None


class OpenVersions:
    """The versions of a store that are open, each with its table and what makes more of its vectors.

    A run goes on with its version when another becomes active; its table is given up when nobody asks for ten minutes.
    A backbone's version is served like any other: its vectors are the features.

    Args:
        store: what is served.
        machine: what the CNN takes of this machine.
        computes: whether there is a catalogue to compute from, so that the CNN is made at once and not
            for the first caller.
    """

    def __init__(self, store: ServedStore, machine: Machine, *, computes: bool):
        self.store, self._machine, self._computes = store, machine, computes
        self.active: OpenVersion | None = None
        self._others: dict[str, tuple[OpenVersion, float]] = {}
        self._lock = threading.Lock()

    @property
    def loading(self) -> bool:
        """Whether the active table is not complete yet; lookups are answered meanwhile, from the index."""
        return self.active is not None and not self.active.table.loaded

    def of(self, version: str) -> OpenVersion:
        """A version, the active one when none is named.

        Raises:
            NotReady: nothing was precomputed yet.
            VersionMismatch: the store does not hold it.
        """
        if self.active is None:
            self.refresh()
        active = self.active
        if active is None:
            raise NotReady(
                f"The image server has no vectors yet. {self.store.filling_advice}; this server will see the result."
            )
        if not version or version == active.version:
            return active
        with self._lock:
            known = self._others.get(version)
            if known is None:
                if self.store.index.space(version) is None:
                    raise VersionMismatch(
                        f"Vectors of {version} were asked for, which this store does not hold and no run has put; this "
                        f"server serves {active.version}. 'imgserver info' lists what else it has. Start a new run, "
                        f"or bring the version back."
                    )
                known = self._open(version), 0.0
            self._others[version] = known[0], time.monotonic()
            return known[0]

    def refresh(self) -> None:
        """Take over what other processes committed: another active version, or more vectors of those served."""
        with self._lock:
            active = self.store.index.active
            former = self.active
            held = {space.name: space.number for space in self.store.index.spaces()}
            for version, (other, asked_at) in list(self._others.items()):
                idle = time.monotonic() - asked_at > KEEP_IDLE_S
                if version not in held or _made_again(other, held) or idle:
                    del self._others[version]
            if active and (former is None or former.version != active or _made_again(former, held)):
                known = self._others.pop(active, None)
                self.active = known[0] if known else self._open(active)
                if former is not None and former.version != active:
                    self._others[former.version] = former, time.monotonic()
                log.info("serving %s", active)
        for serving in self._all():
            if serving.table.loaded and (added := serving.table.refresh()):
                log.info("%d ids of %s were added or changed in the store", added, serving.version)

    def load(self) -> None:
        """Load the tables that are not loaded yet, one after the other; until then the index answers for them."""
        for serving in self._all():
            if not serving.table.loaded:
                started = time.monotonic()
                serving.table.load()
                took = time.monotonic() - started
                log.info("loaded %d ids of %s in %.2f s", len(serving.table), serving.version, took)

    def _all(self) -> list[OpenVersion]:
        return [*([self.active] if self.active else []), *(other for other, _ in list(self._others.values()))]

    def _open(self, version: str) -> OpenVersion:
        space = self.store.index.space(version)
        if space is None:
            raise StoreError(f"The store {self.store} does not hold {version}.")
        table = self.store.table(space)
        return OpenVersion(version, table, self._maker(version, table))

    def _maker(self, version: str, table: Lookups) -> VectorMaker | None:
        """What makes more vectors of a version; another one's embedder, if that is the same."""
        named = Version.parse(version)
        if named.imported:
            return None
        backbone = named.backbone
        features = self.store.index.space(backbone)
        if features is None:
            raise StoreError(f"The store holds {version} and not the features of {backbone}.")
        makers = [serving.maker for serving in self._all() if serving.maker is not None]
        embedders = [maker.embedder for maker in makers if maker.features.name == backbone]
        if embedders:
            embedder = embedders[0]
        else:
            embedder = Embedder(features.recipe, backbone, self.store.folder / "engine", self._machine)
            if self._computes:
                _ = embedder.engine
        return VectorMaker(table, embedder, load_head(self.store, version) if named.head else None, features)


def _made_again(serving: OpenVersion, held: dict[str, int]) -> bool:
    """Whether a version was deleted and made again since it was opened: then its rows are others."""
    return held.get(serving.version, serving.table.space.number) != serving.table.space.number
