"""The scoring server as a daemon: models, service, gRPC, REST and metrics around it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from crossmedia.hosts import host_and_port, written
from crossmedia.imgserver.client import ImageClient
from crossmedia.service.grpc_server import GrpcServer
from crossmedia.service.http_server import HttpServer
from crossmedia.service.open_files import allowed_connections
from crossmedia.service.process import run
from crossmedia.service.running import GRACE_S, Daemon
from crossmedia.service.security import ServerSecurity
from crossmedia.service.tracing import tracing
from crossmedia.trainer.serving.api import api_of
from crossmedia.trainer.serving.items import FollowedItems
from crossmedia.trainer.serving.models import Models
from crossmedia.trainer.serving.rest import rest_of
from crossmedia.trainer.serving.served import ServedModel
from crossmedia.trainer.serving.service import Limits, ScoringService
from crossmedia.trainer.serving.settings import SCORING_SERVER, ServingConfig
from crossmedia.words import bytes_in

CALLERS_CAN = "have users scored, and replace a model by another that lies beside it"
PROBE_AFTER_S = 10.0
log = logging.getLogger(__name__)


def serve(models: Sequence[Path], config: ServingConfig, on_ready: Callable[[Daemon], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain: no new calls, those under way end.

    Args:
        models: run folders, or exported files.
        config: where they are served, with what, and to whom.
        on_ready: called with the ``Daemon`` once calls are taken.

    Raises:
        BadInput: a model cannot be served, the folder is held by another server or cannot be written, an address cannot
            be bound, or a file of ``config`` cannot be used.
    """
    run(SCORING_SERVER, config.folder, lambda: _open(models, config), on_ready)


def _client(config: ServingConfig, address: str) -> ImageClient:
    return ImageClient(address, timeout_s=config.vectors_timeout_s, cache_bytes=bytes_in(config.cache))


@contextmanager
def _open(paths: Sequence[Path], config: ServingConfig) -> Iterator[Daemon]:
    address = config.address
    security = ServerSecurity(config.tls_cert, config.tls_key, config.tls_client_ca, config.tokens)
    for warning in security.warnings(config.host, CALLERS_CAN):
        log.warning("%s", warning)
    connections = allowed_connections()
    torch.set_num_threads(1)  # requests are computed side by side
    with ExitStack() as stack:
        interceptors = stack.enter_context(tracing(config.otel))
        load = partial(ServedModel.load, config=config, client=partial(_client, config))
        models = Models([load(path, "") for path in paths], load)
        stack.callback(models.close)
        if config.items is not None:
            stack.enter_context(FollowedItems(config.items, models))
        limits = Limits(config.threads, config.max_candidates, config.max_pending, config.max_wait_s)
        service = ScoringService(models, limits)
        server = GrpcServer(api_of(service), service, PROBE_AFTER_S, address, security, interceptors, connections)
        service.ready = lambda: server.health.serving
        host, port = host_and_port(address)[0], config.metrics_port
        rest = None
        if config.rest_port is not None:
            rest = HttpServer(rest_of(service), written(host, config.rest_port), security)
            rest.start()
            log.info("REST answers at %s", rest.at)
        server.start()
        for model, _ in models.roles():
            log.info("serving %s %s of %s", model.name, model.version, model.path)
        if port is not None:
            port = service.metrics.listen(host, port)
        yield Daemon(os.getpid(), server.address, port, rest.port if rest else None)
        server.stop(GRACE_S - 1)
        if rest is not None:
            rest.stop(1)
