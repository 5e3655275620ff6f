"""The process around the daemon: start, in front or in the background, signals, and the file that says where it is."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import grpc
import torch

from crossmedia.allocator import keep_freed_memory
from crossmedia.errors import BadInput, ServerFault, ServerUnavailable
from crossmedia.hosts import host_and_port, ip_of, written
from crossmedia.imgserver.places import DAEMON_FILE, is_url
from crossmedia.imgserver.running import LOCK_FILE, Daemon, locked, running_daemon
from crossmedia.imgserver.serving.grpc_server import GrpcServer
from crossmedia.imgserver.serving.misses import CLOSE_S
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.serving.totals import ServiceTotals
from crossmedia.interrupts import undone_if_interrupted
from crossmedia.notes import note
from crossmedia.secret_files import private_opener
from crossmedia.service.open_files import allowed_connections
from crossmedia.service.security import OPEN, ServerSecurity

log = logging.getLogger(__name__)

LOG_FILE = "daemon.log"
GRACE_S = 10.0


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        open(folder / LOCK_FILE, "a", opener=private_opener).close()
    except OSError as error:
        raise BadInput(
            f"The folder {folder} cannot be written: {error}. Choose another one, or let this user write there."
        ) from error


def serve(
    config: ServiceConfig,
    address: str,
    metrics_port: int | None,
    on_ready: Callable[[Daemon], None],
    security: ServerSecurity = OPEN,
    interceptors: Sequence[grpc.ServerInterceptor] = (),
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: no new calls, those under way end, the store is closed.

    Args:
        config: what is served.
        address: ``host:port`` or ``[IPv6]:port``.
        metrics_port: serve metrics over HTTP there, on the same host; 0 takes a free port, None serves none.
        on_ready: called with the ``Daemon`` once calls are taken.
        security: who may call it, and how.
        interceptors: around every call, such as those of ``tracing``.

    Raises:
        BadInput: another daemon serves this store, its folder cannot be written, there is nothing to serve, the address
            cannot be bound, or a file of ``security`` cannot be used.
    """
    _make_writable(config.own_folder)
    try:
        with locked(config.own_folder):
            file = config.own_folder / DAEMON_FILE
            file.unlink(missing_ok=True)  # a killed one's
            try:
                _serve(config, address, metrics_port, on_ready, security, interceptors)
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


def _serve(
    config: ServiceConfig,
    address: str,
    metrics_port: int | None,
    on_ready: Callable[[Daemon], None],
    security: ServerSecurity,
    interceptors: Sequence[grpc.ServerInterceptor],
) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)  # of heads that learn
    max_connections = allowed_connections()
    service = ImageService(config)
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


def serve_in_background(arguments: list[str], store: Path, timeout_s: float = 60.0) -> Daemon:
    """Start ``imgserver serve`` as a process of its own that outlives this one; return when it answers.

    Args:
        arguments: of ``imgserver serve``.
        store: the store it serves; its log goes to ``daemon.log`` there.
        timeout_s: seconds to wait for it.

    Raises:
        BadInput: another daemon serves this store, or its folder cannot be written.
        ServerFault: it ended, or did not answer in time; the message has the end of its log.
    """
    if other := running_daemon(store):
        raise BadInput(f"The store {store} is already served by process {other.pid} at {other.address}.")
    _make_writable(store)
    log_file = store / LOG_FILE
    with open(log_file, "ab", opener=private_opener) as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "crossmedia.imgserver", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s
    with undone_if_interrupted(process.terminate):
        while time.monotonic() < deadline and process.poll() is None:
            daemon = running_daemon(store)
            if daemon is not None and daemon.pid == process.pid:
                return daemon
            time.sleep(0.05)
    ended = process.poll()
    if ended is None:
        process.terminate()
    tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-5:])
    if ended == BadInput.exit_code:
        _, _, reason = tail.rpartition(" serve: ")  # this command says its own name
        raise BadInput(reason or "The image server refused to start.")
    raise ServerFault(f"The image server did not start. The end of {log_file}:\n{tail}")


def stop_daemon(store: Path, timeout_s: float = GRACE_S + 10.0) -> Daemon:
    """Ask the daemon of ``store`` to drain and end; return when it has.

    Raises:
        ServerUnavailable: there is none, or it does not end in time.
    """
    daemon = running_daemon(store)
    if daemon is None:
        raise ServerUnavailable(f"No image server runs for the store {store}.")
    os.kill(daemon.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while running_daemon(store) == daemon:
        if time.monotonic() > deadline:
            raise ServerUnavailable(f"Process {daemon.pid} did not end within {timeout_s:.0f} s of SIGTERM.")
        time.sleep(0.05)
    return daemon
