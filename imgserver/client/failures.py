"""Calls that failed, and replies that are broken, as errors of ours.

A server names the class of its error, and when to come back, in the metadata of the failed call. A name that does not
belong to the call's code is passed over, text is cut and made printable, and a time that is none is an error of the
reply.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import grpc

from crossmedia.errors import (
    ERROR_NAME_KEY,
    RETRY_AFTER_KEY,
    CrossMediaError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerFault,
    ServerUnavailable,
    error_class,
)
from crossmedia.imgserver.client.addresses import proxy_said

MOST_SAID = 1000  # characters of what a server says
RETRY_AFTER_MS = 100  # where it does not say when to come back
_MILLISECONDS = re.compile(r"[0-9]{1,9}", re.ASCII).fullmatch  # up to 11 days
# What gRPC says of a stream that the other side reset: it was restarted, or has no threads, memory or files left.
_RESET = re.compile(r"RST_STREAM|Stream removed|Connection reset|GOAWAY", re.IGNORECASE).search


class Server(NamedTuple):
    """A kind of server, as messages name it: what it is called, and the command that starts one."""

    title: str
    command: str


IMAGE_SERVER = Server("image server", "imgserver serve")


def printable(text: str, most: int = MOST_SAID) -> str:
    """Text of others for a terminal, a log or a page: in one line, without control characters, and not too long."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown if len(text) <= most and len(shown) <= most else f"{shown[:most]}…"


def broken(server: str, what: str) -> ServerFault:
    """The error of a reply that no server of ours sends.

    Args:
        server: its address.
        what: is wrong, with which value.
    """
    return ServerFault(
        f"The reply of the image server at {server} is broken: {printable(what)}. Nothing of it was used. Compare "
        f"its release ('imgserver info') with this one ('crossmedia --version'), and look whether the server, and what "
        f"lies between, can be trusted."
    )


def translated(
    error: Any, address: str, timeout_s: float, request: str, server: Server = IMAGE_SERVER
) -> CrossMediaError:
    """The class that the server raised, with its message and the id of the request, by which its log can be searched.

    For faults on the way to the server, the message says what to do.

    Args:
        error: gRPC's.
        address: of the server.
        timeout_s: that the call had.
        request: id of the request.
        server: what should answer there.
    """
    found = _translated(error, address, timeout_s, f" (request {request})", server)
    found.request_id = request
    return found


def _translated(error: Any, address: str, timeout_s: float, in_log: str, server: Server) -> CrossMediaError:
    title = server.title
    code, details = error.code(), printable(error.details() or "")
    metadata = dict(error.trailing_metadata() or ())
    name = metadata.get(ERROR_NAME_KEY)
    cls = error_class(name, code)
    if name is None:
        if cls is ServerUnavailable:
            return ServerUnavailable(
                f"No {title} answers at {address}. Start one with 'crossmedia {server.command}', or check the address, "
                f"and whether it takes TLS ({details}).{proxy_said(address)}"
            )
        if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED) and _RESET(details):
            return ServerUnavailable(
                f"The {title} at {address} broke the call off ({details}). It may be restarting, or out of "
                f"memory, threads or files; its log says more{in_log}."
            )
        if cls is Overloaded and "CLIENT: Received message larger than max" in details:
            return broken(address, f"it is larger than this client takes ({details})")
        if cls is Overloaded and "message larger than max" in details:  # of gRPC, which never relents
            return InvalidRequest(f"A message to or from the {title} at {address} is too large: {details}{in_log}.")
        if cls is Overloaded and "metadata size exceeds" in details:
            return broken(address, f"its metadata is too large ({details})")
        if cls is DeadlineExceeded:
            late = f"The {title} at {address} did not answer within {timeout_s:.3g} s{in_log}."
            return DeadlineExceeded(late + proxy_said(address))
    said = (details or f"The {title} at {address} failed with {code.name}.") + in_log
    if cls is not Overloaded:
        return cls(said)
    after = str(metadata.get(RETRY_AFTER_KEY, RETRY_AFTER_MS))
    if not _MILLISECONDS(after):
        return broken(address, f"it is to be asked again after {after!r} ms, which is no number of milliseconds")
    return Overloaded(said, retry_after_s=int(after) / 1000)
