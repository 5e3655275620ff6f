"""The process of a daemon: one for a folder, until it is told to end (``background.py`` starts it aside)."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

from crossmedia.allocator import keep_freed_memory
from crossmedia.errors import BadInput
from crossmedia.hosts import host_and_port, ip_of, written
from crossmedia.notes import note
from crossmedia.secret_files import private_opener
from crossmedia.service.running import DAEMON_FILE, GRACE_S, Daemon, Program, locked, make_writable, running_daemon

log = logging.getLogger(__name__)

OpenServer = Callable[[], AbstractContextManager[Daemon]]


def run(
    program: Program,
    folder: Path,
    open_server: Callable[[], AbstractContextManager[Daemon]],
    say: Callable[[Daemon], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: no new calls, those under way end within ``GRACE_S``.

    Args:
        program: what serves.
        folder: held while it runs; the file that says where it answers lies there.
        open_server: the server, answering calls for the time of a block; it drains at the end of one without error.
        say: called with where it answers from this machine, once calls are taken.

    Raises:
        BadInput: another daemon holds the folder, it cannot be written, or what ``open_server`` raises.
    """
    make_writable(folder)
    try:
        with locked(folder):
            file = folder / DAEMON_FILE
            file.unlink(missing_ok=True)  # a killed one's
            try:
                _run(file, open_server, say)
            finally:
                file.unlink(missing_ok=True)  # who waits for the end waits for this: all is closed by now
    except BlockingIOError:
        other = running_daemon(folder)
        raise BadInput(
            f"The {program.folder} {folder} is already served"
            f"{f' by process {other.pid} at {other.address}' if other else ''}. "
            f"Stop it with '{program.command} stop --{program.folder} {folder}'."
        ) from None
    log.info("stopped")


def _run(file: Path, open_server: OpenServer, say: Callable[[Daemon], None]) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keep_freed_memory()
    with open_server() as listening:
        daemon = replace(listening, address=_from_here(listening.address))
        part = file.with_suffix(f".{daemon.pid}")
        with open(part, "w", opener=private_opener) as out:
            out.write(note(asdict(daemon)))
        os.replace(part, file)
        say(daemon)
        while not stop.wait(1.0):
            pass
        log.info("draining for at most %.0f s", GRACE_S)


def _from_here(address: str) -> str:
    """Where commands of this machine reach a server that listens everywhere: no certificate names such an address."""
    host, port = host_and_port(address)
    found = ip_of(host)
    if found is None or not found.is_unspecified:
        return address
    return written("::1" if found.version == 6 else "127.0.0.1", port)
