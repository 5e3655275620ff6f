"""The process around the daemon: start, in front or in the background, signals, and the file that says where it is."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import torch

from imgserver.allocator import keep_freed_memory
from imgserver.errors import BadInput, ServerFault, ServerUnavailable
from imgserver.interrupts import undone_if_interrupted
from imgserver.notes import note, read_note
from imgserver.places import DAEMON_FILE
from imgserver.secret_files import private_opener
from imgserver.serving.grpc_server import GrpcServer
from imgserver.serving.open_files import allowed_connections
from imgserver.serving.security import OPEN, ServerSecurity
from imgserver.serving.service import ImageService, ServiceConfig

log = logging.getLogger(__name__)

LOCK_FILE = "daemon.lock"
LOCK_TRIES = 5
LOG_FILE = "daemon.log"
GRACE_S = 10.0


EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True)
class Daemon:
    """A running daemon.

    Attributes:
        pid: its process.
        address: where it answers on this machine.
        metrics_port: where it serves metrics over HTTP; None: nowhere.
    """

    pid: int
    address: str
    metrics_port: int | None = None


def running_daemon(store: Path) -> Daemon | None:
    """The daemon that serves ``store`` on this machine, or None."""
    try:
        daemon = Daemon(**read_note((store / DAEMON_FILE).read_bytes()))
        with _lock(store, fcntl.LOCK_SH):
            return None  # no daemon holds it: the file was left behind by a kill
    except BlockingIOError:
        return daemon
    except (OSError, ValueError, TypeError):
        return None


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        open(folder / LOCK_FILE, "a", opener=private_opener).close()
    except OSError as error:
        raise BadInput(
            f"The folder {folder} cannot be written: {error}. Choose another one, or let this user write there."
        ) from error


@contextmanager
def _lock(store: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold what only one daemon of a store can; a process id would not do, for another program may have it by now.

    Raises:
        BlockingIOError: a daemon holds it.
    """
    with open(store / LOCK_FILE, "a", opener=private_opener) as file:
        for left in reversed(range(LOCK_TRIES)):  # who only looks holds it for a moment too
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left or kind == fcntl.LOCK_SH:
                    raise
                time.sleep(0.05)
        yield


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
        address: ``host:port``.
        metrics_port: serve metrics over HTTP there, on the same host; 0 takes a free port, None serves none.
        on_ready: called with the ``Daemon`` once calls are taken.
        security: who may call it, and how.
        interceptors: around every call, such as those of ``tracing``.

    Raises:
        BadInput: another daemon serves this store, its folder cannot be written, the port is taken, or a file of
            ``security`` cannot be used.
    """
    _make_writable(config.own_folder)
    try:
        with _lock(config.own_folder):
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
        server = GrpcServer(service, address, security, interceptors, max_connections)
        server.start()
        if metrics_port is not None:
            metrics_port = service.metrics.listen(address.rpartition(":")[0], metrics_port)
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
        server.stop(GRACE_S)
    finally:
        service.close()


def _from_here(address: str) -> str:
    """Where commands of this machine reach a server that listens everywhere: no certificate names such an address."""
    host, _, port = address.rpartition(":")
    return f"{EVERYWHERE.get(host, host)}:{port}"


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
            [sys.executable, "-m", "imgserver", "serve", *arguments],
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
