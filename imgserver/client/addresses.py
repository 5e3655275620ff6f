"""What gRPC is told of an address: one server, or copies of one among which calls go round."""

from __future__ import annotations

import json
import socket

from imgserver.errors import BadInput, ServerUnavailable

# Calls go to every copy that is connected and says SERVING, in turn.
ROUND_ROBIN = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "crossmedia.v1.ImageService"},
    }
)
SCHEMES = ("dns:", "ipv4:", "ipv6:")


def channel_target(address: str) -> tuple[str, list[tuple[str, str | int]]]:
    """The target and the options of a channel.

    Args:
        address: ``host:port`` or ``unix:path`` of one server; ``host:port,host:port`` of copies; or
            ``dns:///name:port``, whose records are copies that come and go, as of a headless Service of Kubernetes.

    Raises:
        BadInput: an address of a list has no port.
        ServerUnavailable: a host of a list has no address (now).
    """
    if "," in address and not address.startswith(SCHEMES):
        address = "ipv4:" + ",".join(_resolved(part.strip()) for part in address.split(",") if part.strip())
    if not address.startswith(SCHEMES):
        # One server is asked whatever it says of its health: its own refusal says more than ours could.
        return address, []
    return address, [("grpc.service_config", ROUND_ROBIN), ("grpc.dns_min_time_between_resolutions_ms", 5_000)]


def _resolved(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise BadInput(f"{address!r} in a list of servers must be host:port.")
    try:
        (found, *_) = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise ServerUnavailable(f"The host of the image server {address} is not known: {error}.") from error
    return f"{found[4][0]}:{port}"
