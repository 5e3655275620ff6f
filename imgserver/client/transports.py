"""How one call reaches a server. A transport knows nothing of splitting, retries or statuses."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from crossmedia.errors import BadInput, CrossMediaError
from crossmedia.forks import check_not_forked
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.arguments import check_servers
from crossmedia.imgserver.client.failures import broken, translated
from crossmedia.imgserver.client.security import ClientSecurity, Metadata, open_channel
from crossmedia.imgserver.client.server_info import MAX_MESSAGE_BYTES
from crossmedia.imgserver.client.silence import Watched
from crossmedia.imgserver.wire import GET_VECTORS, METHODS, Method, Reply, VectorsReply, decode_reply
from crossmedia.logs import REQUEST_ID_KEY, new_request_id
from crossmedia.secret_files import Followed
from crossmedia.v1 import image_server_pb2 as pb

CONNECT_OPTIONS = [
    # What is asked for at once fits, whatever limits a server tells; gRPC's own 4 MiB ceiling only gets in the way.
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # Retries are ours: they share one deadline over all the calls of a ``get``.
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A connection behind which nobody is any more was given up after gRPC's own minute.
    ("grpc.http2.ping_timeout_ms", 20_000),
    # A server that was restarted is found again within seconds; gRPC's own pauses grow to two minutes.
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


class Transport(Protocol):
    """How calls reach a server; failures are raised as the classes of ``crossmedia.errors``.

    Example:
        A transport of your own counts what is sent, and leaves the rest to another one:

        >>> from crossmedia import ImageClient
        >>> from crossmedia.imgserver.client import GrpcTransport
        >>> class Counting:
        ...     address, sent = "localhost:7070", 0
        ...     def __init__(self):
        ...         self.way = GrpcTransport(self.address)
        ...     def call(self, method, request, timeout_s):
        ...         self.sent += request.ByteSize()
        ...         return self.way.call(method, request, timeout_s)
        ...     def get_vectors(self, request, timeout_s):
        ...         self.sent += request.ByteSize()
        ...         return self.way.get_vectors(request, timeout_s)
        ...     def close(self):
        ...         self.way.close()
        >>> way = Counting()
        >>> with ImageClient(way) as client:
        ...     vectors = client.get([1, 2, 3])
        >>> way.sent >= 3 * 8
        True
    """

    @property
    def address(self) -> str:
        """How errors name the server."""
        ...

    def call(self, method: Method[Reply], request: Message, timeout_s: float) -> Reply:
        """Make a call and wait for its reply.

        Args:
            method: of the contract; ``method.path`` is how gRPC names it, ``method.reply`` the class of its reply.
            request: a ``method.request``.
            timeout_s: seconds that it may take.

        Raises:
            CrossMediaError: the call failed.
        """
        ...

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """Start ``GetVectors``; several may be in flight."""
        ...

    def close(self) -> None:
        """Give up the connection."""
        ...


class Pending(Protocol):
    """A call under way."""

    def result(self) -> VectorsReply:
        """The reply.

        Raises:
            CrossMediaError: the call failed.
        """
        ...


class _GrpcPending:
    def __init__(self, wait: Callable[[], bytes], address: str, timeout_s: float, request: str):
        self._wait, self._address, self._timeout_s, self._request = wait, address, timeout_s, request

    def result(self) -> VectorsReply:
        try:
            with Watched(self._address, self._timeout_s):
                message = self._wait()
            return decode_reply(message)
        except grpc.RpcError as error:
            raise translated(error, self._address, self._timeout_s, self._request) from None
        except ValueError as error:
            raise broken(self._address, str(error)) from None


class GrpcTransport:
    """A daemon at ``address``, or copies of one among which calls go round: see ``channel_target``.

    The channel is opened by the first call of each process, so that a transport that was made, or even used, before
    a fork works in the child too: a gRPC channel must not be used by a forked process.

    Args:
        address: of the server.
        security: TLS and token; None takes what the environment says.

    Example:
        >>> from crossmedia import ImageClient
        >>> from crossmedia.imgserver.client import ClientSecurity, GrpcTransport
        >>> with ImageClient(GrpcTransport("localhost:7070", ClientSecurity())) as client:
        ...     len(client.get([1, 2]))
        2
    """

    def __init__(self, address: str, security: ClientSecurity | None = None):
        check_servers([address], security)
        self.address = address
        self._security = security or ClientSecurity.from_environment()
        self._token: Followed[Metadata] | None = None
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "security": self._security}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a subclass may take other arguments; there is none

    def _method(self, method: Method[Any]) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        """One that takes and gives bytes, which are read here: gRPC would log a trace of those that it cannot read."""
        if self._channel is None or self._pid != os.getpid():
            if self._pid != os.getpid():
                self._lock = threading.Lock()  # the parent's may have been held during the fork
            with self._lock:
                if self._channel is None or self._pid != os.getpid():
                    self._token = self._security.token()
                    self._channel = open_channel(self.address, self._security, CONNECT_OPTIONS)
                    self._methods = {known.name: self._channel.unary_unary(known.path) for known in METHODS}
                    self._pid = os.getpid()
        return self._methods[method.name]

    def call(self, method: Method[Reply], request: Message, timeout_s: float) -> Reply:
        """Make a call and wait for its reply."""
        start, number = self._method(method), new_request_id()
        try:
            reply = start(request.SerializeToString(), timeout=timeout_s, metadata=self._metadata(number))
        except grpc.RpcError as error:
            raise translated(error, self.address, timeout_s, number) from None
        return replies.parsed(method.reply, reply, self.address)

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """Start ``GetVectors``."""
        start, number = self._method(GET_VECTORS), new_request_id()
        call = start.future(request.SerializeToString(), timeout=timeout_s, metadata=self._metadata(number))
        return _GrpcPending(call.result, self.address, timeout_s, number)

    def get_vectors_alone(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """``GetVectors`` that begins when its result is asked for, and then blocks.

        For a call that no other of its ``get`` is beside: gRPC starts a thread for one that does not block, if there
        is none, and hands the reply over from there, which takes as long as a small call.
        """
        start, number = self._method(GET_VECTORS), new_request_id()
        message, metadata = request.SerializeToString(), self._metadata(number)
        wait = partial(start, message, timeout=timeout_s, metadata=metadata)
        return _GrpcPending(wait, self.address, timeout_s, number)

    def _metadata(self, request: str) -> Metadata:
        token = () if self._token is None else self._token.now()
        return ((REQUEST_ID_KEY, request), *token)

    def close(self) -> None:
        """Close the channel."""
        if self._channel is not None and self._pid == os.getpid():
            self._channel.close()
        self._channel = None


class Service(Protocol):
    """What answers calls in this process, as ``ImageService`` does."""

    def answer(self, method: Method[Reply], request: Message, deadline: float) -> Reply:
        """The reply to any call but ``GetVectors``; ``deadline`` is on the monotonic clock."""
        ...

    def get_vectors(self, request: pb.GetVectorsRequest, deadline: float) -> VectorsReply:
        """The reply to ``GetVectors``."""
        ...

    def close(self) -> None:
        """Give up what it holds."""
        ...


class LocalTransport:
    """Calls a service right here.

    ``imgserver.open_local(path)`` makes one over a store. The transport closes its service when it is closed.

    Example:
        >>> from crossmedia import ImageClient
        >>> from crossmedia.imgserver import open_local
        >>> with ImageClient(open_local("store")) as client:
        ...     client.get([1, 2]).values.shape
        (2, 16)
    """

    address = "(in this process)"

    def __init__(self, service: Service):
        self._service, self._pid = service, os.getpid()

    def __reduce__(self) -> str:
        """Refuse to be sent to another process, in words: a store is open in one process.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            "A client of a store that is open in this process cannot be sent to another one. Open the store there, in "
            "the worker, with crossmedia.open_store(...), or send a client of a server, which connects anew."
        )

    def call(self, method: Method[Reply], request: Message, timeout_s: float) -> Reply:
        """Have the service answer."""
        self._check_process()
        return self._service.answer(method, request, time.monotonic() + timeout_s)

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """Have the service look vectors up, here and now."""
        self._check_process()
        done: Future[VectorsReply] = Future()
        try:
            done.set_result(self._service.get_vectors(request, time.monotonic() + timeout_s))
        except CrossMediaError as error:
            done.set_exception(error)
        return done

    def _check_process(self) -> None:
        """A forked process has the tables that were mapped, and would answer from them without following changes."""
        check_not_forked(self._pid, "A client of a store")

    def close(self) -> None:
        """Close the service."""
        self._service.close()
