"""Health and reflection over gRPC.

Health is told to callers without a token, so nothing of theirs is kept, and nobody waits for one who does not read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from crossmedia.errors import CrossMediaError, InvalidRequest, Overloaded
from crossmedia.service.admission import SHARE
from crossmedia.service.callers import caller_name
from crossmedia.service.calls import Calls, Deadlines
from crossmedia.service.failures import end_call
from crossmedia.service.rates import host_of

MAX_PROBES = 64  # under way at once
MAX_WATCHERS = 1024
MAX_STREAMS = 8  # of reflection
MAX_MESSAGE = 4096  # bytes
PROBE_S = 5.0  # to send a request and to take the answer
STREAM_S = 60.0
_STATES = health_pb2.HealthCheckResponse


class Health:
    """``grpc.health.v1`` for a few names.

    Who watches is told the state, and when it changes the stream ends, so that the caller asks again, as the protocol
    has callers do: to send a second message would be to wait for a caller who may not read.

    Args:
        names: that are known.
        deadlines: ends what takes too long.
    """

    def __init__(self, names: tuple[str, ...], deadlines: Deadlines):
        self._names, self._deadlines = names, deadlines
        self.calls = Calls(MAX_PROBES, deadlines, reading=1)
        self._lock = threading.Lock()
        self._state: int = _STATES.NOT_SERVING
        self._watchers: dict[Callable[[bytes | None], None], str] = {}

    @property
    def serving(self) -> bool:
        """Whether the state is SERVING."""
        return bool(self._state == _STATES.SERVING)

    @property
    def watchers(self) -> int:
        """Streams that wait for the state to change."""
        return len(self._watchers)

    def handler(self) -> grpc.GenericRpcHandler:
        """To be added to a server."""

        def watch(requests: Iterator[bytes], context: Any, send: Callable[[bytes | None], None]) -> None:
            self._watch(requests, context, send)

        watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # a stream holds no thread
        return grpc.method_handlers_generic_handler(
            health.SERVICE_NAME,
            {
                "Check": grpc.stream_unary_rpc_method_handler(self._check),
                "Watch": grpc.stream_stream_rpc_method_handler(watch),
            },
        )

    def set(self, serving: bool) -> None:
        """Set the state of all names."""
        with self._lock:
            self._state = _STATES.SERVING if serving else _STATES.NOT_SERVING
            watchers, self._watchers = self._watchers, {}
        for end in watchers:
            end(None)

    def _state_of(self, message: bytes) -> int:
        known = False
        if len(message) <= MAX_MESSAGE:
            try:
                known = health_pb2.HealthCheckRequest.FromString(message).service in self._names
            except DecodeError:
                raise InvalidRequest("The bytes are not a health request.") from None
        return self._state if known else _STATES.SERVICE_UNKNOWN

    def _check(self, requests: Iterator[bytes], context: Any) -> bytes:
        try:
            host = host_of(context.peer())
            with self.calls.one(host, context, PROBE_S):
                state = self._state_of(self.calls.read(host, requests, context))
        except CrossMediaError as error:
            end_call(context, error)
        if state == _STATES.SERVICE_UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "This server has no service of that name.")
        answer: bytes = _STATES(status=state).SerializeToString()
        return answer

    def _watch(self, requests: Iterator[bytes], context: Any, send: Callable[[bytes | None], None]) -> None:
        host = host_of(context.peer())
        try:
            with self.calls.one(host, context, PROBE_S):
                state = self._state_of(self.calls.read(host, requests, context))
                send(_STATES(status=state).SerializeToString())
            with self._lock:
                if state == self._state and context.add_callback(lambda: self._forget(send)):
                    mine = sum(of == host for of in self._watchers.values())
                    if len(self._watchers) >= MAX_WATCHERS or mine >= SHARE * MAX_WATCHERS:
                        raise Overloaded(f"{mine} streams of {host} watch the health of this server already.", 5.0)
                    self._watchers[send] = host
                    self._deadlines.release(context)
                    return
        except CrossMediaError as error:
            end_call(context, error)
        if state == _STATES.SERVICE_UNKNOWN:
            context.set_code(grpc.StatusCode.NOT_FOUND)
        send(None)

    def _forget(self, send: Callable[[bytes | None], None]) -> None:
        with self._lock:
            self._watchers.pop(send, None)


class Reflection:
    """Reflection for tools such as grpcurl, a few streams at a time.

    Args:
        names: of the services.
        deadlines: ends what takes too long.
        pool: where the messages of the services are described.
    """

    def __init__(self, names: tuple[str, ...], deadlines: Deadlines, pool: DescriptorPool):
        for known in (health_pb2, reflection_pb2):
            pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        self._told = reflection.ReflectionServicer((*names, reflection.SERVICE_NAME), pool=pool)
        self._calls = Calls(MAX_STREAMS, deadlines)

    def handler(self) -> grpc.GenericRpcHandler:
        """To be added to a server."""
        method: Any = grpc.stream_stream_rpc_method_handler(
            self._answer, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": method})

    def _answer(self, requests: Iterator[bytes], context: Any) -> Iterator[reflection_pb2.ServerReflectionResponse]:
        name = caller_name.get() or host_of(context.peer())
        try:
            with self._calls.one(name, context, STREAM_S):
                yield from self._told.ServerReflectionInfo(map(_parsed, requests), context)
        except CrossMediaError as error:
            end_call(context, error)


def _parsed(message: bytes) -> reflection_pb2.ServerReflectionRequest:
    if len(message) > MAX_MESSAGE:
        raise InvalidRequest(f"A request of reflection has at most {MAX_MESSAGE} bytes; this one has {len(message)}.")
    try:
        return reflection_pb2.ServerReflectionRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest("The bytes are not a reflection request.") from None
