"""A photo and its nearest, by two versions side by side: what a new backbone or head finds alike, before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from crossmedia.imgserver.browse.looks import Looks
from crossmedia.imgserver.browse.shown import Shown, shown, shown_of
from crossmedia.imgserver.browse.site import Pages, Tab, exact, whole
from crossmedia.imgserver.client import Status

NEIGHBOURS, OFFERED = 12, 24


@dataclass(frozen=True)
class Side:
    """The neighbours of a photo by one version.

    Attributes:
        version: whose vectors were compared.
        photos: best first; those that the other side has, too, are marked.
        among: images that were compared.
        why: there are none; empty where there are.
    """

    version: str
    photos: list[Shown]
    among: int
    why: str = ""


class NeighboursPages:
    """Pages of neighbours.

    Args:
        pages: draws them.
        looks: asks the server.
    """

    def __init__(self, pages: Pages, looks: Looks):
        self._pages, self._looks = pages, looks

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/neighbours", "Neighbours", {"/neighbours": self.page})

    def page(self, request: Request) -> Response:
        """A photo beside its nearest, or photos to choose from."""
        held = self._looks.versions()
        names = [version.name for version in held.held]
        first = _one_of(request, "a", names, held.active)
        others = [one.name for one in reversed(held.held) if one.name != first and not one.features]  # the latest first
        second = _one_of(request, "b", names, others[0] if others else "")
        if not request.query_params.get("id", "").strip():
            seed = whole(request, "seed", 0, 0, 2**31)
            ids, _ = self._looks.sample(held.active, OFFERED * 8, seed)
            ids = np.sort(np.random.default_rng(seed).permutation(ids)[:OFFERED])
            photos = shown_of(self._looks.client, ids)
            return self._pages.page("choose.html", request, photos=photos, seed=seed + 1, a=first, b=second)
        image_id = exact("id", request.query_params["id"])
        photo = shown_of(self._looks.client, np.array([image_id]))[0]
        sides = self._sides(image_id, [first] if second in ("", first) else [first, second])
        facts: dict[str, Any] = {"photo": photo, "sides": sides, "names": names, "a": first, "b": second}
        common = sum(one.marked for one in sides[0].photos)
        return self._pages.page("neighbours.html", request, active=held.active, common=common, **facts)

    def _sides(self, image_id: int, versions: list[str]) -> list[Side]:
        found = [(version, self._looks.nearest(np.array([image_id]), NEIGHBOURS, version)) for version in versions]
        sides = []
        for version, near in found:
            ids, others = near.image_ids[0], [one.image_ids[0] for name, one in found if name != version]
            there = ids >= 0
            if near.status[0] != Status.OK or not there.any():
                sides.append(Side(version, [], near.images, "The photo has no vector of this version."))
                continue
            captions = [f"{cosine:.3f}" for cosine in near.cosines[0][there]]
            marked = np.isin(ids[there], others[0]) if others else None
            photos = shown(self._looks.client.images_of(ids[there]), captions, marked)
            sides.append(Side(version, photos, near.images))
        return sides


def _one_of(request: Request, name: str, versions: list[str], default: str) -> str:
    """A version that is asked for, if the store holds it."""
    asked = request.query_params.get(name, "")
    return asked if asked in versions else default
