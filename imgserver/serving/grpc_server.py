"""gRPC around the service: deadlines, error classes as status codes, health, reflection."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import grpc
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.v1 import image_server_pb2_grpc as pb_grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from imgserver.errors import (
    BadInput,
    CrossMediaError,
    DeadlineExceeded,
    InvalidRequest,
    ServerFault,
)
from imgserver.logs import REQUEST_ID_KEY, Sparingly, request_id, request_id_of
from imgserver.serving.failures import end_call, said
from imgserver.serving.health import SERVICE_NAME, Heartbeat
from imgserver.serving.security import OPEN, ServerSecurity
from imgserver.serving.service import ImageService
from imgserver.wire import encode_reply

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
# A call that waits for the CNN holds a thread; more threads than callers cost nothing but stack.
CALL_THREADS = 64
NO_DEADLINE_S = 60.0
SLOW_CALL_S = 5.0  # such a call is logged
MAX_CONNECTION_AGE_MS = 120_000
MAX_STREAMS = 128  # calls under way on a connection


class _Servicer(pb_grpc.ImageServiceServicer):
    def __init__(self, service: ImageService):
        self._service = service
        self._durations = service.metrics.rpc_duration
        self._sparingly = Sparingly()

    def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> pb.GetInfoResponse:  # noqa: N802
        return self._answer("GetInfo", context, lambda deadline: self._service.get_info())

    def GetVectors(self, request: pb.GetVectorsRequest, context: Any) -> bytes:  # type: ignore[override]  # noqa: N802
        return self._answer(
            "GetVectors",
            context,
            lambda deadline: encode_reply(self._service.get_vectors(request, deadline, context.add_callback)),
        )

    def PutImages(self, request: pb.PutImagesRequest, context: Any) -> pb.PutImagesResponse:  # noqa: N802
        return self._answer(
            "PutImages", context, lambda deadline: self._service.put_images(request, deadline, context.add_callback)
        )

    def PutHead(self, request: pb.PutHeadRequest, context: Any) -> pb.PutHeadResponse:  # noqa: N802
        return self._answer("PutHead", context, lambda deadline: self._service.put_head(request))

    def GetHeadGradient(self, request: pb.GetHeadGradientRequest, context: Any) -> pb.GetHeadGradientResponse:  # noqa: N802
        return self._answer(
            "GetHeadGradient",
            context,
            lambda deadline: self._service.get_head_gradient(request, deadline, context.add_callback),
        )

    def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:  # noqa: N802
        return self._answer(
            "Search", context, lambda deadline: self._service.search(request, deadline, context.add_callback)
        )

    def GetThumbnails(self, request: pb.GetThumbnailsRequest, context: Any) -> pb.GetThumbnailsResponse:  # noqa: N802
        return self._answer("GetThumbnails", context, lambda deadline: self._service.get_thumbnails(request))

    def _answer(self, method: str, context: Any, work: Callable[[float], Reply]) -> Reply:
        """Do the work; an error of ours ends the call with its code, its class name, and when to retry.

        The id of the request goes back with every answer, and stands in every line that is logged meanwhile.
        """
        started = time.perf_counter()
        number = request_id_of(context.invocation_metadata())
        context.set_trailing_metadata([(REQUEST_ID_KEY, number)])
        request_id.set(number)  # threads belong to one call at a time
        failed: CrossMediaError | None = None
        try:
            return work(time.monotonic() + _seconds_left(context))
        except CrossMediaError as error:
            failed = error
            if self._sparingly.allows(type(error).__name__):
                log.warning("%s failed: %s: %s", method, type(error).__name__, said(error))
        except Exception:
            log.exception("a call failed")  # the trace stays here; the peer learns only that it happened
            failed = ServerFault("The image server failed; its log says more.")
        finally:
            seconds = time.perf_counter() - started
            code = failed.grpc_code if failed else grpc.StatusCode.OK
            self._durations.labels(method, code.name).observe(seconds)
            if seconds > SLOW_CALL_S:
                log.warning("%s took %.1f s", method, seconds)
            request_id.set("")
        end_call(context, failed, [(REQUEST_ID_KEY, number)])


def _seconds_left(context: Any) -> float:
    left = context.time_remaining()
    seconds = NO_DEADLINE_S if left is None else min(float(left), NO_DEADLINE_S)
    if seconds <= 0:
        raise DeadlineExceeded("The deadline was over before the work began.")
    return seconds


def _handlers(servicer: _Servicer) -> dict[str, Any]:
    """In the place of the generated ones: what is malformed is the caller's fault, and replies may be bytes already."""
    return {
        method.name: grpc.unary_unary_rpc_method_handler(
            partial(_call, servicer, method.name),
            request_deserializer=partial(_parse, GetMessageClass(method.input_type)),
            response_serializer=None
            if method.name == "GetVectors"
            else GetMessageClass(method.output_type).SerializeToString,
        )
        for method in pb.DESCRIPTOR.services_by_name["ImageService"].methods
    }


