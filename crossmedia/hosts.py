"""Hosts and ports: how they are written, which hosts are this machine, and which proxy the others need."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from crossmedia.errors import BadInput

LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # those that gRPC reads, in its order
NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")
NOT_BY_PROXY = ("localhost", "127.0.0.1", "[::1]")


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of ``host:port`` or ``[IPv6]:port``; the host is without brackets.

    Raises:
        BadInput: it is written otherwise.
    """
    host, _, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = unquote(host[1:-1]) if bracketed else host
    right = (ip_of(host) is not None) if bracketed else host and not any(c in ":/@[] " for c in host)
    if not right or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        hint = f" Write an IPv6 address in brackets: {example}." if (example := _bracketed(address.strip())) else ""
        raise BadInput(f"{address!r} must be host:port, such as localhost:7070 or [::1]:7070.{hint}")
    return host, int(port)


def _bracketed(address: str) -> str:
    """An IPv6 address with brackets and a port, if it was written without them; empty for anything else.

    ``::1:7070`` is an address as well, but hardly the one that was meant.
    """
    bare = address.replace("[", "").replace("]", "")
    host, _, port = bare.rpartition(":")
    if port.isascii() and port.isdigit() and 1024 <= int(port) <= 65535 and ":" in host and ip_of(host):
        return written(host, int(port))
    return written(bare, 7070) if ":" in bare and ip_of(bare) else ""


def written(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    host = host.strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``host`` stands for; an IPv4 address within an IPv6 one is taken out. None for a name."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_loopback(host: str) -> bool:
    """Whether data for ``host`` stays on this machine, by its name or address alone; no name server is asked."""
    name = host.strip("[]").rstrip(".").lower()
    found = ip_of(name)
    return found.is_loopback if found else name in LOCAL_NAMES or name.endswith(".localhost")


def is_this_machine(host: str) -> bool:
    """Whether a connection to ``host`` ends here: loopback, the address of all interfaces, or this machine's name."""
    found = ip_of(host.strip("[]"))
    return is_loopback(host) or (found.is_unspecified if found else host.lower() == socket.gethostname().lower())


def proxy_for(host: str) -> str:
    """The proxy that gRPC asks for ``host``, and the variable that names it; both are empty if it asks none."""
    variable = next((name for name in PROXY_VARIABLES if name in os.environ), "")
    proxy = urlsplit(os.environ.get(variable, ""))
    if proxy.scheme != "http" or not proxy.hostname:  # gRPC knows no others
        return ""
    spared = next((os.environ[name] for name in NO_PROXY_VARIABLES if os.environ.get(name)), "")
    if any(_spares(entry.strip().lower(), host.lower()) for entry in spared.split(",")):
        return ""
    port = None
    with suppress(ValueError):
        port = proxy.port
    return f"{written(proxy.hostname, port or 80)} ({variable})"  # without a password


def _spares(entry: str, host: str) -> bool:
    if not entry:
        return False
    with suppress(ValueError):
        network = ipaddress.ip_network(entry, strict=False)
        return (found := ip_of(host)) is not None and found in network
    return entry == "*" or host.endswith(entry)


def keep_loopback_from_proxies() -> None:
    """Have this process and its children connect to this machine directly, no matter which proxy the environment names.

    For libraries that read ``no_proxy``: photos behind a URL, traces. Channels to image servers see to it themselves.
    """
    if not any(name.lower().endswith("_proxy") and not name.lower().startswith("no_") for name in os.environ):
        return
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in spared.split(",") if entry.strip()]
    if "*" not in entries:
        entries += [host for host in NOT_BY_PROXY if host not in entries]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(entries)


def listening_at(host: str, port: int) -> str:
    """``host:port`` or ``[IPv6]:port`` where a daemon listens, as ``--host`` and ``--port`` say it.

    Raises:
        BadInput: the host is none.
    """
    try:
        return written(*host_and_port(written(host, port)))
    except BadInput:
        raise BadInput(
            f"--host {host!r} is neither a name nor an address, such as 0.0.0.0 or ::1. The port is --port."
        ) from None
