"""The image service at an address: what each of its methods takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from crossmedia.imgserver import wire
from crossmedia.imgserver.serving.health import PROBE_AFTER_S, SeesPhotos
from crossmedia.imgserver.serving.requests import images_in
from crossmedia.imgserver.serving.scopes import SCOPE_OF
from crossmedia.imgserver.serving.service import ImageService
from crossmedia.imgserver.wire import Method
from crossmedia.service.grpc_server import Answer, Api, GrpcServer, Handled
from crossmedia.service.security import OPEN, ServerSecurity


def api_of(service: ImageService) -> Api:
    """The methods of a service."""
    handled = {
        method.name: Handled(method.request, _answer(service, method), SCOPE_OF.get(method.path, "admin"))
        for method in wire.METHODS
    }
    return Api(
        title="image server",
        name=wire.SERVICE_NAME,
        methods=handled,
        admission=service.admission,
        durations=service.metrics.rpc_duration,
        max_message_bytes=service.config.max_message_bytes,
        amount=images_in,
    )


def _answer(service: ImageService, method: Method[Any]) -> Answer:
    if method == wire.GET_VECTORS:
        return lambda request, deadline, on_end: wire.encode_reply(service.get_vectors(request, deadline, on_end))
    if method == wire.SEARCH:
        return service.search
    return lambda *call: service.answer(method, *call).SerializeToString()


def image_server(
    service: ImageService,
    address: str,
    security: ServerSecurity = OPEN,
    interceptors: Sequence[grpc.ServerInterceptor] = (),
    max_connections: int | None = None,
) -> GrpcServer:
    """A service at an address; arguments and errors as of ``GrpcServer``."""
    work = SeesPhotos(service)
    return GrpcServer(api_of(service), work, PROBE_AFTER_S, address, security, interceptors, max_connections)
