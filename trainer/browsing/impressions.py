"""Impressions of a run: what was shown, what the user did before, and what of it counted."""

from __future__ import annotations

import threading
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from crossmedia.imgserver.browse.guard import STYLED
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
        self._made: dict[tuple[Path, float, int], Impressions] = {}
        self._lock = threading.Lock()

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/impressions", "Impressions", {"/impressions": self.page}, PAGES)

    def page(self, request: Request) -> Response:
        """Some impressions of a run, drawn by the seed of the address."""
        names, seed = list(self._runs.folders()), whole(request, "seed", 0, 0, 2**31)
        name = request.query_params.get("run", "") or next(iter(names), "")
        found = self._of(self._runs.folder(name), seed) if name else Impressions([], "There is no run yet.")
        reply = self._pages.page("impressions.html", request, found=found, names=names, run=name, seed=seed)
        reply.headers["Content-Security-Policy"] = STYLED  # the length of a bar is an attribute
        return reply

    def _of(self, folder: Path, seed: int) -> Impressions:
        key = folder, folder.stat().st_mtime, seed
        with self._lock:  # one model at a time
            if key not in self._made:
                found = impressions(
                    ReportConfig(folder, samples=self._runs.samples_of(folder), server=self._server, seed=seed)
                )
                if found.absent:  # a server that was away may be back
                    return found
                if len(self._made) >= KEPT:
                    self._made.pop(next(iter(self._made)))
                self._made[key] = found
            return self._made[key]
