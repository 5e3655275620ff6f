"""The catalogue: photos page by page, by status and why, by name, id or words; and the photos themselves."""

from __future__ import annotations

import math
from urllib.parse import urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from crossmedia.errors import InvalidRequest
from crossmedia.imgserver.browse.looks import Looks
from crossmedia.imgserver.browse.shown import IN_WORDS, shown, shown_of
from crossmedia.imgserver.browse.site import MOST, Pages, Tab, exact, whole

SHOWN = 60  # photos of a page
SIDE, MOST_SIDE = 128, 512  # pixels
KEPT_S = 300  # a photo is not asked for again
FILES = ("/photo/{image_id}",)


class Catalogue:
    """Pages of the catalogue.

    Args:
        pages: draws them.
        looks: asks the server.
    """

    def __init__(self, pages: Pages, looks: Looks):
        self._pages, self._looks = pages, looks

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/", "Catalogue", {"/": self.page})

    def page(self, request: Request) -> Response:
        """A page of photos, or those nearest to words."""
        text, how = request.query_params.get("find", "").strip(), request.query_params.get("by", "name")
        if text and how == "id":
            return RedirectResponse(f"/neighbours?id={exact('The id', text)}", 303)
        info = self._looks.info()
        knows_words = info.knows_words and bool(info.similarity.images)
        if text and how == "words":
            return self._words(request, text, knows_words)
        status = request.query_params.get("status", "")
        statuses = _statuses(status)
        number = whole(request, "page", 1, 1, MOST // SHOWN)
        listed = self._looks.client.images((number - 1) * SHOWN, SHOWN, statuses=statuses, name=text)
        last = max(1, math.ceil(listed.total / SHOWN))
        if number > last:
            number = last
            listed = self._looks.client.images((number - 1) * SHOWN, SHOWN, statuses=statuses, name=text)

        def link(page: int, of: str = status) -> str:
            asked = {"find": text, "by": "name" if text else "", "status": of, "page": page if page > 1 else ""}
            return "/?" + urlencode({name: value for name, value in asked.items() if value != ""})

        return self._pages.page(
            "catalogue.html",
            request,
            photos=shown(listed),
            total=listed.total,
            all_of_it=sum(listed.counts.values()),
            kinds=[
                (IN_WORDS[one], count, link(1, str(one)), statuses == [one]) for one, count in _by_status(listed.counts)
            ],
            everything=link(1, ""),
            statuses=statuses,
            find=text,
            by=how,
            status=status,
            number=number,
            last=last,
            link=link,
            random=int(np.random.default_rng().integers(1, last + 1)),
            knows_words=knows_words,
            version=listed.version,
        )

    def _words(self, request: Request, text: str, knows_words: bool) -> Response:
        if not knows_words:
            raise InvalidRequest(
                "Words are compared with vectors of a text encoder, or of photos beside a text tower, by the "
                "similarity index of 'imgserver index'; this server has none of them. Search by name or id."
            )
        near = self._looks.words(text, SHOWN)
        there = near.image_ids[0] >= 0
        captions = [f"{cosine:.2f}" for cosine in near.cosines[0][there]]
        photos = shown_of(self._looks.client, near.image_ids[0][there], captions)
        return self._pages.page("words.html", request, photos=photos, find=text, images=near.images)

    def photo(self, request: Request) -> Response:
        """A small JPEG of a photo."""
        text = request.path_params["image_id"].removesuffix(".jpg")
        try:
            image_id = exact("The id of a photo", text)
        except InvalidRequest:
            return Response(status_code=404)
        side = whole(request, "side", SIDE, 16, MOST_SIDE)
        jpeg = self._looks.client.thumbnails([image_id], max_side=side)[0]
        if jpeg is None:
            return Response(status_code=404)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={KEPT_S}"})


def _statuses(text: str) -> list[int]:
    """The status that is asked for; none: all.

    Raises:
        InvalidRequest: there is no such status.
    """
    found = [int(status) for status in IN_WORDS if str(int(status)) == text]
    if text and not found:
        known = ", ".join(f"{int(status)} ({words})" for status, words in sorted(IN_WORDS.items()))
        raise InvalidRequest(f"status is {text[:40]!r}; it must be one of {known}.")
    return found


def _by_status(counts: dict[int, int]) -> list[tuple[int, int]]:
    """Statuses that there are, those with a vector first, and how many images have them."""
    return [(status, counts[status]) for status in IN_WORDS if counts.get(status)]
