"""A daemon in the background: start it as a process of its own, and stop it. Nothing heavy is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from crossmedia.errors import BadInput, ServerFault, ServerUnavailable
from crossmedia.imgserver.running import GRACE_S, Daemon, make_writable, running_daemon
from crossmedia.interrupts import undone_if_interrupted
from crossmedia.secret_files import private_opener

LOG_FILE = "daemon.log"


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
    make_writable(store)
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
