"""The image server as a daemon: service, gRPC and metrics around it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import torch

from crossmedia.errors import BadInput
from crossmedia.hosts import host_and_port
from crossmedia.imgserver.places import IMAGE_SERVER, is_url
from crossmedia.imgserver.serving.grpc_server import GrpcServer
from crossmedia.imgserver.serving.misses import CLOSE_S
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.service.open_files import allowed_connections
from crossmedia.service.process import GRACE_S, run
from crossmedia.service.running import Daemon
from crossmedia.service.security import OPEN, ServerSecurity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Where a daemon listens, and to whom.

    Attributes:
        address: ``host:port`` or ``[IPv6]:port``.
        metrics_port: serve metrics over HTTP there, on the same host; 0 takes a free port, None serves none.
        security: who may call, and how.
        interceptors: around every call, such as those of ``tracing``.
    """

    address: str
    metrics_port: int | None = None
    security: ServerSecurity = OPEN
    interceptors: Sequence[grpc.ServerInterceptor] = ()


def serve(config: ServiceConfig, listening: Listening, on_ready: Callable[[Daemon], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain: no new calls, those under way end, the store is closed.

    Args:
        config: what is served.
        listening: where, and to whom.
        on_ready: called with the ``Daemon`` once calls are taken.

    Raises:
        BadInput: another daemon serves this store, its folder cannot be written, there is nothing to serve, the address
            cannot be bound, or a file of ``security`` cannot be used.
    """
    run(IMAGE_SERVER, config.own_folder, lambda: _open(config, listening), on_ready)


@contextmanager
def _open(config: ServiceConfig, listening: Listening) -> Iterator[Daemon]:
    if config.threads:
        torch.set_num_threads(config.threads)  # of heads that learn
    max_connections = allowed_connections()
    service = ImageService(config)
    try:
        _say_if_empty(service)
        server = GrpcServer(service, listening.address, listening.security, listening.interceptors, max_connections)
        server.start()
        port = listening.metrics_port
        if port is not None:
            port = service.metrics.listen(host_and_port(listening.address)[0], port)
        yield Daemon(os.getpid(), server.address, port)
        server.stop(GRACE_S - CLOSE_S)  # the rest is for photos that are being decoded
    finally:
        service.close()


def _say_if_empty(service: ImageService) -> None:
    """A server without vectors answers nothing yet; one that computes none either is a slip of the pen.

    Raises:
        BadInput: there are neither vectors nor photos.
    """
    if service.served.active is not None:
        return
    store = service.store
    if service.catalogue is None and not is_url(service.config.store):
        raise BadInput(
            f"The store {store} has no vectors, and without --catalogue there are no photos. {store.fill_hint}."
        )
    log.warning("The store %s has no vectors yet. %s; this server will see the result.", store, store.fill_hint)
