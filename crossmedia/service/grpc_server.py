"""gRPC around a service: deadlines, error classes as status codes, health, reflection."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import grpc
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health
from prometheus_client import Histogram

from crossmedia.errors import BadInput, CrossMediaError, DeadlineExceeded, InvalidRequest, Overloaded, ServerFault
from crossmedia.hosts import host_and_port, written
from crossmedia.logs import REQUEST_ID_KEY, Sparingly, request_id, request_id_of
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import OnEnd, caller_name
from crossmedia.service.calls import MAX_CALL_S, MAX_CALLS, Calls, Deadlines
from crossmedia.service.failures import end_call, said
from crossmedia.service.heartbeat import Heartbeat, Work
from crossmedia.service.ports import check_free
from crossmedia.service.probes import Health, Reflection
from crossmedia.service.rates import RateLimit, host_of
from crossmedia.service.security import OPEN, ServerSecurity

log = logging.getLogger(__name__)

Answer = Callable[[Any, float, OnEnd], bytes]
SLOW_CALL_S = 5.0  # such a call is logged
MAX_STREAMS = 128  # calls under way on a connection
MAX_CONNECTION_AGE_MS, MAX_CONNECTION_IDLE_MS = 120_000, 60_000
# A connection that says nothing, or not all of a greeting, is closed soon: it takes an open file.
HANDSHAKE_MS = 10_000
UNREAD_BYTES = 256 << 10
NO_FILES = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True)
class Handled:
    """A method of a service.

    Attributes:
        request: the message that comes.
        answer: makes the reply of a message, the deadline on the monotonic clock, and what tells when the call ended.
        scope: that a caller's token needs.
        gate: given the caller's name and the deadline, refuses a call before its message is read; None: none is.
    """

    request: type[Message]
    answer: Answer
    scope: str
    gate: Callable[[str, float], None] | None = None


@dataclass(frozen=True)
class Api:
    """What a daemon answers by gRPC.

    Attributes:
        title: what the daemon is called in messages.
        name: of the service, ``package.Service``.
        methods: by name.
        admission: of the memory of messages.
        durations: seconds of calls, by method and code.
        max_message_bytes: largest message taken or sent.
        amount: how many pieces of work a request asks for, which the limit of a caller counts.
        pool: where the messages are described.
    """

    title: str
    name: str
    methods: Mapping[str, Handled]
    admission: Admission
    durations: Histogram
    max_message_bytes: int
    amount: Callable[[Message], int] = lambda request: 1
    pool: DescriptorPool = Default()  # the one of the process

    @property
    def scopes(self) -> dict[str, str]:
        """``/package.Service/Method`` -> the scope that a call of it needs."""
        return {f"/{self.name}/{method}": handled.scope for method, handled in self.methods.items()}


class Methods:
    """The methods of a service: a message in, a reply out, and an error of ours for whatever goes wrong.

    Args:
        api: what answers.
        deadlines: ends what takes too long.
        limit: of each caller's pieces of work a second; None: no limit.
    """

    def __init__(self, api: Api, deadlines: Deadlines, limit: RateLimit | None = None):
        self._api, self._limit = api, limit
        self.calls = Calls(MAX_CALLS, deadlines)
        self._durations = cache(api.durations.labels)  # which takes as long as the rest of it
        self._sparingly = Sparingly()

    def handlers(self) -> dict[str, Any]:
        """Handlers of streams, unlike the generated ones, so that a call is counted before its message is read."""
        names = self._api.methods
        return {name: grpc.stream_unary_rpc_method_handler(partial(self.answer, name)) for name in names}

    def answer(self, method: str, requests: Iterator[bytes], context: Any) -> bytes:
        """Answer one call; an error of ours ends it with its code, its class name, and when to retry.

        The id of the request goes back with every answer, and stands in every line that is logged meanwhile.
        """
        started = time.perf_counter()
        number = request_id_of(context.invocation_metadata())
        context.set_trailing_metadata([(REQUEST_ID_KEY, number)])
        request_id.set(number)  # threads belong to one call at a time
        caller_name.set(caller_name.get() or host_of(context.peer()))
        code, failed = grpc.StatusCode.OK, None
        try:
            return self._answered(method, requests, context)
        except CrossMediaError as error:
            failed = error
            if self._sparingly.allows(type(error).__name__):
                log.warning("%s failed: %s: %s", method, type(error).__name__, said(error))
        except grpc.RpcError:  # the caller has gone
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_FILES:
                failed = Overloaded(f"The {self._api.title} has no file left to open. Try again in 1 s.", 1.0)
                log.error("%s failed: %s; raise the limit of open files (ulimit -n)", method, error)
            else:
                log.exception("a call failed")  # the trace stays here; the peer learns only that it happened
                failed = ServerFault(f"The {self._api.title} failed; its log says more.")
        finally:
            seconds = time.perf_counter() - started
            code = failed.grpc_code if failed else code
            self._durations(method, code.name).observe(seconds)
            if seconds > SLOW_CALL_S:
                log.warning("%s took %.1f s", method, seconds)
            request_id.set("")
        end_call(context, failed, [(REQUEST_ID_KEY, number)])

    def _answered(self, method: str, requests: Iterator[bytes], context: Any) -> bytes:
        handled = self._api.methods[method]
        name, seconds = caller_name.get(), _seconds_left(context)
        deadline = time.monotonic() + seconds
        if handled.gate is not None:
            handled.gate(name, deadline)
        with self.calls.one(name, context, seconds):
            message = self.calls.read(name, requests, context)
            with self._api.admission.take(Cost(size=len(message)), name):
                request = _parsed(method, handled.request, message)
                del message
                if self._limit is not None:
                    self._limit.take(name, self._api.amount(request))
                return handled.answer(request, deadline, context.add_callback)


def _parsed(method: str, kind: type[Message], message: bytes) -> Message:
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidRequest(
            f"The bytes are no request of {method}. Client and server may be of different releases."
        ) from None


def _seconds_left(context: Any) -> float:
    left = context.time_remaining()
    seconds = MAX_CALL_S if left is None else min(float(left), MAX_CALL_S)
    if seconds <= 0:
        raise DeadlineExceeded("The deadline was over before the work began.")
    return seconds


def _bind(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Have a server listen at ``address``; return it with the port that it got.

    Raises:
        BadInput: it cannot, with the reason.
    """
    host, port = host_and_port(address)
    check_free(host, port)  # gRPC would say it on standard error in its own words before it fails
    where = written(host, port)
    try:
        bound = server.add_insecure_port(where) if credentials is None else server.add_secure_port(where, credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise BadInput(f"The address {where} cannot be bound. Choose another --host or --port.")
    return written(host, bound)


class GrpcServer:
    """A service at an address.

    Args:
        api: what answers.
        work: what its health watches.
        probe_after_s: seconds without work until its health probes it.
        address: ``host:port`` or ``[IPv6]:port``; port 0 takes a free one.
        security: who may call it, and how.
        interceptors: around every call, such as those of ``tracing``.
        max_connections: that are open at once; None: as many as the system allows.

    Raises:
        BadInput: the port is taken, or the address cannot be bound; or a file of ``security`` cannot be used.
    """

    def __init__(
        self,
        api: Api,
        work: Work,
        probe_after_s: float,
        address: str,
        security: ServerSecurity = OPEN,
        interceptors: Sequence[grpc.ServerInterceptor] = (),
        max_connections: int | None = None,
    ):
        most = api.max_message_bytes
        credentials = security.credentials()
        limited = [] if max_connections is None else [("grpc.max_allowed_incoming_connections", max_connections)]
        self._server = grpc.server(
            ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="call"),  # those that idle cost nothing but stack
            maximum_concurrent_rpcs=MAX_CALLS,
            interceptors=[*interceptors, *security.interceptors(api.scopes, api.durations)],
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
                ("grpc.max_connection_age_grace_ms", int(2000 * MAX_CALL_S)),
                ("grpc.max_connection_idle_ms", MAX_CONNECTION_IDLE_MS),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
                # What a connection takes of a message before the call reads it; else it grows to 4 MiB a call.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
                *limited,
            ],
        )
        self._deadlines = Deadlines()
        self.methods = Methods(api, self._deadlines, security.rate_limit())
        self._server.add_registered_method_handlers(api.name, self.methods.handlers())
        names = (api.name, health.SERVICE_NAME)
        self.health = Health(("", *names), self._deadlines)
        reflected = Reflection(names, self._deadlines, api.pool)
        self._server.add_generic_rpc_handlers((self.health.handler(), reflected.handler()))
        self.address = _bind(self._server, address, credentials)
        self._heartbeat = Heartbeat(work, self.health.set, probe_after_s)

    def start(self) -> None:
        """Take calls; healthy once a probe went through."""
        self._deadlines.start()
        self._server.start()
        self._heartbeat.start()

    def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no new calls, let those under way end for at most ``grace_s`` seconds."""
        self._heartbeat.stop()
        self.health.set(False)
        self._server.stop(grace_s).wait()
        self._deadlines.stop()
