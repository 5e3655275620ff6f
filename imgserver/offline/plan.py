"""What is left of a catalogue to embed into a store: seen before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossmedia.imgserver.offline.head_vectors import DEFAULT_DIM, check_photos
from crossmedia.imgserver.offline.image_ids import wanted_ids
from crossmedia.imgserver.offline.rejects import without_reason
from crossmedia.imgserver.shards import Ownership, shards_of
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import own_space
from crossmedia.imgserver.vision.backbone import AnyBackbone
from crossmedia.names import ImageNames
from crossmedia.status import is_ok

INDEX_BYTES_PER_IMAGE = 2 * 100  # an entry for the feature and one for the vector, with LMDB's page overhead


@dataclass(frozen=True)
class PrecomputeConfig:
    """What to embed.

    Attributes:
        dim: numbers in a vector; None keeps the head of the active version, and is 64 where there is none to keep.
        only: embed just these image ids; None is the whole catalogue.
        new_head: fit a head even if the active version has one that fits.
        ownership: embed only what a server owns; None: all.
    """

    dim: int | None = None
    only: Ids | None = None
    new_head: bool = False
    ownership: Ownership | None = None

    def chosen(self, catalogue: Catalogue) -> Ids | None:
        """The image ids that are asked for; None is the whole catalogue."""
        if self.ownership is None:
            return self.only
        ids = catalogue.ids() if self.only is None else self.only
        mine: Ids = ids[self.ownership.mine[shards_of(ids)]]
        return mine


@dataclass(frozen=True)
class Plan:
    """What a run will do, before it starts.

    Attributes:
        config: that it follows.
        only: the image ids asked for; None is the whole catalogue.
        found: photos asked for that the catalogue has.
        skipped: photos that are embedded already and have not changed.
        to_embed: ids of the rest, in the order in which they are read.
        names: what the photos are called; None: by their ids.
    """

    config: PrecomputeConfig
    only: Ids | None
    found: int
    skipped: int
    to_embed: Ids
    names: ImageNames | None = None

    def disk_bytes(self, feature_dim: int) -> int:
        """Bytes that the run will add to the store: fp16 rows of feature and vector, and the index."""
        return len(self.to_embed) * (2 * feature_dim + 2 * (self.config.dim or DEFAULT_DIM) + INDEX_BYTES_PER_IMAGE)


def make_plan(store: Store, catalogue: Catalogue, backbone: AnyBackbone, config: PrecomputeConfig) -> Plan:
    """See what is to be done.

    Raises:
        BadInput: an id of ``config.only`` is not in the catalogue, its manifest names images wrongly, or there are too
            few photos for ``config.dim``.
        NothingEmbedded: the catalogue has no photo.
    """
    names, only = catalogue.names(), config.chosen(catalogue)
    ids = wanted_ids(catalogue, only)
    space = own_space(store, backbone.space)
    entries, known = store.index.get(space.name, ids)
    known[known] = catalogue.unchanged(ids[known], entries[known])
    failed = np.flatnonzero(known & ~is_ok(entries["status"]))
    known[failed] = ~without_reason(store.folder, ids[failed])
    plan = Plan(config, only, len(ids), int(known.sum()), catalogue.reading_order(ids[~known]), names)
    check_photos(store, space, config.dim, len(plan.to_embed), new_head=config.new_head)
    return plan
