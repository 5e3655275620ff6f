"""What gRPC is told of an address: one server, or copies of one; and that this machine is asked without a proxy."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from urllib.parse import unquote

from crossmedia.errors import BadInput, ServerUnavailable
from crossmedia.hosts import host_and_port, is_loopback, is_this_machine, proxy_for, written

# Calls go to every copy that is connected and says SERVING, in turn.
ROUND_ROBIN = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "crossmedia.v1.ImageService"},
    }
)
SCHEMES = ("dns:", "ipv4:", "ipv6:")
SOCKETS = ("unix:", "unix-abstract:", "vsock:")  # of this machine; gRPC would ask a proxy for the latter two
Option = tuple[str, str | int]
NO_PROXY: Option = ("grpc.enable_http_proxy", 0)


def channel_target(address: str) -> tuple[str, list[Option]]:
    """The target and the options of a channel.

    Args:
        address: ``host:port``, ``[IPv6]:port`` or ``unix:path`` of one server; ``host:port,host:port`` of copies; or
            ``dns:///name:port``, whose records are copies that come and go, as of a headless Service of Kubernetes.

    Raises:
        BadInput: an address has no port.
        ServerUnavailable: a host of a list has no address (now).
    """
    address = address.strip()
    direct = [NO_PROXY] if _goes_directly(address) else []
    if "," in address and not address.startswith((*SCHEMES, *SOCKETS)):
        address = _resolved([part for part in address.split(",") if part.strip()])
    if not address.startswith(SCHEMES):
        if not address.startswith(SOCKETS):
            address = written(*host_and_port(address))
        # One server is asked whatever it says of its health: its own refusal says more than ours could.
        return address, direct
    more: list[Option] = [("grpc.service_config", ROUND_ROBIN), ("grpc.dns_min_time_between_resolutions_ms", 5_000)]
    return address, [*direct, *more]


def hosts_of(address: str) -> list[str]:
    """The hosts that an address names; none for a socket of this machine."""
    if address.startswith(SOCKETS):
        return []
    scheme = next((scheme for scheme in SCHEMES if address.startswith(scheme)), "")
    rest = address[len(scheme) :].removeprefix("///")
    if rest.startswith("//"):  # who is to be asked for the name
        rest = rest[2:].partition("/")[2]
    found = []
    for part in rest.split(","):
        with suppress(BadInput):
            found.append(host_and_port(unquote(part.strip()))[0])
    return found


def stays_here(address: str) -> bool:
    """Whether whatever goes to ``address`` stays on this machine."""
    hosts = hosts_of(address)
    return address.startswith(SOCKETS) or (bool(hosts) and all(is_loopback(host) for host in hosts))


def proxy_said(address: str) -> str:
    """For an error message: which proxy was asked, and how to avoid it; empty where none was."""
    hosts = [] if _goes_directly(address) else hosts_of(address)
    proxy = next((found for host in hosts if (found := proxy_for(host))), "")
    if not proxy:
        return ""
    return (
        f" It was asked through the proxy {proxy} of the environment; a server that is to be reached directly "
        f"belongs into no_proxy: no_proxy={','.join(hosts)}."
    )


def _goes_directly(address: str) -> bool:
    """Whether no proxy may be asked: for this machine, and for lists, which gRPC would ask for as one strange name."""
    hosts = hosts_of(address)
    return address.startswith(SOCKETS) or len(hosts) > 1 or (bool(hosts) and is_this_machine(hosts[0]))


def _resolved(parts: list[str]) -> str:
    """The addresses of a list, of each name one of each kind; IPv4 is written as IPv6 where both are there."""
    found: list[tuple[str, int]] = []
    for part in parts:
        host, port = host_and_port(part)
        try:
            known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ServerUnavailable(f"The host of the image server {part.strip()} is not known: {error}.") from error
        for family in (socket.AF_INET, socket.AF_INET6):
            found += [(str(where[0]), port) for kind, *_, where in known if kind == family][:1]
    if not any(":" in ip for ip, _ in found):
        return "ipv4:" + ",".join(written(ip, port) for ip, port in found)
    return "ipv6:" + ",".join(written(ip if ":" in ip else f"::ffff:{ip}", port) for ip, port in found)
