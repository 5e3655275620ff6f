"""Photos that are nearly the same, found a part of the catalogue at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from starlette.requests import Request
from starlette.responses import Response

from crossmedia.errors import InvalidRequest
from crossmedia.imgserver.browse.looks import Ids, Looks
from crossmedia.imgserver.browse.shown import Shown, shown_of
from crossmedia.imgserver.browse.site import Pages, Tab, exact
from crossmedia.imgserver.client import Status

AT_ONCE, NEAR = 256, 16  # images whose neighbours are asked for together, and neighbours of each
LOOK_S = 1.0  # seconds of a page; what is left is the next one's
MOST_GROUPS, MOST_OF_GROUP = 40, 12
DEFAULT = 0.95


@dataclass(frozen=True)
class Group:
    """Photos that are near each other, directly or by others of the group.

    Attributes:
        photos: at most ``MOST_OF_GROUP`` of them.
        size: how many there are.
        cosine: of the two that are least alike among those that were joined.
    """

    photos: list[Shown]
    size: int
    cosine: float


class Duplicates:
    """Pages of near-duplicates.

    Args:
        pages: draws them.
        looks: asks the server.
    """

    def __init__(self, pages: Pages, looks: Looks):
        self._pages, self._looks = pages, looks

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/duplicates", "Near-duplicates", {"/duplicates": self.page})

    def page(self, request: Request) -> Response:
        """The groups among the next images of the list, and their neighbours wherever these are."""
        threshold = _cosine(request.query_params.get("cosine", ""))
        start = exact("start", request.query_params.get("start", "").strip() or "0")
        version = self._looks.versions().active
        ids, pairs, total = self._pairs(version, start, threshold)
        if start and start >= total:
            raise InvalidRequest(f"start is {start:,}; the list has {total:,} images with a vector, and begins at 0.")
        groups = grouped(pairs[0], pairs[1])
        found = [
            Group(shown_of(self._looks.client, members[:MOST_OF_GROUP]), len(members), cosine)
            for members, cosine in groups[:MOST_GROUPS]
        ]
        return self._pages.page(
            "duplicates.html",
            request,
            groups=found,
            all_groups=len(groups),
            cosine=threshold,
            first=start + 1,
            last=start + len(ids),
            total=total,
            version=version,
            among=pairs[2],
        )

    def _pairs(
        self, version: str, start: int, threshold: float
    ) -> tuple[Ids, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], int], int]:
        """The images that were looked at, pairs of near ones and their cosines, images compared; images in all."""
        ok, end, seen = [int(Status.OK)], time.monotonic() + LOOK_S, [np.zeros(0, np.int64)]
        pairs, cosines = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
        total = among = 0
        while True:
            at = start + sum(map(len, seen))
            page = self._looks.client.images(at, AT_ONCE, statuses=ok, version=version)
            total = page.total
            if not len(page):
                break
            near = self._looks.nearest(page.image_ids, NEAR, version)
            among = near.images
            row, column = np.nonzero((near.image_ids >= 0) & (near.cosines >= threshold))
            pairs.append(np.stack([page.image_ids[row], near.image_ids[row, column]], axis=1))
            cosines.append(near.cosines[row, column].astype(np.float64))
            seen.append(page.image_ids)
            if time.monotonic() > end:
                break
        return np.concatenate(seen), (np.concatenate(pairs), np.concatenate(cosines), among), total


def _cosine(text: str) -> float:
    """The threshold that is asked for.

    Raises:
        InvalidRequest: it is no cosine.
    """
    try:
        found = float(text) if text.strip() else DEFAULT
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise InvalidRequest(f"The least cosine is {text[:40]!r}; it must be a number from 0 to 1.")
    return found


def grouped(pairs: npt.NDArray[np.int64], cosines: npt.NDArray[np.float64]) -> list[tuple[Ids, float]]:
    """The groups that pairs join, the largest first, then those most alike.

    Args:
        pairs: image ids, shape (p, 2).
        cosines: of each pair, shape (p,).

    Returns:
        the ids of each, ascending, and the least cosine of its pairs.

    Example:
        >>> import numpy as np
        >>> from crossmedia.imgserver.browse.duplicates import grouped
        >>> [(ids.tolist(), cosine) for ids, cosine in grouped(np.array([[4, 7], [7, 9]]), np.array([0.99, 0.97]))]
        [([4, 7, 9], 0.97)]
    """
    if not len(pairs):
        return []
    ids, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(pairs.shape)
    joined = coo_array((np.ones(len(pairs)), (places[:, 0], places[:, 1])), shape=(len(ids), len(ids)))
    groups, of = connected_components(joined, directed=False)
    least = np.full(groups, np.inf)
    np.minimum.at(least, of[places[:, 0]], cosines)
    order = np.argsort(of, kind="stable")
    members = np.split(ids[order], np.cumsum(np.bincount(of))[:-1])
    found = list(zip(members, least.tolist(), strict=True))
    return sorted(found, key=lambda group: (-len(group[0]), -group[1], int(group[0][0])))
