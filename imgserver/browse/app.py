"""The pages as one application, and the server that answers browsers."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from crossmedia.errors import BadInput
from crossmedia.hosts import host_and_port, written
from crossmedia.imgserver.browse.catalogue import Catalogue
from crossmedia.imgserver.browse.duplicates import Duplicates
from crossmedia.imgserver.browse.guard import Guard
from crossmedia.imgserver.browse.live import Live
from crossmedia.imgserver.browse.looks import Looks
from crossmedia.imgserver.browse.map import Columns, MapPage
from crossmedia.imgserver.browse.neighbours import NeighboursPages
from crossmedia.imgserver.browse.settings import BrowseConfig
from crossmedia.imgserver.browse.site import HERE, Handler, Pages, Tab, site
from crossmedia.imgserver.browse.versions import VersionsPages
from crossmedia.pages import SCRIPT, STYLE
from crossmedia.service.ports import check_free
from crossmedia.service.security import ServerSecurity

CALLERS_CAN = "see the photos of the catalogue"
GRACE_S = 3
MOST_AT_ONCE = 64  # connections
log = logging.getLogger(__name__)
MoreTabs = Callable[[Pages], Sequence[Tab]]


def no_tabs(pages: Pages) -> Sequence[Tab]:
    """No tabs of others."""
    return ()


@contextmanager
def opened(config: BrowseConfig, more: MoreTabs = no_tabs, columns: Columns | None = None) -> Iterator[ASGIApp]:
    """The application, for the time of a block.

    Args:
        config: what it shows, and to whom.
        more: tabs of others, which stand before the last one.
        columns: what is known of images, see ``MapPage``.

    Raises:
        BadInput: a file of tokens cannot be used.
    """
    security = ServerSecurity(tls_cert=config.tls_cert, tls_key=config.tls_key, tokens=config.tokens)
    for warning in security.warnings(config.host, CALLERS_CAN):
        log.warning("%s", warning)
    looks, pages = Looks(config.server), Pages(config.server)
    catalogue, live = Catalogue(pages, looks), Live(pages, looks)
    subjects = (NeighboursPages(pages, looks), Duplicates(pages, looks), MapPage(pages, looks, columns))
    tabs = [catalogue.tab, *(subject.tab for subject in subjects), VersionsPages(pages, looks).tab]
    pages.add([*tabs, *more(pages), live.tab])
    files: dict[str, Handler] = {
        "/photo/{image_id}": catalogue.photo,
        "/style.css": _file(STYLE, "text/css"),
        "/browse.css": _file((HERE / "browse.css").read_text(encoding="utf-8"), "text/css"),
        "/page.js": _file(SCRIPT, "text/javascript"),
        "/browse.js": _file((HERE / "browse.js").read_text(encoding="utf-8"), "text/javascript"),
    }
    live.start()
    try:
        yield site(pages, Guard(config.host, security.http_tokens()), files)
    finally:
        live.stop()
        looks.close()


def _file(text: str, kind: str) -> Handler:
    def answer(request: Request) -> Response:
        return Response(text, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    return answer


def browse(
    config: BrowseConfig,
    on_ready: Callable[[str], None],
    more: MoreTabs = no_tabs,
    columns: Columns | None = None,
) -> None:
    """Serve the pages until SIGTERM or Ctrl-C.

    Args:
        config: what they show, where and to whom.
        on_ready: called with their address, as a browser takes it, once they are answered.
        more: as of ``opened``.
        columns: likewise.

    Raises:
        BadInput: the address is taken, or a file cannot be used.
    """
    if bool(config.tls_cert) != bool(config.tls_key):
        raise BadInput("TLS takes both a certificate and its key: give --tls-cert and --tls-key.")
    host, port = host_and_port(config.address)
    check_free(host, port)
    with opened(config, more, columns) as app:
        served = uvicorn.Config(
            app,
            host=host,
            port=port,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=_path(config.tls_cert),
            ssl_keyfile=_path(config.tls_key),
        )
        _Announcing(served, on_ready).run()


def _path(file: Path | None) -> str | None:
    return str(file) if file is not None else None


class _Announcing(uvicorn.Server):
    """Says where it answers once it does; with port 0 nobody knows before."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[str], None]):
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End the site by SIGTERM and Ctrl-C, which is how it ends; uvicorn would raise them again afterwards."""
        former = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in former.items():
                signal.signal(one, handler)

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets=sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"{'https' if self.config.is_ssl else 'http'}://{written(host, port)}/")
