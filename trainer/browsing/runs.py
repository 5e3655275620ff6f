"""The runs below a folder: a list, and of each what the report says first, its curves and its table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from crossmedia.errors import CrossMediaError, InvalidRequest
from crossmedia.imgserver.browse.guard import STYLED
from crossmedia.imgserver.browse.prepared import Prepared
from crossmedia.imgserver.browse.site import Handler, Pages, Tab
from crossmedia.trainer.report.shown_runs import ShownRuns, compared, run_folders, shown_runs

PAGES = Path(__file__).parent / "pages"
KEPT, LISTED = 8, 100
# matplotlib puts a sheet of styles into each chart, which only rounds its corners: the policy of the pages refuses it.
SHEET = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)


@dataclass(frozen=True)
class Listed:
    """A line of the list of runs.

    Attributes:
        name: its folder, below that of all runs.
        when: it was last written.
        models: that were trained, and how many runs.
        sentence: what came out.
    """

    name: str
    when: str
    models: str
    sentence: str


class Runs:
    """The runs below a folder.

    Args:
        root: the folder.
        samples: where the samples of the runs are now; empty: where they were.
    """

    def __init__(self, root: Path, samples: str):
        self.root, self.samples = root, samples
        self._shown = Prepared(self._draw, KEPT)

    def folders(self) -> dict[str, Path]:
        """Name -> folder, the latest first."""
        return {self._name(path): path for path in run_folders(self.root)[:LISTED]}

    def _name(self, path: Path) -> str:
        """What a folder is called in addresses: below all runs; these themselves by their own name and a slash.

        No two are called alike, and nothing is in a name that a browser, or UTF-8, would not give back.
        """
        below = path.relative_to(self.root)
        name = str(below) if below.parts else f"{self.root.resolve().name}/"
        return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name)

    def folder(self, name: str) -> Path:
        """The folder of a run that is in the list.

        Raises:
            InvalidRequest: there is none of that name.
        """
        folders = self.folders()
        if name not in folders:
            raise InvalidRequest(f"There is no run {name[:80]!r} below {self.root}.")
        return folders[name]

    def listed(self) -> list[Listed]:
        """The list; of what cannot be read it says why."""
        return [_listed(name, folder) for name, folder in self.folders().items()]

    def samples_of(self, folder: Path) -> str:
        """Where the samples of a run are, if not where they were: others than its own would say nothing of it."""
        return "" if Path(compared(folder)["samples"]).is_dir() else self.samples

    def shown(self, name: str) -> ShownRuns | None:
        """What there is to see of a run; None while it is drawn.

        Raises:
            CrossMediaError: it cannot be.
        """
        return self._shown.get(self.key(name))

    def key(self, name: str) -> tuple[Path, float]:
        """A run as it is now: written again, it is another."""
        folder = self.folder(name)
        return folder, folder.stat().st_mtime

    def waiting(self, name: str) -> Response:
        """What tells a page that waits for a run."""
        return self._shown.answer(self.key(name))

    def _draw(self, key: tuple[Path, float]) -> ShownRuns:
        return shown_runs(key[0], self.samples_of(key[0]))


def _listed(name: str, folder: Path) -> Listed:
    when = datetime.fromtimestamp(folder.stat().st_mtime).isoformat(" ", "minutes")
    try:
        found = compared(folder)
    except CrossMediaError as error:
        return Listed(name, when, "", str(error))
    models = ", ".join(dict.fromkeys(line["model"] for line in found["runs"]))
    count = len(found["runs"])
    return Listed(name, when, f"{models}: {count} run{'s' if count > 1 else ''}", found["sentence"])


class RunsPages:
    """Pages of runs.

    Args:
        pages: draws them.
        runs: what they show.
    """

    def __init__(self, pages: Pages, runs: Runs):
        self._pages, self._runs = pages, runs

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        routes: dict[str, Handler] = {"/runs": self.page, "/runs/ready/{name:path}": self.ready}
        return Tab("/runs", "Runs", routes | {"/runs/of/{name:path}": self.run}, PAGES)

    def page(self, request: Request) -> Response:
        """The list."""
        return self._pages.page("runs.html", request, runs=self._runs.listed(), root=str(self._runs.root))

    def run(self, request: Request) -> Response:
        """A comparison, or a run."""
        name = request.path_params["name"]
        found = self._runs.shown(name)
        if found is None:
            return self._pages.page("waiting.html", request, what=name, ready=f"/runs/ready/{quote(name)}")
        curves, buckets = ([SHEET.sub("", one) for one in part] for part in (found.curves, found.buckets))
        reply = self._pages.page("run.html", request, found=found, name=name, curves=curves, buckets=buckets)
        reply.headers["Content-Security-Policy"] = STYLED  # charts have widths and colours in attributes
        return reply

    def ready(self, request: Request) -> Response:
        """Tells the page that waits when the run is drawn."""
        return self._runs.waiting(request.path_params["name"])
