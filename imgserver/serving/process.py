"""The process of a daemon: signals, and the file that says where it is (``background.py`` starts it aside)."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict

import grpc
import torch

from crossmedia.allocator import keep_freed_memory
from crossmedia.errors import BadInput
from crossmedia.hosts import host_and_port, ip_of, written
from crossmedia.imgserver.places import DAEMON_FILE, is_url
from crossmedia.imgserver.running import GRACE_S, Daemon, locked, make_writable, running_daemon
from crossmedia.imgserver.serve_config import ServeConfig
from crossmedia.imgserver.serving.grpc_server import GrpcServer
from crossmedia.imgserver.serving.misses import CLOSE_S
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.serving.totals import ServiceTotals
from crossmedia.imgserver.vision.decode import ImageLimits
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.notes import note
from crossmedia.secret_files import private_opener
from crossmedia.service.open_files import allowed_connections
from crossmedia.service.security import ServerSecurity
from crossmedia.service.tracing import tracing

log = logging.getLogger(__name__)

MEGABYTE = 1 << 20


def serve(config: ServeConfig, on_ready: Callable[[Daemon], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain: no new calls, those under way end, the store is closed.

    Args:
        config: what is served, where, and to whom.
        on_ready: called with the ``Daemon`` once calls are taken.

    Raises:
        BadInput: another daemon serves this store, its folder cannot be written, there is nothing to serve, the address
            cannot be bound, or a file of ``security`` cannot be used.
    """
    make_writable(config.own_folder)
    try:
        with locked(config.own_folder), tracing(config.otel) as interceptors:
            file = config.own_folder / DAEMON_FILE
            file.unlink(missing_ok=True)  # a killed one's
            try:
                _serve(config, on_ready, interceptors)
            finally:
                file.unlink(missing_ok=True)  # who waits for the end waits for this: the store is closed by now
    except BlockingIOError:
        other = running_daemon(config.own_folder)
        raise BadInput(
            f"The store {config.own_folder} is already served"
            f"{f' by process {other.pid} at {other.address}' if other else ''}. "
            f"Stop it with 'imgserver stop --store {config.own_folder}'."
        ) from None
    log.info("stopped")


def _service_config(config: ServeConfig) -> ServiceConfig:
    return ServiceConfig(
        config.store,
        PhotoSource(
            config.catalogue or "",
            ImageLimits(config.max_image_mb * MEGABYTE),
            config.read_timeout_s,
            config.photo_roots,
        ),
        max_pending_ids=config.max_pending_ids,
        negative_ttl_s=config.negative_ttl_s,
        threads=config.threads,
        ownership=config.ownership,
        folder=config.folder,
    )


def _security(config: ServeConfig) -> ServerSecurity:
    """Who may call it; what those on the network can do else is logged."""
    security = ServerSecurity(
        config.tls_cert, config.tls_key, config.tls_client_ca, config.tokens, config.max_ids_per_second
    )
    for warning in security.warnings(config.host):
        log.warning("%s", warning)
    return security


def _serve(
    config: ServeConfig, on_ready: Callable[[Daemon], None], interceptors: Sequence[grpc.ServerInterceptor]
) -> None:
    address, metrics_port, security = config.address, config.metrics_port, _security(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)  # of heads that learn
    max_connections = allowed_connections()
    service = ImageService(_service_config(config))
    try:
        _say_if_empty(service)
        server = GrpcServer(service, address, security, interceptors, max_connections)
        server.start()
        if metrics_port is not None:
            service.metrics.registry.register(ServiceTotals(service))
            metrics_port = service.metrics.listen(host_and_port(address)[0], metrics_port)
        daemon = Daemon(os.getpid(), _from_here(server.address), metrics_port)
        file = config.own_folder / DAEMON_FILE
        part = file.with_suffix(f".{daemon.pid}")
        with open(part, "w", opener=private_opener) as out:
            out.write(note(asdict(daemon)))
        os.replace(part, file)
        on_ready(daemon)
        while not stop.wait(1.0):
            pass
        log.info("draining for at most %.0f s", GRACE_S)
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


def _from_here(address: str) -> str:
    """Where commands of this machine reach a server that listens everywhere: no certificate names such an address."""
    host, port = host_and_port(address)
    found = ip_of(host)
    if found is None or not found.is_unspecified:
        return address
    return written("::1" if found.version == 6 else "127.0.0.1", port)
