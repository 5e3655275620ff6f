"""The process around a daemon: one for a folder, in front or in the background, until it is told to end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

from crossmedia.allocator import keep_freed_memory
from crossmedia.errors import BadInput, ServerFault, ServerUnavailable
from crossmedia.hosts import host_and_port, ip_of, written
from crossmedia.interrupts import undone_if_interrupted
from crossmedia.notes import note
from crossmedia.secret_files import private_opener
from crossmedia.service.running import DAEMON_FILE, LOCK_FILE, Daemon, Program, locked, running_daemon

log = logging.getLogger(__name__)

LOG_FILE = "daemon.log"
GRACE_S = 10.0  # for calls under way when it ends

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
    _make_writable(folder)
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


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        open(folder / LOCK_FILE, "a", opener=private_opener).close()
    except OSError as error:
        raise BadInput(
            f"The folder {folder} cannot be written: {error}. Choose another one, or let this user write there."
        ) from error


def run_in_background(program: Program, folder: Path, arguments: list[str], timeout_s: float = 60.0) -> Daemon:
    """Start a daemon as a process of its own that outlives this one; return when it answers.

    Args:
        program: what serves.
        folder: of the daemon; its log goes to ``daemon.log`` there.
        arguments: of its command ``serve``.
        timeout_s: seconds to wait for it.

    Raises:
        BadInput: another daemon holds the folder, or it cannot be written.
        ServerFault: it ended, or did not answer in time; the message has the end of its log.
    """
    if other := running_daemon(folder):
        raise BadInput(f"The {program.folder} {folder} is already served by process {other.pid} at {other.address}.")
    _make_writable(folder)
    log_file = folder / LOG_FILE
    with open(log_file, "ab", opener=private_opener) as out:
        process = subprocess.Popen(
            [*program.argv, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + timeout_s
    with undone_if_interrupted(process.terminate):
        while time.monotonic() < deadline and process.poll() is None:
            daemon = running_daemon(folder)
            if daemon is not None and daemon.pid == process.pid:
                return daemon
            time.sleep(0.05)
    ended = process.poll()
    if ended is None:
        process.terminate()
    tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-5:])
    if ended == BadInput.exit_code:
        _, _, reason = tail.rpartition(" serve: ")  # this command says its own name
        raise BadInput(reason or f"The {program.title} refused to start.")
    raise ServerFault(f"The {program.title} did not start. The end of {log_file}:\n{tail}")


def stop_daemon(program: Program, folder: Path, timeout_s: float = GRACE_S + 10.0) -> Daemon:
    """Ask the daemon of a folder to drain and end; return when it has.

    Raises:
        ServerUnavailable: there is none, or it does not end in time.
    """
    daemon = running_daemon(folder)
    if daemon is None:
        raise ServerUnavailable(f"No {program.title} runs for the {program.folder} {folder}.")
    os.kill(daemon.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while running_daemon(folder) == daemon:
        if time.monotonic() > deadline:
            raise ServerUnavailable(f"Process {daemon.pid} did not end within {timeout_s:.0f} s of SIGTERM.")
        time.sleep(0.05)
    return daemon
