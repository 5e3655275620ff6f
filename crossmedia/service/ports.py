"""Check that a server can listen on a port, and say why not: gRPC says only that it failed."""

from __future__ import annotations

import errno
import socket
from typing import Any

from crossmedia.errors import BadInput
from crossmedia.hosts import written

NO_IPV6 = "this machine has no IPv6"
REASONS = {
    errno.EADDRINUSE: "the port is taken. Choose another --port (0 takes a free one), or stop what listens there",
    errno.EADDRNOTAVAIL: "the host is not of this machine. Choose another --host: 127.0.0.1 for callers from this "
    "machine, 0.0.0.0 for all",
    errno.EACCES: "only root may listen at ports below 1024. Choose another --port",
    errno.EAFNOSUPPORT: f"{NO_IPV6}. Choose another --host: 127.0.0.1 for callers from this machine, 0.0.0.0 for all",
}


def check_free(host: str, port: int) -> None:
    """Listen on a port for a moment.

    Args:
        host: name or address, without brackets.
        port: 0 for any.

    Raises:
        BadInput: it cannot be, with the reason.
    """
    where = written(host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BadInput(f"The address {where} cannot be bound: the host is not known ({error}).") from error
    failed = [failure for family, _, _, _, at in dict.fromkeys(found) if (failure := _failure(family, at))]
    taken = [failure for failure in failed if failure.errno == errno.EADDRINUSE]
    if not taken and len(failed) < len(dict.fromkeys(found)):
        return
    why = (taken or failed)[0]
    code = why.errno or 0
    if code == errno.EADDRNOTAVAIL and ":" in host and _failure(socket.AF_INET6, ("::1", 0)):
        code = errno.EAFNOSUPPORT
    raise BadInput(f"The address {where} cannot be bound: {REASONS.get(code, str(why))}.") from why


def _failure(family: int, at: tuple[Any, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(at)
            listening.listen(1)
    except OSError as error:
        return error
    return None
