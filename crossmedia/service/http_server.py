"""HTTP around a service, by the standard library: bounded connections, bodies and times; TLS, tokens and request ids.

A connection has a thread, so there are few of them, and none for long: who sends half a request is closed when its time
is over, whatever it still sends.
"""

from __future__ import annotations

import logging
import math
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from prometheus_client import Histogram

from crossmedia.errors import BadInput, CrossMediaError, DeadlineExceeded, InvalidRequest, Overloaded, ServerFault
from crossmedia.hosts import host_and_port, written
from crossmedia.logs import REQUEST_ID_KEY, Sparingly, request_id, request_id_of
from crossmedia.service.admission import SHARE
from crossmedia.service.callers import caller_name
from crossmedia.service.calls import MAX_CALL_S, Deadlines
from crossmedia.service.failures import said
from crossmedia.service.ports import check_free
from crossmedia.service.security import ServerSecurity

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
MAX_BODY = 16 << 20
READ_S = 10.0  # of one read, and so of a pause of a sender
ONCE = ("authorization", "content-length", "host", "x-request-timeout-ms")  # headers of which two would contradict
REFUSED_BYTES = 1 << 20  # of a body that is refused, read so that its sender reads the answer
Code = grpc.StatusCode
STATUS = {
    **{Code.INVALID_ARGUMENT: 400, Code.UNAUTHENTICATED: 401, Code.PERMISSION_DENIED: 403},
    **{Code.FAILED_PRECONDITION: 409, Code.RESOURCE_EXHAUSTED: 429, Code.UNAVAILABLE: 503, Code.DEADLINE_EXCEEDED: 504},
}


