"""What a server says of its health (``grpc.health.v1``), to a command; load balancers ask by themselves."""

from __future__ import annotations

from dataclasses import replace

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from crossmedia.imgserver.client.failures import IMAGE_SERVER, Server, translated
from crossmedia.imgserver.client.security import ClientSecurity, open_channel

_CHECK = "/grpc.health.v1.Health/Check"


def health_state(channel: grpc.Channel, timeout_s: float) -> str:
    """``SERVING``, ``NOT_SERVING``, …; or what is wrong with the answer, whatever it holds.

    Args:
        channel: to the server.
        timeout_s: seconds to wait.

    Raises:
        grpc.RpcError: it does not answer.
    """
    request = health_pb2.HealthCheckRequest(service="").SerializeToString()
    ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_CHECK)
    answer = ask(request, timeout=timeout_s)
    try:
        status = health_pb2.HealthCheckResponse.FromString(answer).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))
    except (DecodeError, ValueError):
        return "answering with what is no state of health"


def health_of(address: str, timeout_s: float, server: Server = IMAGE_SERVER) -> str:
    """``health_state`` of the server at ``address``, by TLS where the environment says so, and without a token.

    Raises:
        BadInput: the address is none, or a file of TLS cannot be used.
        CrossMediaError: it does not answer; the message says what was tried, and what to do.
    """
    security = replace(ClientSecurity.from_environment(), token_file=None)  # health is told without one
    with open_channel(address, security) as channel:
        try:
            return health_state(channel, timeout_s)
        except grpc.RpcError as error:
            raise translated(error, address, timeout_s, "of health", server) from None
