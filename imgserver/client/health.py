"""What a server says of its health (``grpc.health.v1``), to a command; load balancers ask by themselves."""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

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
