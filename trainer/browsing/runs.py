"""The runs below a folder: a list, and of each what the report says first, its curves and its table."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from crossmedia.errors import CrossMediaError, InvalidRequest
from crossmedia.imgserver.browse.guard import STYLED
from crossmedia.imgserver.browse.site import Pages, Tab
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
        self._shown: OrderedDict[tuple[Path, float], ShownRuns] = OrderedDict()
        self._lock = threading.Lock()

    def folders(self) -> dict[str, Path]:
        """Name -> folder, the latest first."""
        return {str(path.relative_to(self.root)): path for path in run_folders(self.root)[:LISTED]}

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

    def shown(self, folder: Path) -> ShownRuns:
        """What there is to see of a run; drawn once, and again when it was written again."""
        key = folder, folder.stat().st_mtime
        with self._lock:  # the library that draws is not made for threads
            if key not in self._shown:
                self._shown[key] = shown_runs(folder, self.samples_of(folder))
            self._shown.move_to_end(key)
            while len(self._shown) > KEPT:
                self._shown.popitem(last=False)
            return self._shown[key]


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
        return Tab("/runs", "Runs", {"/runs": self.page, "/runs/{name:path}": self.run}, PAGES)

    def page(self, request: Request) -> Response:
        """The list."""
        return self._pages.page("runs.html", request, runs=self._runs.listed(), root=str(self._runs.root))

    def run(self, request: Request) -> Response:
        """A comparison, or a run."""
        name = request.path_params["name"]
        found = self._runs.shown(self._runs.folder(name))
        curves, buckets = ([SHEET.sub("", one) for one in part] for part in (found.curves, found.buckets))
        reply = self._pages.page("run.html", request, found=found, name=name, curves=curves, buckets=buckets)
        reply.headers["Content-Security-Policy"] = STYLED  # charts have widths and colours in attributes
        return reply
