"""Photos of a catalogue that are the same, or nearly: groups of images whose vectors lie closer than a threshold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crossmedia.arguments import check_places, must
from crossmedia.errors import NotReady, VersionMismatch
from crossmedia.imgserver.similarity.index import SimilarityFiles
from crossmedia.imgserver.storage.records import Ids, places_in
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import active_rows

BLOCK = 4096
NEIGHBOURS = 20


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are alike.

    Attributes:
        image_ids: ascending.
        cosine: the lowest of the pairs that made the group; two of its images may be further apart.
        same_bytes: whether all of them are the same file.
    """

    image_ids: tuple[int, ...]
    cosine: float
    same_bytes: bool


class Duplicates(NamedTuple):
    """What is alike in a store.

    Attributes:
        groups: largest first.
        images: how many were looked at.
        nearest: the highest cosine of two of them; 0 where there are no two.
    """

    groups: list[DuplicateGroup]
    images: int
    nearest: float


def find_duplicates(
    store: Store | str | Path, threshold: float = 0.95, progress: Callable[[int], None] = lambda done: None
) -> Duplicates:
    """Groups of images that are connected by pairs whose cosine is ``threshold`` or more; largest group first.

    Of each image the 20 nearest are looked at, through the similarity index.

    Args:
        store: with an index; open, or its folder.
        threshold: least cosine of a pair.
        progress: told how many images were just looked at.

    Raises:
        BadInput: the threshold is no cosine from 0 to 1.
        NotReady: there is no index.
        VersionMismatch: it is of another version than the active one.
        StoreError: there is no store in the folder.

    Example:
        >>> from crossmedia import build_index, find_duplicates
        >>> report = build_index("store")
        >>> found = find_duplicates("store", threshold=0.9)
        >>> found.images, all(len(group.image_ids) > 1 for group in found.groups)
        (100, True)
    """
    must(isinstance(threshold, Real) and 0 <= threshold <= 1, "threshold", threshold, "a cosine from 0 to 1")
    if not isinstance(store, Store):
        check_places(store=store)
        with closing(Store(store, create=False)) as opened_here:
            return find_duplicates(opened_here, threshold, progress)
    opened = SimilarityFiles(store.folder).open()
    if opened is None:
        raise NotReady(f"The store {store.folder} has no similarity index. Run 'imgserver index' first.")
    info, index = opened
    space, ids, entries = active_rows(store)
    if info.version != space.name:
        raise VersionMismatch(f"The index is of {info.version}, {space.name} is active. Run 'imgserver index'.")
    groups, nearest = _Groups(len(ids)), 0.0

    def exact(of: Ids) -> npt.NDArray[Any]:
        # Of an image that has gone since the index was built, any vector will do: it is passed over below.
        return store.read(space, entries[places_in(ids, of)[0]])

    for start in range(0, len(ids), BLOCK):
        block = entries[start : start + BLOCK]
        found, cosines = index.search(store.read(space, block), NEIGHBOURS + 1, exact)
        here = ids[start : start + BLOCK]
        others = (found != here[:, None]) & (found >= 0) & np.isin(found, ids)
        nearest = max(nearest, float(cosines.max(initial=0.0, where=others)))
        near = others & (cosines >= threshold)
        for row, column in np.argwhere(near).tolist():
            other = int(np.searchsorted(ids, found[row, column]))
            groups.join(start + row, other, float(cosines[row, column]))
        progress(len(block))
    return Duplicates(groups.found(ids, entries["content"]), len(ids), nearest)


class _Groups:
    """Disjoint sets of places, joined by pairs."""

    def __init__(self, places: int):
        self._parent = list(range(places))
        self._cosine: dict[int, float] = {}

    def _root(self, place: int) -> int:
        while self._parent[place] != place:
            self._parent[place] = place = self._parent[self._parent[place]]
        return place

    def join(self, a: int, b: int, cosine: float) -> None:
        a, b = sorted((self._root(a), self._root(b)))
        lowest = min(cosine, self._cosine.pop(a, 1.0), self._cosine.pop(b, 1.0))
        self._parent[b] = a
        self._cosine[a] = lowest

    def found(self, ids: Ids, content: npt.NDArray[np.uint64]) -> list[DuplicateGroup]:
        """Every group of two or more."""
        members: dict[int, list[int]] = {}
        for place in range(len(ids)):
            if (root := self._root(place)) in self._cosine:
                members.setdefault(root, []).append(place)
        groups = [
            DuplicateGroup(
                tuple(ids[places].tolist()),
                self._cosine[root],
                bool(content[places[0]]) and len(set(content[places].tolist())) == 1,
            )
            for root, places in members.items()
        ]
        return sorted(groups, key=lambda group: (-len(group.image_ids), group.image_ids))