@dataclass(frozen=True)
class HttpRequest:
    """A request that came whole.

    Attributes:
        method: GET or POST.
        path: without what stands behind a question mark.
        headers: by name in lower case.
        body: of POST.
        deadline: on the monotonic clock.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    deadline: float


@dataclass(frozen=True)
class HttpReply:
    """What goes back: JSON.

    Attributes:
        body: the JSON.
        status: of HTTP.
        route: which call it was, for metrics: one of a few names.
    """

    body: bytes
    status: int = 200
    route: str = "other"


@dataclass(frozen=True)
class HttpApi:
    """What a daemon answers by HTTP.

    Attributes:
        title: what the daemon is called in messages.
        answer: makes the reply; raises errors of ours.
        scope: of a request: what its caller's token must allow; None: it needs no token, as probes do.
        body: makes the JSON of an error's message.
        durations: seconds of calls, by route and code.
    """

    title: str
    answer: Callable[[HttpRequest], HttpReply]
    scope: Callable[[str, str], str | None]
    body: Callable[[str], bytes]
    durations: Histogram


class _Connection:
    """A connection as ``Deadlines`` sees it."""

    def __init__(self, connection: socket.socket):
        self._connection = connection

    def time_remaining(self) -> float:
        return math.inf

    def add_callback(self, function: Callable[[], None]) -> bool:
        return True

    def cancel(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class HttpServer(ThreadingHTTPServer):
    """A service at an address of HTTP.

    Args:
        api: what answers.
        address: ``host:port`` or ``[IPv6]:port``; port 0 takes a free one.
        security: who may call it, and how.

    Raises:
        BadInput: the address cannot be bound, or a file of ``security`` cannot be used.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: HttpApi, address: str, security: ServerSecurity):
        self.api = api
        self._context, self.tokens = security.http_context(), security.http_tokens()
        self.deadlines, self.sparingly = Deadlines(), Sparingly()
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()
        host, port = host_and_port(address)
        check_free(host, port)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise BadInput(f"The address {address} cannot be bound: {error}. Choose another port.") from error
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that it got."""
        return int(self.server_address[1])

    @property
    def at(self) -> str:
        """Where it answers: ``host:port``."""
        return written(str(self.server_address[0]), self.port)

    def start(self) -> None:
        """Take requests."""
        self.deadlines.start()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Take no more, and let those under way end for at most ``grace_s`` seconds."""
        self.shutdown()
        end = time.monotonic() + grace_s
        while self.busy and time.monotonic() < end:
            time.sleep(0.02)
        self.server_close()
        self.deadlines.stop()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, unless there are too many, or too many of its host: then it is closed."""
        host = str(client_address[0])
        with self._lock:
            full = sum(self._open.values()) >= MAX_CONNECTIONS or self._open[host] >= SHARE * MAX_CONNECTIONS
            if not full:
                self._open[host] += 1
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer what comes over a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open[str(client_address[0])] -= 1
                self._open += Counter()  # hosts without a connection are forgotten

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break: nobody is to be told."""
        log.debug("a connection broke", exc_info=True)

    busy = 0

    def secured(self, connection: socket.socket) -> socket.socket:
        """The connection after the greeting of TLS, where there is one.

        Raises:
            OSError: the caller greets otherwise.
        """
        if self._context is None:
            return connection
        found: ssl.SSLSocket = self._context.now().wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        found.settimeout(READ_S)
        found.do_handshake()
        return found


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "crossmedia", ""
    timeout = READ_S

    def setup(self) -> None:
        self.request.settimeout(READ_S)
        self._watched = _Connection(self.request)
        self.server.deadlines.watch(self._watched, MAX_CALL_S)
        self.request = self.server.secured(self.request)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.deadlines.release(self._watched)

    def handle_one_request(self) -> None:
        self.server.deadlines.watch(self._watched, MAX_CALL_S)  # each request has its time
        super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        pass  # requests are counted, and failures logged

    def do_GET(self) -> None:  # of http.server
        self._reply()

    def do_POST(self) -> None:
        self._reply()

    def _reply(self) -> None:
        started = time.perf_counter()
        headers = {name.lower(): value for name, value in self.headers.items()}
        number = request_id_of(headers.items())
        request_id.set(number)
        caller_name.set(self.client_address[0])
        self.server.busy += 1
        code, reply, retry = "OK", HttpReply(b""), 0.0
        try:
            reply = self._answered(headers)
        except CrossMediaError as error:
            reply, code = self._failed(error), error.grpc_code.name
            retry = error.retry_after_s if isinstance(error, Overloaded) else 0.0
        except (OSError, TimeoutError):
            self.close_connection = True  # the caller has gone, or sends nothing more
            return
        except Exception:
            log.exception("a request failed")
            reply, code = (
                self._failed(ServerFault(f"The {self.server.api.title} failed; its log says more.")),
                "INTERNAL",
            )
        finally:
            self.server.busy -= 1
            self.server.api.durations.labels(f"REST {reply.route}", code).observe(time.perf_counter() - started)
        self._send(reply, number, retry)
        request_id.set("")

    def _answered(self, headers: dict[str, str]) -> HttpReply:
        self._check_headers()
        path = self.path.partition("?")[0]
        scope = self.server.api.scope(self.command, path)
        if self.server.tokens is not None and scope is not None:
            brought = [("authorization", headers.get("authorization", ""))]
            try:
                caller_name.set(self.server.tokens.now().caller(brought, scope))
            except CrossMediaError:
                self._drop(headers)
                raise
        body = self._body(headers) if self.command == "POST" else b""
        return self.server.api.answer(
            HttpRequest(self.command, path, headers, body, time.monotonic() + _seconds(headers))
        )

    def _check_headers(self) -> None:
        """Refuse what a proxy before this server may read in another way: where a request ends, and whose it is.

        Raises:
            InvalidRequest: a header that counts once is there twice, or the body's length is said in another way.
        """
        self.close_connection, kept = True, self.close_connection  # where this request ends is not known
        for name in ONCE:
            if len(self.headers.get_all(name, [])) > 1:
                raise InvalidRequest(f"The request has several headers {name}: give one.")
        if "transfer-encoding" in self.headers:
            raise InvalidRequest("The request must say how long it is, by Content-Length, and have no other encoding.")
        if self.headers.defects or (self.command == "GET" and self.headers.get("content-length", "0") != "0"):
            raise InvalidRequest("The request has lines that are no headers, or a body where there must be none.")
        self.close_connection = kept

    def _drop(self, headers: dict[str, str]) -> None:
        """Do not look at a body: the connection is closed behind the answer, which its sender reads if it was read."""
        self.close_connection = True
        length = headers.get("content-length", "")
        self.rfile.read(min(int(length[:18]), REFUSED_BYTES) if length.isascii() and length.isdigit() else 0)

    def _body(self, headers: dict[str, str]) -> bytes:
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            self.close_connection = True
            raise InvalidRequest("The request must say how long it is, by Content-Length.")
        if int(length) > MAX_BODY:
            self._drop(headers)
            raise InvalidRequest(
                f"The request has {length} bytes; {MAX_BODY} are read at most. Send larger ones by gRPC."
            )
        return self.rfile.read(int(length))

    def _failed(self, error: CrossMediaError) -> HttpReply:
        if self.server.sparingly.allows(type(error).__name__):
            log.warning("REST failed: %s: %s", type(error).__name__, said(error))
        return HttpReply(self.server.api.body(said(error)), STATUS.get(error.grpc_code, 500))

    def _send(self, reply: HttpReply, number: str, retry_after_s: float) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header(REQUEST_ID_KEY, number)
        if retry_after_s:
            self.send_header("Retry-After", str(max(1, math.ceil(retry_after_s))))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)


def _seconds(headers: dict[str, str]) -> float:
    """Seconds that a request may take: as the caller says in ``X-Request-Timeout-Ms``, else those of any call."""
    given = headers.get("x-request-timeout-ms")
    if given is None:
        return MAX_CALL_S
    if not (given.isascii() and given.isdigit()) or len(given) > 9:
        raise InvalidRequest("X-Request-Timeout-Ms must be whole milliseconds.")
    if not int(given):
        raise DeadlineExceeded("The deadline was over before the work began.")
    return min(MAX_CALL_S, int(given) / 1000)
