"""Impressions of a run: what was shown, what the user did before, and what of it counted."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from crossmedia.errors import NotReady
from crossmedia.imgserver.browse.guard import STYLED
from crossmedia.imgserver.browse.prepared import Prepared
from crossmedia.imgserver.browse.site import Pages, Tab, whole
from crossmedia.trainer.browsing.runs import PAGES, Runs
from crossmedia.trainer.report.impressions import Impressions, impressions
from crossmedia.trainer.settings import ReportConfig

KEPT = 32


class ImpressionsPages:
    """Pages of impressions.

    Args:
        pages: draws them.
        runs: whose impressions.
        server: address of the image server: vectors and photos.
    """

    def __init__(self, pages: Pages, runs: Runs, server: str):
        self._pages, self._runs, self._server = pages, runs, server
        self._made = Prepared(self._draw, KEPT)

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/impressions", "Impressions", {"/impressions": self.page, "/impressions/ready": self.ready}, PAGES)

    def page(self, request: Request) -> Response:
        """Some impressions of a run, drawn by the seed of the address."""
        names = list(self._runs.folders())
        name, seed = self._asked(request, names)
        found = self._made.get((*self._runs.key(name), seed)) if name else Impressions([], "There is no run yet.")
        if found is None:
            ready = "/impressions/ready?" + urlencode({"run": name, "seed": seed})
            return self._pages.page("waiting.html", request, what=f"Impressions of {name}", ready=ready)
        reply = self._pages.page("impressions.html", request, found=found, names=names, run=name, seed=seed)
        reply.headers["Content-Security-Policy"] = STYLED  # the length of a bar is an attribute
        return reply

    def ready(self, request: Request) -> Response:
        """Tells the page that waits when the impressions are drawn."""
        name, seed = self._asked(request, [])
        return self._made.answer((*self._runs.key(name), seed))

    @staticmethod
    def _asked(request: Request, names: list[str]) -> tuple[str, int]:
        """The run and the seed; the latest run where none is asked for."""
        return request.query_params.get("run", "") or next(iter(names), ""), whole(request, "seed", 0, 0, 2**31)

    def _draw(self, key: tuple[Path, float, int]) -> Impressions:
        folder, _, seed = key
        samples = self._runs.samples_of(folder)
        found = impressions(ReportConfig(folder, samples=samples, server=self._server, seed=seed))
        if found.absent:
            raise NotReady(found.absent)  # nothing is kept of it: a server that is away may come back
        return found
