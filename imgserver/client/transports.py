"""How one call reaches a server. A transport knows nothing of splitting, retries or statuses."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.client import replies
from crossmedia.imgserver.client.failures import broken, translated
from crossmedia.imgserver.client.results import MAX_MESSAGE_BYTES
from crossmedia.imgserver.client.security import ClientSecurity, Metadata, open_channel
from crossmedia.imgserver.wire import METHODS, VectorsReply, decode_reply
from crossmedia.logs import REQUEST_ID_KEY, new_request_id
from crossmedia.secret_files import Followed
from crossmedia.v1 import image_server_pb2 as pb

Reply = TypeVar("Reply", bound=Message)

log = logging.getLogger(__name__)

SILENT_S = 5.0  # after which it is said that nothing came
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
    """One call each; failures are raised as the classes of ``crossmedia.errors``."""

    @property
    def address(self) -> str:
        """How errors name the server."""
        ...

    def get_info(self, timeout_s: float) -> pb.GetInfoResponse:
        """Call ``GetInfo``."""
        ...

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """Start ``GetVectors``; several may be in flight."""
        ...

    def put_images(self, request: pb.PutImagesRequest, timeout_s: float) -> pb.PutImagesResponse:
        """Call ``PutImages``."""
        ...

    def search(self, request: pb.SearchRequest, timeout_s: float) -> pb.SearchResponse:
        """Call ``Search``."""
        ...

    def get_thumbnails(self, request: pb.GetThumbnailsRequest, timeout_s: float) -> pb.GetThumbnailsResponse:
        """Call ``GetThumbnails``."""
        ...

    def put_head(self, request: pb.PutHeadRequest, timeout_s: float) -> pb.PutHeadResponse:
        """Call ``PutHead``."""
        ...

    def get_head_gradient(self, request: pb.GetHeadGradientRequest, timeout_s: float) -> pb.GetHeadGradientResponse:
        """Call ``GetHeadGradient``."""
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
    def __init__(self, call: Any, address: str, timeout_s: float, request: str):
        self._call, self._address, self._timeout_s, self._request = call, address, timeout_s, request

    def result(self) -> VectorsReply:
        try:
            return decode_reply(self._bytes())
        except grpc.RpcError as error:
            raise translated(error, self._address, self._timeout_s, self._request) from None
        except ValueError as error:
            raise broken(self._address, str(error)) from None

    def _bytes(self) -> bytes:
        """What came; a server that is silent for long is said to be."""
        with suppress(grpc.FutureTimeoutError):
            early: bytes = self._call.result(timeout=SILENT_S)
            return early
        log.warning(
            "The image server at %s has been silent for %.0f s: it computes images that are not stored, or it hangs. "
            "Waiting for at most %.0f s more.",
            *(self._address, SILENT_S, max(0.0, self._timeout_s - SILENT_S)),
        )
        late: bytes = self._call.result()
        return late


class GrpcTransport:
    """A daemon at ``address``, or copies of one among which calls go round: see ``channel_target``.

    The channel is opened by the first call of each process, so that a transport that was made, or even used, before
    a fork works in the child too: a gRPC channel must not be used by a forked process.

    Args:
        address: of the server.
        security: TLS and token; None takes what the environment says.
    """

    def __init__(self, address: str, security: ClientSecurity | None = None):
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

    def _method(self, name: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        """One that takes and gives bytes, which are read here: gRPC would log a trace of those that it cannot read."""
        if self._channel is None or self._pid != os.getpid():
            if self._pid != os.getpid():
                self._lock = threading.Lock()  # the parent's may have been held during the fork
            with self._lock:
                if self._channel is None or self._pid != os.getpid():
                    self._token = self._security.token()
                    self._channel = open_channel(self.address, self._security, CONNECT_OPTIONS)
                    self._methods = {method: self._channel.unary_unary(path) for method, path in METHODS.items()}
                    self._pid = os.getpid()
        return self._methods[name]

    def get_info(self, timeout_s: float) -> pb.GetInfoResponse:
        """Call ``GetInfo``."""
        return self._call("GetInfo", pb.GetInfoRequest(), pb.GetInfoResponse, timeout_s)

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """Start ``GetVectors``."""
        method, number = self._method("GetVectors"), new_request_id()
        call = method.future(request.SerializeToString(), timeout=timeout_s, metadata=self._metadata(number))
        return _GrpcPending(call, self.address, timeout_s, number)

    def put_images(self, request: pb.PutImagesRequest, timeout_s: float) -> pb.PutImagesResponse:
        """Call ``PutImages``."""
        return self._call("PutImages", request, pb.PutImagesResponse, timeout_s)

    def search(self, request: pb.SearchRequest, timeout_s: float) -> pb.SearchResponse:
        """Call ``Search``."""
        return self._call("Search", request, pb.SearchResponse, timeout_s)

    def get_thumbnails(self, request: pb.GetThumbnailsRequest, timeout_s: float) -> pb.GetThumbnailsResponse:
        """Call ``GetThumbnails``."""
        return self._call("GetThumbnails", request, pb.GetThumbnailsResponse, timeout_s)

    def put_head(self, request: pb.PutHeadRequest, timeout_s: float) -> pb.PutHeadResponse:
        """Call ``PutHead``."""
        return self._call("PutHead", request, pb.PutHeadResponse, timeout_s)

    def get_head_gradient(self, request: pb.GetHeadGradientRequest, timeout_s: float) -> pb.GetHeadGradientResponse:
        """Call ``GetHeadGradient``."""
        return self._call("GetHeadGradient", request, pb.GetHeadGradientResponse, timeout_s)

    def _metadata(self, request: str) -> Metadata:
        token = () if self._token is None else self._token.now()
        return ((REQUEST_ID_KEY, request), *token)

    def _call(self, name: str, request: Message, kind: type[Reply], timeout_s: float) -> Reply:
        method, number = self._method(name), new_request_id()
        try:
            reply = method(request.SerializeToString(), timeout=timeout_s, metadata=self._metadata(number))
        except grpc.RpcError as error:
            raise translated(error, self.address, timeout_s, number) from None
        return replies.parsed(kind, reply, self.address)

    def close(self) -> None:
        """Close the channel."""
        if self._channel is not None and self._pid == os.getpid():
            self._channel.close()
        self._channel = None


class LocalTransport:
    """Calls an object with the methods of the service (``get_info``, ``get_vectors``, ``put_images``, …), right here.

    ``imgserver.open_local(path)`` makes such an object over a store. The transport closes it when it is closed.
    """

    address = "(in this process)"

    def __init__(self, service: Any):
        self._service = service

    def get_info(self, timeout_s: float) -> pb.GetInfoResponse:
        """Call ``get_info`` of the service."""
        reply: pb.GetInfoResponse = self._service.get_info()
        return reply

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """Run ``get_vectors`` of the service, here and now."""
        done: Future[VectorsReply] = Future()
        try:
            done.set_result(self._service.get_vectors(request, deadline=time.monotonic() + timeout_s))
        except CrossMediaError as error:
            done.set_exception(error)
        return done

    def put_images(self, request: pb.PutImagesRequest, timeout_s: float) -> pb.PutImagesResponse:
        """Call ``put_images`` of the service."""
        reply: pb.PutImagesResponse = self._service.put_images(request, deadline=time.monotonic() + timeout_s)
        return reply

    def search(self, request: pb.SearchRequest, timeout_s: float) -> pb.SearchResponse:
        """Call ``search`` of the service."""
        reply: pb.SearchResponse = self._service.search(request, deadline=time.monotonic() + timeout_s)
        return reply

    def get_thumbnails(self, request: pb.GetThumbnailsRequest, timeout_s: float) -> pb.GetThumbnailsResponse:
        """Call ``get_thumbnails`` of the service."""
        reply: pb.GetThumbnailsResponse = self._service.get_thumbnails(request, deadline=time.monotonic() + timeout_s)
        return reply

    def put_head(self, request: pb.PutHeadRequest, timeout_s: float) -> pb.PutHeadResponse:
        """Call ``put_head`` of the service."""
        reply: pb.PutHeadResponse = self._service.put_head(request, deadline=time.monotonic() + timeout_s)
        return reply

    def get_head_gradient(self, request: pb.GetHeadGradientRequest, timeout_s: float) -> pb.GetHeadGradientResponse:
        """Call ``get_head_gradient`` of the service."""
        reply: pb.GetHeadGradientResponse = self._service.get_head_gradient(
            request, deadline=time.monotonic() + timeout_s
        )
        return reply

    def close(self) -> None:
        """Close the service."""
        self._service.close()
