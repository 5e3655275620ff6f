"""What stands before the pages: who may see them, under which names, and what a page may load."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossmedia.errors import PermissionDenied, Unauthenticated
from crossmedia.hosts import is_loopback
from crossmedia.secret_files import Followed
from crossmedia.service.tokens import Tokens

# Scripts and styles come from files of ours alone; nothing is loaded from elsewhere, and nobody may frame a page.
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STYLED = f"{POLICY}; style-src-attr 'unsafe-inline'"  # of pages whose charts have their styles in attributes
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses requests of those who may not look.

    Args:
        host: where the site listens. A site of this machine alone, without tokens, answers under names of this machine
            only: else a page of anybody, under a name that points here, could read it with the visitor's browser.
        tokens: who may look; None: whoever reaches the address.
    """

    def __init__(self, host: str, tokens: Followed[Tokens] | None):
        self._host, self._tokens = host, tokens

    def before(self, app: ASGIApp) -> ASGIApp:
        """The application behind this guard."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return
            refusal = self._refusal(Headers(scope=scope))

            async def sealed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    for name, value in HEADERS.items():
                        headers.setdefault(name, value)
                await send(message)

            await (refusal or app)(scope, receive, sealed)

        return guarded

    def _refusal(self, headers: Headers) -> Response | None:
        """What answers a request that may not go on; None: it may."""
        if self._tokens is None:
            if is_loopback(self._host) and not _names(headers.get("host", ""), self._host):
                said = "This site answers under the names of its own machine alone: localhost or 127.0.0.1."
                return PlainTextResponse(said, 421)
            return None
        try:
            self._tokens.now().caller(_brought(headers.get("authorization", "")), "read")
        except (Unauthenticated, PermissionDenied):
            said = "Give any name, and as the password a token of this site."
            return PlainTextResponse(said, 401, {"WWW-Authenticate": 'Basic realm="CrossMedia", charset="UTF-8"'})
        return None


def _names(header: str, host: str) -> bool:
    """Whether the Host of a request is this machine, or what the site listens at."""
    name = header.rpartition(":")[0] if ":" in header.rpartition("]")[2] else header
    name = name.strip("[]")
    return name == host or is_loopback(name)


def _brought(authorization: str) -> Iterable[tuple[str, str]]:
    """What a browser sent, as a caller of the image server sends it: its password is the token."""
    kind, _, rest = authorization.partition(" ")
    if kind.lower() == "basic":
        try:
            rest = base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            rest = ""
    return [("authorization", f"Bearer {rest}")]