def _parse(kind: type[Message], data: bytes) -> Message | DecodeError:
    """A request, or why it is none: raised here, gRPC would log a trace and call it an error of the server."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        return error


def _call(servicer: _Servicer, method: str, request: Message | DecodeError, context: Any) -> Any:
    if not isinstance(request, DecodeError):
        return getattr(servicer, method)(request, context)

    def refuse(deadline: float) -> None:
        raise InvalidRequest(f"The bytes are no request of {method}. Client and server may be of different releases.")

    return servicer._answer(method, context, refuse)


class GrpcServer:
    """A service at an address.

    Args:
        service: what answers.
        address: ``host:port``; port 0 takes a free one.
        security: who may call it, and how.
        interceptors: around every call, such as those of ``tracing``.

    Raises:
        BadInput: the port is taken, or the address cannot be bound; or a file of ``security`` cannot be used.
    """

    def __init__(
        self,
        service: ImageService,
        address: str,
        security: ServerSecurity = OPEN,
        interceptors: Sequence[grpc.ServerInterceptor] = (),
    ):
        most = service.config.max_message_bytes
        credentials = security.credentials()
        self._server = grpc.server(
            ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="call"),
            interceptors=[*interceptors, *security.interceptors(service.metrics.rpc_duration)],
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", most),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                # So that callers look the name up again from time to time, and find copies that were added.
                ("grpc.max_connection_age_ms", MAX_CONNECTION_AGE_MS),
                # More wait with the caller. Without a limit gRPC keeps thousands of calls that were opened and
                # cancelled at once, and drops calls of others for them ("rapid reset").
                ("grpc.max_concurrent_streams", MAX_STREAMS),
            ],
        )
        servicer = _Servicer(service)
        pb_grpc.add_ImageServiceServicer_to_server(servicer, self._server)
        self._server.add_registered_method_handlers(SERVICE_NAME, _handlers(servicer))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._set_health(False)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        host, _, port = address.rpartition(":")
        try:
            # gRPC would say a taken port on standard error in its own words before it fails.
            socket.create_server((host, int(port))).close()
            if credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials)
        except (OSError, RuntimeError):
            bound = 0
        if not bound:
            raise BadInput(
                f"The address {address} cannot be bound: the port is taken, or the host is not of this machine. "
                f"Choose another --port (0 takes a free one), or stop what listens there."
            )
        self.address = f"{host}:{bound}"
        self._heartbeat = Heartbeat(service, self._set_health)

    def start(self) -> None:
        """Take calls; healthy once a probe went through."""
        self._server.start()
        self._heartbeat.start()

    def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no new calls, let those under way end for at most ``grace_s`` seconds."""
        self._heartbeat.stop()
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()

    def _set_health(self, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        for name in ("", SERVICE_NAME):
            self._health.set(name, states.SERVING if serving else states.NOT_SERVING)
