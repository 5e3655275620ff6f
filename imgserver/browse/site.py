"""The site: tabs, what they share, and the pages that say what went wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from crossmedia.errors import CrossMediaError, InvalidRequest
from crossmedia.imgserver.browse.guard import Guard

HERE = Path(__file__).parent
MOST, MOST_DIGITS = 2**63 - 1, 20  # of a number in an address
Handler = Callable[[Request], Response | Awaitable[Response]]
Code = grpc.StatusCode
STATUS = {
    **{Code.INVALID_ARGUMENT: 400, Code.UNAUTHENTICATED: 502, Code.PERMISSION_DENIED: 403},
    **{Code.FAILED_PRECONDITION: 409, Code.RESOURCE_EXHAUSTED: 503, Code.UNAVAILABLE: 502, Code.DEADLINE_EXCEEDED: 504},
}


@dataclass(frozen=True)
class Tab:
    """A subject of the site.

    Attributes:
        path: of its first page, such as ``/map``.
        title: in the list of tabs.
        routes: path -> what answers it.
        folder: of its templates.
    """

    path: str
    title: str
    routes: dict[str, Handler]
    folder: Path = HERE / "pages"


class Pages:
    """Draws pages: whatever is put into one is escaped.

    Args:
        server: address of the image server, which stands on every page.
    """

    def __init__(self, server: str):
        self.server, self.tabs = server, list[Tab]()
        self._loaders: list[jinja2.BaseLoader] = []
        self._jinja = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)

    def add(self, tabs: Sequence[Tab]) -> None:
        """Have tabs stand on every page."""
        self.tabs += tabs
        folders = dict.fromkeys([HERE / "pages", *(tab.folder for tab in self.tabs)])
        self._jinja.loader = jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder) for folder in folders])

    def page(self, template: str, request: Request, code: int = 200, **facts: Any) -> HTMLResponse:
        """A page of a template; ``code``: of HTTP."""
        here = max((tab.path for tab in self.tabs if _within(request.url.path, tab.path)), key=len, default="")
        text = self._jinja.get_template(template).render(
            tabs=self.tabs, here=here, server=self.server, address=str(request.url.path), **facts
        )
        # Names of files that are not UTF-8 cannot be written as text.
        return HTMLResponse(text.encode("utf-8", "backslashreplace"), code)


def _within(path: str, tab: str) -> bool:
    return path == tab or (tab != "/" and path.startswith(f"{tab}/"))


def site(pages: Pages, guard: Guard, files: dict[str, Handler]) -> ASGIApp:
    """The application.

    Args:
        pages: with all tabs.
        guard: stands before it.
        files: path -> what answers it, beside the tabs: styles, scripts, photos.
    """
    routes = [Route(path, work, methods=["GET", "POST"]) for tab in pages.tabs for path, work in tab.routes.items()]
    routes += [Route(path, work) for path, work in files.items()]

    def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, CrossMediaError)
        return pages.page("failed.html", request, STATUS.get(error.grpc_code, 500), said=str(error))

    def broken(request: Request, error: Exception) -> Response:
        said = "The site failed on this page; what it writes on standard error says more."
        return pages.page("failed.html", request, 500, said=said)

    def absent(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = "There is no such page." if error.status_code == 404 else str(error.detail)
        return pages.page("failed.html", request, error.status_code, said=said)

    handlers = {CrossMediaError: failed, HTTPException: absent, Exception: broken}
    return guard.before(Starlette(routes=routes, exception_handlers=handlers))


def exact(name: str, text: str) -> int:
    """An id, or a place in a list: never another than is asked for, which would be shown as if it were that.

    Args:
        name: what it is, for the message.
        text: that was given.

    Raises:
        InvalidRequest: it is none from 0 to 2**63 - 1.
    """
    text = text.strip()
    # Nobody writes more digits, and Python reads at most some thousands.
    if not (text.isascii() and text.isdigit()) or len(text) > MOST_DIGITS or int(text) > MOST:
        raise InvalidRequest(f"{name} is {text[:40]!r}; it must be a whole number from 0 to 2**63 - 1.")
    return int(text)


def whole(request: Request, name: str, default: int, least: int = 0, most: int = MOST) -> int:
    """A whole number of a query; beyond the bounds it is the nearest that is within them.

    Raises:
        InvalidRequest: it is none.
    """
    text = request.query_params.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.removeprefix("-").isdigit()) or len(text) > MOST_DIGITS:
        raise InvalidRequest(f"{name} is {text[:40]!r}; it must be a whole number.")
    return min(max(int(text), least), most)
