"""The versions of the store, and the one that is served."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from crossmedia.errors import InvalidRequest, PermissionDenied, Unauthenticated
from crossmedia.imgserver.browse.looks import Looks, PagesClient
from crossmedia.imgserver.browse.site import Pages, Tab

MOST_FORM = 8192  # bytes of a form
TIMEOUT_S = 10.0
PRINTABLE = re.compile(r"[!-~]+").fullmatch


class VersionsPages:
    """Pages of versions.

    Args:
        pages: draws them.
        looks: asks the server.
    """

    def __init__(self, pages: Pages, looks: Looks):
        self._pages, self._looks = pages, looks

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/versions", "Versions", {"/versions": self.page, "/versions/activate": self.activate})

    def page(self, request: Request) -> Response:
        """All that the store holds."""
        held, info = self._looks.versions(), self._looks.info()
        done = request.query_params.get("done", "")
        return self._pages.page(
            "versions.html",
            request,
            held=held.held,
            active=held.active,
            info=info,
            done=done if done == held.active else "",
        )

    async def activate(self, request: Request) -> Response:
        """Have another version served, by the token of an admin that the form brings and nobody keeps."""
        form = parse_qs((await _body(request)).decode("utf-8", "replace"))
        version, token = (form.get(name, [""])[0].strip() for name in ("version", "token"))
        if request.method != "POST" or not version or not token:
            raise InvalidRequest("To activate a version choose one, and give a token of the scope 'admin'.")
        await run_in_threadpool(self._activated, version, token)
        return RedirectResponse(f"/versions?done={version.replace('+', '%2B').replace('#', '%23')}", 303)

    def _activated(self, version: str, token: str) -> None:
        if not PRINTABLE(token):
            raise InvalidRequest("A token is one word of printable ASCII.")
        handle, path = tempfile.mkstemp(prefix="crossmedia-token-")  # readable by its owner alone
        try:
            with os.fdopen(handle, "w") as file:
                file.write(token)
            security = replace(self._looks.security, token_file=path)
            with PagesClient(self._looks.server, timeout_s=TIMEOUT_S, security=security) as client:
                client.activate(version)
        except Unauthenticated as error:  # it is the token of whoever asks, not that of this site
            raise PermissionDenied(str(error)) from error
        finally:
            os.unlink(path)


async def _body(request: Request) -> bytes:
    """The form that came.

    Raises:
        InvalidRequest: it is longer than one can be.
    """
    found = b""
    async for piece in request.stream():
        found += piece
        if len(found) > MOST_FORM:
            raise InvalidRequest("The form is longer than a version and a token can be.")
    return found
