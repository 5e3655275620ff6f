"""The photos that concepts are learnt from: their features, and what the catalogue says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossmedia.errors import NothingEmbedded
from crossmedia.imgserver.concepts.items import Items, ItemTable, read_items
from crossmedia.imgserver.concepts.linear import Floats
from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import held
from crossmedia.imgserver.vision.photometry import ANCHORS
from crossmedia.names import ImageNames
from crossmedia.status import is_ok
from crossmedia.version import Version

MOST_PHOTOS = 20_000


@dataclass(frozen=True)
class Sample:
    """Photos that concepts are learnt from.

    Attributes:
        features: the space of the features.
        values: of the photos, shape (n, F).
        items: what the catalogue says of them.
    """

    features: Space
    values: Floats
    items: Items

    @property
    def anchors(self) -> int:
        """How many numbers at the end of a feature are anchors."""
        return len(ANCHORS) if Version.parse(self.features.name).with_photometry else 0


def read_sample(
    store: Store, table: ItemTable, names: ImageNames | None, points: Path | None = None, features: str = ""
) -> Sample:
    """Features and items of the photos that a store and a table both know, evenly chosen where there are many.

    Args:
        store: holds the features.
        table: of the items.
        names: what photos are called; None: by their ids.
        points: a file of selling points, or None.
        features: of which backbone; empty: those of the active version.

    Raises:
        NotReady: the store has no active version.
        NothingEmbedded: it holds no feature.
        BadInput: as ``read_items``; or the store does not hold such features.
    """
    space = held(store, features or held(store, "", "vector").version.backbone, "feature")
    ids, entries, _ = store.index.load(space.name)
    good = is_ok(entries["status"])
    if not good.any():
        raise NothingEmbedded(f"The store {store.folder} holds no feature of {space.name}.")
    ids, entries = ids[good], entries[good]
    items = read_items(table, names, ids, points)
    kept = np.zeros(len(items.ids), dtype=np.bool_)
    kept[np.linspace(0, len(kept) - 1, min(len(kept), MOST_PHOTOS), dtype=np.int64)] = True
    items = items.only(kept)
    values = store.read(space, entries[np.searchsorted(ids, items.ids)]).astype(np.float32)
    return Sample(space, values, items)
