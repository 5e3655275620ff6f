"""The image server as a daemon: service, gRPC and metrics around it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from crossmedia.errors import BadInput
from crossmedia.hosts import host_and_port
from crossmedia.imgserver.places import IMAGE_SERVER, is_url
from crossmedia.imgserver.serve_config import ServeConfig
from crossmedia.imgserver.serving.grpc_server import image_server
from crossmedia.imgserver.serving.misses import CLOSE_S
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.serving.totals import ServiceTotals
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.imgserver.vision.text_source import TextSource
from crossmedia.service.open_files import allowed_connections
from crossmedia.service.process import run
from crossmedia.service.running import GRACE_S, Daemon
from crossmedia.service.security import ServerSecurity
from crossmedia.service.tracing import tracing

CALLERS_CAN = "read the vectors and the thumbnails, and replace photos or texts by others"
log = logging.getLogger(__name__)


def serve(config: ServeConfig, on_ready: Callable[[Daemon], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain: no new calls, those under way end, the store is closed.

    Args:
        config: what is served, where, and to whom.
        on_ready: called with the ``Daemon`` once calls are taken.

    Raises:
        BadInput: another daemon serves this store, its folder cannot be written, there is nothing to serve, the address
            cannot be bound, or a file of ``security`` cannot be used.
    """
    run(IMAGE_SERVER, config.own_folder, lambda: _open(config), on_ready)


def _source(config: ServeConfig) -> PhotoSource:
    if config.texts is not None:
        source = TextSource.of(config.texts, config.text, config.key, store=config.own_folder)
        return replace(source, timeout_s=config.read_timeout_s)
    return PhotoSource.of_options(config.catalogue, config.max_image_mb, config.read_timeout_s, config.photo_roots)


def _service_config(config: ServeConfig) -> ServiceConfig:
    return ServiceConfig(
        config.store,
        _source(config),
        max_pending_ids=config.max_pending_ids,
        negative_ttl_s=config.negative_ttl_s,
        machine=Machine(
            config.threads, config.decode_threads, config.batch_size, config.devices, compile=config.compile
        ),
        ownership=config.ownership,
        folder=config.folder,
        guarded=config.tokens is not None,
    )


def _security(config: ServeConfig) -> ServerSecurity:
    """Who may call it. What an open server lets others on the network do is logged."""
    security = ServerSecurity(
        config.tls_cert, config.tls_key, config.tls_client_ca, config.tokens, config.max_ids_per_second
    )
    for warning in security.warnings(config.host, CALLERS_CAN):
        log.warning("%s", warning)
    return security


@contextmanager
def _open(config: ServeConfig) -> Iterator[Daemon]:
    address, port, security = config.address, config.metrics_port, _security(config)
    if config.threads:
        torch.set_num_threads(config.threads)  # of heads that learn
    max_connections = allowed_connections()
    with tracing(config.otel) as interceptors:
        service = ImageService(_service_config(config))
        try:
            _say_if_empty(service)
            server = image_server(service, address, security, interceptors, max_connections)
            server.start()
            if port is not None:
                service.metrics.registry.register(ServiceTotals(service))
                port = service.metrics.listen(host_and_port(address)[0], port)
            yield Daemon(os.getpid(), server.address, port)
            server.stop(GRACE_S - CLOSE_S)  # the rest is for photos that are being decoded
        finally:
            service.close()


def _say_if_empty(service: ImageService) -> None:
    """Say that there are no vectors yet, or refuse to serve if none can ever be computed.

    Raises:
        BadInput: there are neither vectors nor photos; or there are texts, and vectors of photos.
    """
    store = service.store
    if service.served.active is not None:
        if wrong := service.photos.other_kind(service.served.active.version):
            raise BadInput(f"The store {store} cannot be served so: {wrong}.")
        return
    if service.catalogue is None and not is_url(service.config.store):
        raise BadInput(
            f"The store {store} has no vectors, and without --catalogue or --texts there is nothing to make them of. "
            f"{store.filling_advice}."
        )
    log.warning("The store %s has no vectors yet. %s; this server will see the result.", store, store.filling_advice)
